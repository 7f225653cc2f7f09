"""What a decode.jsonl of `bench-decode --time-parts` tells: rounds of every method, and parts of rounds timed alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acceptance.results.parts import BLOCK, PARTS, Part, owner
from acceptance.results.records import latest
from acceptance.results.summary import summarise
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .decode import BASELINE, checked_records, device_name, target_name

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# What is decoded under the clock at once: its batch, and the run.
Turn = tuple[int, int]


class Rounds(NamedTuple):
    """Rounds of one output, [rounds]: drafted and accepted tokens, levels of the draft, and the draft's passes."""

    drafted: Ints
    accepted: Ints
    depth: Ints
    passes: Ints


class Phases(NamedTuple):
    """Seconds: drafting, the target's passes, and the rest."""

    draft: float
    verify: float
    rest: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.draft + self.verify + self.rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of an arm: its tokens, its rounds, and what they took."""

    tokens: int
    rounds: Rounds
    took: Phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A method under a name of its own.

    owner: what its parts are kept under. speedup: of decoding, with its interval.
    """

    name: str
    method: str
    knobs: Mapping[str, Any]
    owner: str
    outputs: Mapping[Turn, Output]
    speedup: float
    speedup_ci95: tuple[float, float] | None


class PartTimes:
    """Medians of the parts of a turn; between rows that were timed, a line."""

    def __init__(self, times: Mapping[Part, Sequence[float]]) -> None:
        """Sort them by what they are of; of heads that draft in one pass the tokens with logits tell the pass."""
        lines: dict[tuple[str, str], dict[int, float]] = {}
        for part, seconds in times.items():
            at = part.head_rows if part.name == BLOCK else part.rows
            lines.setdefault((part.of, part.name), {})[at] = float(np.median(seconds))
        self.lines = {key: tuple(map(np.array, zip(*sorted(line.items()), strict=True))) for key, line in lines.items()}

    def at(self, of: str, name: str, rows: Any) -> Floats:
        """Return the seconds of parts; beyond what was timed, as the nearest that was."""
        if (of, name) not in self.lines:
            raise UserError(f"parts: {name} of {of} was not timed, expected a file of bench-decode --time-parts")
        known, seconds = self.lines[of, name]
        return np.asarray(np.interp(rows, known, seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodLog:
    """A run of bench-decode whose parts were timed. models: the name of each, by role. left_out: arms without parts."""

    path: Path
    target: str
    models: Mapping[str, str]
    device: str
    plain: Mapping[Turn, Output]
    arms: tuple[Arm, ...]
    left_out: tuple[str, ...]
    parts: Mapping[Turn, PartTimes]


def load_methods(path: Path) -> MethodLog:
    """Read a results file with parts; refuses one without them, or without the baseline."""
    header, records = checked_records(path)
    parameters = Field(header, path)["parameters"]
    parts = {(r["batch_index"], r["run"]): part_times(r) for r in records if r["kind"] == PARTS}
    if not parts:
        raise UserError(f"{path}: holds no parts of rounds, expected a file of bench-decode --time-parts")
    by_name: dict[str, dict[Turn, Output]] = {}
    for record in latest(records):
        turn = record["batch_index"], record["run"]
        if record["status"] == "ok" and turn in parts:
            by_name.setdefault(record["method"], {})[turn] = output_of(record)
    summaries = {s["method"]: s for s in summarise(records, parameters["seed"].whole())}
    listed = [
        (arm["name"].text(), arm["method"].text(), arm["knobs"].object()) for arm in parameters["methods"].elements()
    ]
    plain = next((by_name[n] for n, method, _ in listed if method == BASELINE and n in by_name), None)
    if plain is None:
        raise UserError(f"{path}: no records of the baseline, expected some")
    arms, left_out = [], []
    for name, method, knobs in listed:
        own, gain = owner(name, method), (summaries.get(name) or {}).get("speedup_decode")
        outputs = {turn: output for turn, output in by_name.get(name, {}).items() if turn in plain}
        if method == BASELINE:
            continue
        if not own or not outputs or gain is None:
            left_out.append(name)
            continue
        ends = gain["ci95"] and tuple(gain["ci95"])
        arms.append(
            Arm(
                name=name,
                method=method,
                knobs=knobs,
                owner=own,
                outputs=outputs,
                speedup=gain["value"],
                speedup_ci95=ends,
            )
        )
    if not arms:
        raise UserError(f"{path}: no records of a method whose parts were timed, expected some")
    return MethodLog(
        path=path,
        target=target_name(parameters),
        models={role: parameters["models"][role]["name"].text() for role in ("target", "draft")},
        device=device_name(parameters["system"].object()),
        plain=plain,
        arms=tuple(arms),
        left_out=tuple(left_out),
        parts=parts,
    )


def part_times(record: Mapping[str, Any]) -> PartTimes:
    """Return the parts of a record."""
    return PartTimes({Part(p["of"], p["name"], p["rows"], p["head_rows"]): p["seconds"] for p in record["parts"]})


def output_of(record: Mapping[str, Any]) -> Output:
    """Return an output, of a batch of one."""
    rounds = record["rounds"]
    rest = sum(record[f"{name}_ms"] for name in ("sample", "kv", "other"))
    return Output(
        tokens=record["generated_tokens"],
        rounds=Rounds(*(np.array(rounds[n], np.int64) for n in ("drafted", "accepted", "depth", "draft_passes"))),
        took=Phases(*(ms / 1e3 for ms in (record["draft_ms"], record["verify_ms"], rest))),
    )
