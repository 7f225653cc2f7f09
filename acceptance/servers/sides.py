"""A target and its draft on servers: which engines, models and lengths, and that a token means the same to both."""

from collections.abc import Mapping
from typing import NamedTuple

from simulator.ground.artefacts import UserError

from .answer import Failed
from .client import Client, Patience, run
from .engines import Asked, Engine, engine_of
from .server import ALONE, Server
from .told import model_of, tokens_told

# An answer that is not streamed comes when it is whole.
PATIENCE = Patience(connect_s=10, stall_s=1800, whole_s=1800)
SETUP = Patience(connect_s=10, stall_s=60, whole_s=60)
# By which tokenizers are told apart: words, numbers, spaces, letters of several bytes.
SAMPLE = (
    "def mean(values):\n    return sum(values) / len(values)  # 3.14159, 2026\n\tThe naïve café: 日本語, Ελλάδα, 🙂!\n"
)
SCORED = 16


class Side(NamedTuple):
    """A model on a server. longest: tokens it takes at most, None where its server does not tell."""

    engine: Engine
    url: str
    model: str
    longest: int | None

    def by(self, client: Client) -> Asked:
        """Return what asks it."""
        return Asked(client, self.engine, self.url, self.model)


class Sides(NamedTuple):
    """A target and its draft."""

    target: Side
    draft: Side

    @property
    def room(self) -> int:
        """Tokens of a text at most: behind what it scores, an engine writes one more."""
        return min(side.longest or 2**31 for side in self) - 1


def set_up(urls: Mapping[str, str], names: Mapping[str, str | None]) -> Sides:
    """Ask the servers of `target` and `draft` what they are; names: of models, None for the first of a server.

    Raises:
        UserError: One does not answer, scores no text, or has a tokenizer of its own.
    """

    async def work(client: Client) -> Sides:
        sides, samples = dict[str, Side](), dict[str, list[int] | None]()
        for which, url in urls.items():
            name, longest = await model_of(client, Server(ALONE, url), names[which], f"--{which}")
            try:
                samples[which] = await tokens_told(client, url, {"model": name}, SAMPLE)
            except Failed:
                samples[which] = None
            sample = samples[which]
            engine, why = await engine_of(client, url, name, (sample or list(range(1, SCORED)))[:SCORED])
            if engine is None:
                raise UserError(
                    f"--{which}-server: {url} scores no text that it is given ({why[:300]}), expected vLLM or SGLang"
                )
            sides[which] = Side(engine, url, name, longest)
        check_vocabulary(samples, Sides(**sides))
        return Sides(**sides)

    found: Sides = run(work, SETUP)
    return found


def check_vocabulary(samples: Mapping[str, list[int] | None], sides: Sides) -> None:
    """Refuse tokenizers that make other tokens of one text, and those of which nobody can tell."""
    target, draft = samples["target"], samples["draft"]
    if target is None or draft is None:
        if sides.target.engine is sides.draft.engine:
            return  # every token that is scored comes with what it stands for
        raise UserError(
            "--draft-server: one of two kinds of server has no /tokenize, by which one vocabulary is known; "
            "expected it, or both of one kind"
        )
    if target != draft:
        pairs = enumerate(zip(target, draft, strict=False))
        at, (one, other) = next((pair for pair in pairs if pair[1][0] != pair[1][1]), (0, (len(target), len(draft))))
        raise UserError(
            f"--draft-server: its tokenizer is not the target's: of one text token {at} is {other} in place of {one}; "
            "expected a draft of the same vocabulary"
        )
