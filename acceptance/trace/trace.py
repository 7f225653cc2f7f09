"""The trace: for every token the target wrote, what both models thought of it and how likely its draft is accepted.

One trace answers every draft length, policy and metric (model §3); `estimators` and `policies` derive the numbers.
Arrays lie in `trace.npz`; what they mean and where they came from in `trace.json` beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simulator.ground.arrays import Numbers, read_arrays
from simulator.ground.artefacts import UserError, check_kind, envelope, file_sha256, read_hashed, write_json, writing
from simulator.ground.fields import read_json_object, shortened
from simulator.ground.traces import KIND, SCHEMA_VERSIONS, TOGETHER, UNIT, WHOLE

SINCE_3 = ("margin_q", "log_q", "log_q_rejected")
Q_KINDS = ("sampled", "greedy")
# What a draft with another tokenizer leaves unknown.
UNKNOWN_RANK = -1

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


def left_out() -> Floats:
    """Return an array of which nothing is known, however many positions it is of."""
    return np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInfo:
    """Where a prompt came from: a name that finds it again, and the category its data set gives it, or ""."""

    source: str
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Positions in reading order: prompt after prompt, turn after turn; every array has shape [positions].

    p and q are the target's and the draft's law at a position, as temperature, top-k and top-p made them. At
    temperature 0 they are point masses, and max_q, entropy_p, entropy_q and log_p are of the softmax at temperature 1.

    token: x, the token that the target wrote.
    accept_sampled: min(1, q(x) / p(x)): probability that a draft sampled from q is accepted, given that text.
    accept_greedy: whether x is the draft's first choice: what a draft that always proposes it accepts, given that text.
    log_p: ln p(x). rank_p, rank_q: tokens that the target, the draft prefers to x; 0: x is the first choice.
    max_q: the draft's largest probability. entropy_p, entropy_q: in nats.
    overlap: sum min(p, q): acceptance of a sampled draft before x is known. p_argmax_q: the same of a greedy draft.
    margin_q: by how much the draft's largest logit exceeds its second. log_q: ln q(x), of what a sampled draft proposed
    where it was accepted; log_q_rejected: of a token drawn from what is left of q, where it was not.
    prompt, turn, position: index of the prompt, of the turn in its conversation, of the token in the turn's output.
    context_length: tokens before it, the prompt's included.
    prompts: what `prompt` indexes. NaN and UNKNOWN_RANK stand where a draft with another tokenizer has no answer, and
    NaN for the arrays that a trace of version 2 has not; who leaves those out means the same.

    Raises:
        ValueError: Arrays of different lengths, an acceptance outside 0..1, or positions out of order.
    """

    token: Ints
    accept_sampled: Floats
    accept_greedy: NDArray[np.bool_]
    log_p: Floats
    rank_p: Ints
    rank_q: Ints
    max_q: Floats
    entropy_p: Floats
    entropy_q: Floats
    overlap: Floats
    p_argmax_q: Floats
    prompt: Ints
    turn: Ints
    position: Ints
    context_length: Ints
    prompts: tuple[PromptInfo, ...]
    margin_q: Floats = field(default_factory=left_out)
    log_q: Floats = field(default_factory=left_out)
    log_q_rejected: Floats = field(default_factory=left_out)

    def __post_init__(self) -> None:
        for name in SINCE_3:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(self.size, np.nan, np.float32))
        lengths = {name: len(getattr(self, name)) for name in ARRAYS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"arrays of a trace differ in length: {lengths}")
        if not ((self.accept_sampled >= 0) & (self.accept_sampled <= 1)).all():
            raise ValueError("accept_sampled holds a value outside 0..1")
        self.check_order()
        if len(self.prompt) and self.prompt[-1] >= len(self.prompts):
            raise ValueError(f"prompt {self.prompt[-1]} of a trace of {len(self.prompts)} prompts")

    def check_order(self) -> None:
        """Refuse positions that are not in reading order."""
        new_prompt = np.diff(self.prompt, prepend=-1)
        new_turn = np.diff(self.turn, prepend=-1)
        begins = (new_prompt != 0) | (new_turn != 0)
        expected = np.where(begins, 0, np.roll(self.position, 1) + 1)
        ordered = (new_prompt > 0) | ((new_prompt == 0) & (new_turn >= 0))
        if not (self.position == expected).all() or not ordered.all() or (self.turn < 0).any():
            raise ValueError("positions of a trace are not in reading order, prompt after prompt")

    @property
    def size(self) -> int:
        """Positions: tokens that the target wrote."""
        return len(self.token)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each output begins, and the end of the last; shape [outputs + 1]. An output is one turn's."""
        return np.append(np.flatnonzero(self.position == 0), self.size)

    @property
    def prompt_of_output(self) -> NDArray[np.int64]:
        """Index among the prompts that have an output, 0..measured_prompts - 1, of each output; shape [outputs]."""
        return np.cumsum(np.diff(self.prompt[self.starts[:-1]], prepend=-1) != 0) - 1

    @property
    def measured_prompts(self) -> int:
        """Prompts with at least one position."""
        return int(self.prompt_of_output.max(initial=-1)) + 1

    @property
    def category(self) -> NDArray[np.str_]:
        """Category of each position's prompt, shape [positions]."""
        return np.array([p.category for p in self.prompts] or [""])[self.prompt]

    def accept(self, q_kind: str) -> NDArray[np.float64]:
        """a[t] of model §3 for a draft that is "sampled" or "greedy", shape [positions]."""
        return np.asarray(self.kept_accept(q_kind), np.float64)

    def kept_accept(self, q_kind: str) -> NDArray[np.float32] | NDArray[np.bool_]:
        """The same as the trace has it: numbers of a sampled draft, flags of a greedy one."""
        return self.accept_sampled if q_kind == "sampled" else self.accept_greedy

    def select(self, chosen: NDArray[np.bool_]) -> "Trace":
        """Return the trace of some outputs; `chosen` has shape [positions] and takes or leaves whole outputs."""
        return Trace(**{name: getattr(self, name)[chosen] for name in ARRAYS}, prompts=self.prompts)


