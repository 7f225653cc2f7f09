"""The trace: for every token the target wrote, how likely the draft's proposal would have been accepted.

One trace answers every draft length (model §3); `estimators` derives the numbers. Arrays lie in `trace.npz`,
what they mean and where they came from in `trace.json` beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.artefacts import UserError, check_kind, envelope, read_json_object, write_json, writing

KIND = "acceptance_trace"
# 1: token, accept, prompt, position, context_length.
SCHEMA_VERSIONS = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Positions in reading order, prompt after prompt; every array has shape [positions].

    token: the token the target wrote. accept: a[t] of model §3, probability 0..1 that the draft's proposal for it is
    accepted. prompt: index of the prompt. position: index in the prompt's output, from 0. context_length: tokens
    before it, the prompt's included.

    Raises:
        ValueError: Arrays of different lengths, an acceptance outside 0..1, or positions out of order.
    """

    token: NDArray[np.int32]
    accept: NDArray[np.float64]
    prompt: NDArray[np.int32]
    position: NDArray[np.int32]
    context_length: NDArray[np.int32]

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays of a trace differ in length: {lengths}")
        if not ((self.accept >= 0) & (self.accept <= 1)).all():
            raise ValueError("accept holds a value outside 0..1")
        starts = np.diff(self.prompt, prepend=-1) != 0
        expected = np.where(starts, 0, np.roll(self.position, 1) + 1)
        if not (self.position == expected).all() or not (np.diff(self.prompt) >= 0).all():
            raise ValueError("positions of a trace are not in reading order, prompt after prompt")

    @property
    def prompts(self) -> int:
        """Prompts with at least one position."""
        return len(np.unique(self.prompt))

    def by_prompt(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return `accept` as [prompts, longest], padded with 0, and each prompt's length, shape [prompts]."""
        _, row, lengths = np.unique(self.prompt, return_inverse=True, return_counts=True)
        dense = np.zeros((len(lengths), int(lengths.max(initial=0))))
        dense[row, self.position] = self.accept
        return dense, lengths


def join(traces: list[Trace]) -> Trace:
    """Join traces whose prompts follow one another."""
    return Trace(**{f.name: np.concatenate([getattr(t, f.name) for t in traces]) for f in fields(Trace)})


def save_trace(folder: Path, trace: Trace, parameters: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `trace.npz` and `trace.json`, each atomically; returns both paths.

    Args:
        folder: Where to write.
        trace: The arrays.
        parameters: What the measurement was told.
    """
    arrays, sidecar = folder / "trace.npz", folder / "trace.json"
    with writing(arrays, "wb") as file:
        np.savez_compressed(file, **{f.name: getattr(trace, f.name) for f in fields(Trace)})
    about = {"arrays": arrays.name, "positions": len(trace.accept), "prompts": trace.prompts}
    write_json(sidecar, envelope(KIND, SCHEMA_VERSIONS[-1], parameters) | about)
    return arrays, sidecar


def load_trace(sidecar: Path) -> Trace:
    """Read a trace by its JSON.

    Raises:
        UserError: Names the file and what is wrong with it.
    """
    about = read_json_object(sidecar)
    check_kind(sidecar, about, KIND, SCHEMA_VERSIONS)
    name = about.get("arrays")
    if not isinstance(name, str):
        raise UserError(f"{sidecar}: arrays is {name!r}, expected the name of the .npz beside it")
    path = sidecar.parent / name
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            trace = Trace(**{f.name: arrays[f.name] for f in fields(Trace)})
    except Exception as error:  # whatever zip, zlib, or the header's parser make of broken bytes
        raise UserError(f"{path}: not a trace ({error})") from None
    if about.get("positions") != len(trace.accept):
        raise UserError(f"{sidecar}: positions is {about.get('positions')!r}, but {name} holds {len(trace.accept)}")
    return trace
