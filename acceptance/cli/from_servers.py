"""`measure-acceptance` of models that servers run."""

from typing import Any

from acceptance.models.bundled import BUNDLED
from acceptance.models.gguf import FILES
from simulator.ground.artefacts import UserError

from .options import OF_SPEECH, MeasureOptions
from .ready import Ready, load_items, stated

# Of models that run here, or of distributions, which servers do not give.
NOT_OF_SERVERS = (
    *("device", "dtype", "quantization", "allow_pickle", "cross_tokenizer", "check_loop", "top_k", "top_p"),
    *OF_SPEECH,
    *FILES,
)
SCORED = (0.0, 1.0)
NOT_PARAMETERS = ("batch_size", "quantization")
SINGLE = (
    "the acceptance of a single token is counted on the text: without whole distributions, of which servers give none, "
    "its interval is somewhat wider"
)
ONE_MODEL = "target and draft are one model of one server, which accepts all but what differs by rounding"


def check_scored(options: MeasureOptions) -> None:
    """Refuse temperatures at which no engine scores text.

    Raises:
        UserError: Names the option.
    """
    for option, rule in zip(("--temperature", "--draft-temperature"), options.rules, strict=True):
        if rule.temperature not in SCORED:
            raise UserError(
                f"{option}: {rule.temperature:g} is not measured with servers, expected 0 or 1: engines score text at "
                "1, with vLLM's --logprobs-mode processed_logprobs too; other laws need --target and --draft here"
            )


def prepare(options: MeasureOptions) -> Ready:
    """Load items, and ask the servers."""
    check_scored(options)
    items = load_items(options)
    from acceptance.measure.from_servers import Measurement, Settings
    from acceptance.results.shards import own_of
    from acceptance.servers.server import url_of
    from acceptance.servers.sides import set_up
    from acceptance.text.conversation import Framing
    from acceptance.text.prompts import sha256_of

    named = {"target": options.target, "draft": options.draft}
    given = {"target": options.target_server or "", "draft": options.draft_server or ""}
    urls = {which: url_of(f"--{which}-server", url) for which, url in given.items()}
    sides = set_up(urls, {which: None if name == BUNDLED else name for which, name in named.items()})
    settings = Settings(
        rules=options.rules,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        together=options.batch_size,
        framing=Framing(chat_template=options.use_chat_template, system_prompt=options.system_prompt),
    )
    own = own_of(len(items.rows), options.part)
    measurement = Measurement(sides=sides, items=items.rows, own=own, settings=settings)
    parameters: dict[str, Any] = {n: v for n, v in stated(options).items() if n not in NOT_PARAMETERS}
    parameters |= {
        "prompts_read_as": getattr(items, "read_as", None),
        "draft_temperature": settings.rules[1].temperature,
        "prompt_count": len(items.rows),
        "items_sha256": sha256_of(items.rows),
        "target": sides.target.model,
        "draft": sides.draft.model,
        "servers": {which: side.engine.name for which, side in zip(named, sides, strict=True)},
        "approximation": None,
    }
    return Ready(
        count=len(own),
        together=1,
        parameters=parameters,
        notes=[
            *items.notes(),
            *([] if settings.rules[0].is_greedy else [SINGLE]),
            *([ONE_MODEL] if sides.target[1:3] == sides.draft[1:3] else []),
        ],
        measure=measurement.measure,
        left_out=measurement.left_out,
    )
