"""The options of `bench-server`: as --help shows them, and as the command takes them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from acceptance.models.bundled import BUNDLED
from acceptance.servers.client import Patience
from acceptance.servers.server import Server, servers_of
from acceptance.text.prompts import DATASETS
from calibration.servers.prompts import CHAT, COMPLETIONS, Manner
from simulator.answers.latency import Limit
from simulator.cli.serving_options import Loads, limits_of, loads_of
from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, is_given, stacked
from simulator.ground.fields import Malformed, parse_json, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.ranges import in_milliseconds
from simulator.ground.vocabulary import Seconds

IDS, TEXT = "ids", "text"
# Of arms that take turns, how many times each has one; of one arm alone.
TURNS, ALONE = 4, 1
MOST_REQUESTS = 1_000_000
# Options that say how long prompts are, beside a file that says what they are.
LENGTHS = {"prompts": "--isl", "workload": "--workload", "prefix": "--prefix", "turns": "--turns"}
LENGTHS |= {"think": "--think", "speed": "--speed"}


class SomeSeconds(Seconds):
    """A time in seconds, or with its unit, above 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one time."""
        seconds = super().convert(value, param, ctx)
        if not 0 < seconds < 1e7:
            self.fail(f"{in_milliseconds(str(value))} is not allowed, expected a time above 0 such as 60s", param, ctx)
        return seconds


SERVER_OPTIONS = stacked(
    click.argument("url", required=False),
    click.option("--arm", "arms", multiple=True, metavar="NAME=URL", help="A server by name; several take turns."),
    click.option("--model", help="Name that the server has for it.  [default: the first of /v1/models]"),
    click.option("--api", type=click.Choice((COMPLETIONS, CHAT)), default=COMPLETIONS, help="What is asked."),
)
PROMPT_OPTIONS = stacked(
    click.option(
        "--prompts", "said", help=f"File of prompts in any format of --format, or {BUNDLED}, in place of --isl."
    ),
    click.option("--format", "dataset", type=click.Choice(DATASETS), default="auto", help="Format of --prompts."),
    click.option("--column", help="Column or key of --prompts that holds the prompt.  [default: the usual ones]"),
    click.option(
        "--prompts-as",
        type=click.Choice((IDS, TEXT)),
        help="What prompts of a length are sent as.  [default: ids where the server has /tokenize]",
    ),
    click.option("--temperature", default=0.0, type=click.FloatRange(0, 100), help="Of sampling; 0: greedy."),
    click.option(
        "--ignore-eos/--no-ignore-eos",
        "ignore_end",
        default=None,
        help="Have answers go on to the length that is asked.  [default: unless --prompts]",
    ),
    click.option("--extra-body", "more", metavar="JSON", help="Further members of every request; they are written."),
)
RUN_OPTIONS = stacked(
    click.option(
        "--blocks",
        type=click.IntRange(1, 1000),
        help=f"Of a load, in which arms take turns.  [default: {TURNS}, of one server {ALONE}]",
    ),
    click.option("--duration", type=SomeSeconds(), help="Time of each load on each arm; behind it nothing is sent."),
    click.option("--timeout", default=600.0, type=SomeSeconds(), help="Time that an answer may take. [s]"),
    click.option("--stall", default=60.0, type=SomeSeconds(), help="Time without a byte that ends an answer. [s]"),
    click.option("--slo", metavar="LIMITS", help="Promises, such as ttft:500ms,tpot:20ms; also e2e: counts goodput."),
    click.option(
        "--draftN",
        "draft_length",
        type=click.IntRange(1, MAX_DRAFT_LENGTH),
        help="Draft length of a server whose counters do not tell it.",
    ),
    click.option("--seed", default=0, type=click.IntRange(0), help="Seed of lengths, arrivals and made text."),
    click.option("--out", type=FILE, help="JSONL, a line a request; the same command goes on behind it."),
    click.option("--before", type=FILE, help="What --out had of the same load before a change: what is held against."),
    click.option("--csv", type=FILE, help="Write a row for each load and arm (.csv or .parquet)."),
    click.option("--export-vllm", type=FILE, help="Write what `vllm bench serve --save-detailed` does."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("--force", is_flag=True, help="Overwrite files that exist."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What the user asked for; values: all that was parsed, for what makes traffic of it.

    blocks, count: None where the default holds.
    """

    servers: tuple[Server, ...]
    model: str | None
    manner: Manner
    loads: Loads
    limits: tuple[Limit, ...]
    said: str | None
    dataset: str
    column: str | None
    prompts_as: str | None
    count: int | None
    blocks: int | None
    duration: float | None
    patience: Patience
    warmup: float
    draft_length: int | None
    seed: int
    out: Path | None
    before: Path | None
    csv: Path | None
    export_vllm: Path | None
    as_json: bool
    force: bool
    values: Mapping[str, Any]

    def parameters(self) -> dict[str, Any]:
        """Return what was measured, under plain keys: of two runs that are one, the same."""
        own = self.values
        names = ("answers", "burstiness", "prefix", "turns", "think")
        told = {name: own[name] for name in names}
        told |= {"prompts": None if self.said else own["prompts"], "said": self.said, "column": self.column}
        told |= {"workload": own["workload"] and str(own["workload"]), "format": self.dataset}
        return told | {
            "arms": {server.name: server.url for server in self.servers},
            "model": self.model,
            "api": self.manner.api,
            "temperature": self.manner.temperature,
            "ignore_eos": self.manner.ignore_end,
            "extra_body": dict(self.manner.more),
            "prompts_as": self.prompts_as,
            "loads": list(self.loads.values),
            "load_kind": self.loads.kind,
            "requests": self.count,
            "blocks": self.blocks,
            "duration_s": self.duration,
            "timeout_s": self.patience.whole_s,
            "stall_s": self.patience.stall_s,
            "seed": self.seed,
        }