ROUNDED = 1e-3
# Logarithms of q are cut below, since top-k leaves tokens of no probability; margins above, where a second is none.
LEAST_LOG_Q, MOST_MARGIN = -104.0, 1e4
RANK, SHARE = replace(WHOLE, least=UNKNOWN_RANK), replace(UNIT, least=-ROUNDED, most=1 + ROUNDED, unknown=True)
NATS = Numbers(dtype=np.float32, least=-ROUNDED, unknown=True)
# What each array may hold; sums of probabilities may be off by rounding.
ARRAYS = {
    "token": WHOLE,
    "accept_sampled": UNIT,
    "accept_greedy": Numbers(dtype=np.bool_),
    "log_p": Numbers(dtype=np.float32, most=ROUNDED, bottomless=True),
    "rank_p": RANK,
    "rank_q": RANK,
    "max_q": SHARE,
    "entropy_p": NATS,
    "entropy_q": NATS,
    "overlap": SHARE,
    "p_argmax_q": SHARE,
    "margin_q": Numbers(dtype=np.float32, least=0, most=MOST_MARGIN, unknown=True),
    **dict.fromkeys(("log_q", "log_q_rejected"), replace(NATS, least=LEAST_LOG_Q, most=ROUNDED)),
    **dict.fromkeys(("prompt", "turn", "position", "context_length"), WHOLE),
}


def join(traces: Sequence[Trace]) -> Trace:
    """Join traces of the same prompts list whose prompts follow one another."""
    return Trace(
        **{name: np.concatenate([getattr(t, name) for t in traces]) for name in ARRAYS}, prompts=traces[0].prompts
    )


def save_arrays(file: IO[bytes], trace: Trace) -> None:
    """Write the arrays of a trace: of the same values the same bytes."""
    np.savez_compressed(file, **{name: getattr(trace, name) for name in ARRAYS})


def load_arrays(
    file: IO[bytes], prompts: tuple[PromptInfo, ...], where: str | Path = "a batch", version: int = SCHEMA_VERSIONS[-1]
) -> Trace:
    """Read the arrays of a trace, as many as its version has.

    Raises:
        UserError: Says what is wrong with them.
    """
    there = {name: numbers for name, numbers in ARRAYS.items() if version >= 3 or name not in SINCE_3}
    arrays = read_arrays(where, file.read(), there)
    try:
        return Trace(**arrays, prompts=prompts)
    except ValueError as error:
        raise UserError(f"{where}: not a trace ({error})") from None


def save_trace(folder: Path, trace: Trace, parameters: Mapping[str, Any], **extra: Any) -> tuple[Path, Path]:
    """Write `trace.npz`, then `trace.json`, which names its hash; returns both paths. extra: more keys of the JSON."""
    arrays, sidecar = folder / "trace.npz", folder / "trace.json"
    with writing(arrays, "wb") as file:
        save_arrays(file, trace)
    about = {
        "arrays": arrays.name,
        "arrays_sha256": file_sha256(arrays),
        "positions": trace.size,
        "prompts": [{"source": p.source, "category": p.category} for p in trace.prompts],
    }
    write_json(sidecar, envelope(KIND, SCHEMA_VERSIONS[-1], parameters) | about | extra)
    return arrays, sidecar


def load_trace(sidecar: Path) -> tuple[Trace, dict[str, Any]]:
    """Read a trace by its JSON; returns it and the measurement's parameters, `trace_sha256` among them.

    Raises:
        UserError: Names the file and what is wrong with it, or that the arrays beside it are of another trace.
    """
    about = read_json_object(sidecar)
    version = check_kind(sidecar, about, KIND, SCHEMA_VERSIONS)
    arrays, parameters = about.get("arrays"), about.get("parameters")
    if not isinstance(arrays, str) or Path(arrays).name != arrays:
        raise UserError(f"{sidecar}: arrays is {shortened(arrays)}, expected the name of the .npz beside it")
    if not isinstance(parameters, dict):
        raise UserError(f"{sidecar}: parameters is {shortened(parameters)}, expected an object")
    for name in ("temperature", "draft_temperature"):
        if not isinstance(parameters.get(name), int | float):
            raise UserError(f"{sidecar}: parameters.{name} is {shortened(parameters.get(name))}, expected a number")
    try:
        prompts = tuple(PromptInfo(source=str(p["source"]), category=str(p["category"])) for p in about["prompts"])
    except (KeyError, TypeError):
        raise UserError(f"{sidecar}: prompts is not a list of source and category") from None
    path = sidecar.parent / arrays
    data, found = read_hashed(path, about.get("arrays_sha256"), sidecar.name, of=TOGETHER)
    trace = load_arrays(BytesIO(data), prompts, path, version)
    if about.get("positions") != trace.size:
        raise UserError(f"{sidecar}: positions is {shortened(about.get('positions'))}, but {arrays} holds {trace.size}")
    return trace, parameters | {"trace_sha256": found}
