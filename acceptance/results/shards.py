"""Parts of one measurement that were made apart, on several machines or servers, and their trace as one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acceptance.trace.trace import ARRAYS, Trace
from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened

from .journal import first_difference

MOST = 1 << 16
WRITTEN = re.compile(r"(\d{1,5}(?:\+\d{1,5})*)/(\d{1,5})")
# What parts of one measurement may differ in: where they ran.
OF_MACHINES = ("shard", "trace_sha256", "merged_sha256", "device", "threads", "torch", "transformers", "servers")


class Shard(NamedTuple):
    """Every so many batches of a measurement: `3/16` are the third of each sixteen, `3+5/16` the fifth too.

    Batches are those of a whole measurement, so that shards have the numbers of one.
    """

    numbers: tuple[int, ...]
    of: int

    def takes(self, batch: int) -> bool:
        """Say whether a batch, counted from 0, is of this part."""
        return batch % self.of + 1 in self.numbers

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self.numbers) == self.of

    def __str__(self) -> str:
        return f"{'+'.join(map(str, self.numbers))}/{self.of}"


WHOLE = Shard((1,), 1)


def shard_of(text: str, what: str = "--shard") -> Shard:
    """Read a shard.

    Raises:
        UserError: It is none.
    """
    found = WRITTEN.fullmatch(text)
    numbers, of = (sorted(map(int, found[1].split("+"))), int(found[2])) if found else ([0], 0)
    if not 1 <= numbers[0] <= numbers[-1] <= of <= MOST or len(set(numbers)) < len(numbers):
        raise UserError(f"{what}: {shortened(text)} is not allowed, expected I/N, the I-th of N parts, such as 3/16")
    return Shard(tuple(numbers), of)


def own_of(batches: int, shard: Shard | None) -> list[int]:
    """Return the batches of a shard, of so many.

    Raises:
        UserError: There is none.
    """
    own = [number for number in range(batches) if shard is None or shard.takes(number)]
    if not own:
        raise UserError(
            f"--shard: {shard} has no prompts, as all make {batches} batches; expected fewer parts or a smaller "
            "--batch-size"
        )
    return own


def merged(parts: Sequence[tuple[Path, Trace, Mapping[str, Any]]]) -> tuple[Trace, dict[str, Any]]:
    """Return the trace of several parts, and its parameters; of all parts, what one measurement of the whole has.

    Raises:
        UserError: They are not of one measurement, or two hold the same prompt.
    """
    beginning, first, told = parts[0]
    holders: dict[int, Path] = dict.fromkeys(np.unique(first.prompt).tolist(), beginning)
    for path, trace, parameters in parts[1:]:
        if differs := first_difference(without(parameters), without(told)):
            raise UserError(f"--trace {path}: {differs} ({beginning}), expected shards of one measurement")
        if trace.prompts != first.prompts:
            raise UserError(f"--trace {path}: has other prompts than {beginning}, expected shards of one measurement")
        own = np.unique(trace.prompt).tolist()
        if (twice := next((prompt for prompt in own if prompt in holders), None)) is not None:
            held = f"holds {first.prompts[twice].source}, as {holders[twice]} does"
            raise UserError(f"--trace {path}: {held}, expected each shard once")
        holders |= dict.fromkeys(own, path)
    prompt = np.concatenate([trace.prompt for _, trace, _ in parts])
    order = np.argsort(prompt, kind="stable")
    arrays = {name: np.concatenate([getattr(trace, name) for _, trace, _ in parts])[order] for name in ARRAYS}
    sums = [parameters.get("trace_sha256") for _, _, parameters in parts]
    shard = union(parameters.get("shard") for _, _, parameters in parts)
    about = {name: value for name, value in told.items() if name not in ("shard", "trace_sha256")}
    about |= {"merged_sha256": sums} | ({} if shard.is_whole else {"shard": str(shard)})
    return Trace(**arrays, prompts=first.prompts), about


def without(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what parts of one measurement have in common."""
    return {name: value for name, value in parameters.items() if name not in OF_MACHINES}


def union(texts: Iterable[Any]) -> Shard:
    """Return all parts of a measurement that are there.

    Raises:
        UserError: They are parts of different sizes.
    """
    shards = [WHOLE if text is None else shard_of(str(text), "--trace: shard") for text in texts]
    if len({shard.of for shard in shards}) > 1:
        listed = " and ".join(str(shard) for shard in shards[:3])
        raise UserError(f"--trace: shards {listed} are of different sizes, expected those of one measurement")
    return Shard(tuple(sorted({number for shard in shards for number in shard.numbers})), shards[0].of)