@contextmanager
def asked_by(option: str) -> Iterator[None]:
    """Have what is wrong with servers said in the words of another command, which names them by an option of its own.

    Raises:
        UserError: Something is.
    """
    try:
        yield
    except UserError as error:
        said = str(error).replace("--arm ", f"{option} ").replace("--out ", "").replace(", or --model", "")
        raise UserError(said) from None


def options_of(values: Mapping[str, Any]) -> BenchOptions:
    """Return options from what click parsed.

    Raises:
        UserError: Some are not allowed, alone or together.
    """
    context = click.get_current_context()
    if (values["requests"] or 0) > MOST_REQUESTS:
        raise UserError(f"--requests: {values['requests']:,} of a real server, expected at most {MOST_REQUESTS:,}")
    if values["said"] is not None:
        for name, option in LENGTHS.items():
            if is_given(context, name):
                raise UserError(f"{option}: beside --prompts, which says what is asked; expected one of them")
        if values["prompts_as"] == IDS:
            raise UserError("--prompts-as: ids beside --prompts, which is text; expected text")
    elif values["column"] or is_given(context, "dataset"):
        raise UserError(f"{'--column' if values['column'] else '--format'}: of a file, expected --prompts beside it")
    if values["api"] == CHAT and values["prompts_as"] == IDS:
        raise UserError("--prompts-as: ids are no messages of a chat, expected text")
    if values["before"] is not None and values["arms"]:
        raise UserError("--before: of one server, expected URL and no --arm beside it")
    limits = limits_of(values["slo"])
    if any(limit.measure == "queueing" for limit in limits):
        raise UserError("--slo: queueing is not seen by clients, expected ttft, tpot or e2e")
    ignore_end = values["said"] is None if values["ignore_end"] is None else values["ignore_end"]
    manner = Manner(
        api=values["api"],
        temperature=values["temperature"],
        ignore_end=ignore_end,
        more=members(values["more"]),
    )
    names: tuple[str, ...] = ("model", "said", "dataset", "column", "prompts_as", "blocks", "duration", "warmup")
    names += ("draft_length", "seed", "before", "out", "csv", "export_vllm", "as_json", "force")
    return BenchOptions(
        servers=servers_of(values["url"], values["arms"]),
        manner=manner,
        loads=loads_of(values),
        limits=limits,
        count=values["requests"],
        patience=Patience(stall_s=values["stall"], whole_s=values["timeout"]),
        values=values,
        **{name: values[name] for name in names},
    )


def members(text: str | None) -> dict[str, Any]:
    """Return members of an object.

    Raises:
        UserError: The text is none, or one that takes the measure's place.
    """
    if text is None:
        return {}
    try:
        found = parse_json(text)
    except Malformed as error:
        raise UserError(f"--extra-body: {shortened(text)} is {error.what}, expected an object of JSON") from None
    if not isinstance(found, dict):
        raise UserError(f'--extra-body: {shortened(text)} is no object, expected one such as {{"top_p": 0.9}}')
    for name in ("stream", "stream_options", "model", "prompt", "messages", "n"):
        if name in found:
            raise UserError(f"--extra-body: {name} is this command's own, expected other members")
    return found
