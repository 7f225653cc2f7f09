"""What a decode.jsonl tells of costs: rounds of plain chains, by draft length, beside the baseline's steps.

Only arms that draft a fixed number of tokens with a draft model are read; the others have costs of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.results.journal import read_records
from acceptance.results.records import RECORD, latest
from acceptance.results.summary import summarise
from acceptance.results.validate import disagreements, problems
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.plain_text import read_text_bytes

from .timed import Timed, median_time

Floats = NDArray[np.float64]
Record = Mapping[str, Any]
# Of a record, in seconds or milliseconds; sums of such times and their squares stay finite.
LONGEST = 1e12
FIXED_CHAIN, BASELINE = "speculative", "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTimes:
    """One draft length: what its rounds took, and what they yielded; times are medians over its records, a round.

    drafted: tokens a round, the last rounds of outputs included. rest: of a round, neither draft nor verification.
    histogram: rounds of full length by accepted drafts, [k + 1]. speedup: summary's, of decoding alone, with its
    interval.
    """

    name: str
    draft_length: int
    drafted: float
    draft: Timed
    verify: Timed
    rest: Timed
    tokens_per_round: float
    histogram: Floats
    speedup: float
    speedup_ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLog:
    """A run of bench-decode: whose, and its times.

    tokens: budget of an output. lengths: tokens of each that the baseline wrote. baseline: its whole step; plain_pass:
    the target's pass of it. sha256: of the file, unpacked.
    """

    path: Path
    sha256: str
    target: str
    draft: str
    dtype: str
    batch: int
    tokens: int
    lengths: tuple[int, ...]
    baseline: Timed
    plain_pass: Timed
    arms: tuple[ArmTimes, ...]
    device: str


def load_decode(path: Path) -> DecodeLog:
    """Read a results file of bench-decode; refuses one without the baseline or plain speculative decoding."""
    header, records = checked_records(path)
    parameters = Field(header, path)["parameters"]
    by_name: dict[str, list[Record]] = {}
    for record in latest(records):
        if record["status"] == "ok":
            by_name.setdefault(record["method"], []).append(record)
    arms = {arm["name"].text(): arm for arm in parameters["methods"].elements()}
    plain = next((by_name[n] for n, arm in arms.items() if arm["method"].text() == BASELINE and n in by_name), None)
    chains = {n: arm for n, arm in arms.items() if arm["method"].text() == FIXED_CHAIN and n in by_name}
    if plain is None or not chains:
        raise UserError(f"{path}: no records of baseline and speculative decoding, expected a run of both")
    summaries = {s["method"]: s for s in summarise(records, parameters["seed"].whole())}
    for name in chains:
        if summaries[name]["speedup_decode"] is None:
            raise UserError(f"{path}: {name} and baseline have no prompt in common, expected records of both")
    lengths = [arm["knobs"]["k"].whole(1, MAX_DRAFT_LENGTH) for arm in chains.values()]
    if len(set(lengths)) < len(lengths):
        raise UserError(f"{path}: two arms draft {max(lengths, key=lengths.count)} tokens, expected each K once")
    return DecodeLog(
        path=path,
        sha256=sha256(read_text_bytes(path)).hexdigest(),
        target=target_name(parameters),
        draft=parameters["models"]["draft"]["name"].text(),
        dtype=parameters["dtype"].text(),
        batch=parameters["batch_size"].whole(1),
        tokens=parameters["max_new_tokens"].whole(1),
        lengths=tuple(r["generated_tokens"] for r in plain),
        baseline=median_time([record["decode_s"] / steps for record, steps in batches(plain)]),
        plain_pass=median_time([record["verify_ms"] / 1e3 / steps for record, steps in batches(plain)]),
        arms=tuple(arm_times(n, k, by_name[n], summaries[n]) for n, k in zip(chains, lengths, strict=True)),
        device=device_name(parameters["system"].object()),
    )


def checked_records(path: Path) -> tuple[Record, list[dict[str, Any]]]:
    """Return the header and the records of a results file; a UserError names what is wrong with one."""
    wrong = problems(path, strict=False)
    if wrong:
        raise UserError(f"{path}: {wrong[0]}, expected a file of bench-decode")
    (header, *records), _ = read_records(path, packed=True)
    for number, one in enumerate(records, 2):
        if one["kind"] == RECORD and (what := next(useless(one), "")):
            raise UserError(f"{path}: line {number}: {what}, expected a file of bench-decode")
    return header, records


def useless(record: Record) -> Iterator[str]:
    """Say why no times can be taken from a record: numbers that do not follow from each other, or times of nothing."""
    yield from disagreements(record)
    if record["status"] == "ok":
        if not record["rounds"]["drafted"]:
            yield "rounds are none"
        for name in ("decode_s", "verify_ms"):
            if not 0 < record[name] < LONGEST:
                yield f"{name} is {record[name]}"


def target_name(parameters: Field) -> str:
    """Return the target's name, and how often it was inflated."""
    name, times = parameters["models"]["target"]["name"].text(), parameters["inflate_target"].number(default=1.0)
    return name if times == 1 else f"{name} x {times:g}"


def device_name(system: Mapping[str, Any]) -> str:
    """Return what the run decoded on."""
    gpus = system.get("gpus") or []
    return ", ".join(str(g.get("name", g) if isinstance(g, dict) else g) for g in gpus) or str(system.get("cpu", "cpu"))


def rounds_of(record: Record) -> int:
    """Return the rounds of a record."""
    return len(record["rounds"]["drafted"])


def batches(records: Sequence[Record]) -> list[tuple[Record, int]]:
    """Return a record of each batch that was decoded, for its times, and the steps that all its rows took together."""
    rows: dict[tuple[int, int], list[Record]] = {}
    for record in records:
        rows.setdefault((record["batch_index"], record["run"]), []).append(record)
    return [(batch[0], max(map(rounds_of, batch))) for batch in rows.values()]


def arm_times(name: str, draft_length: int, records: Sequence[Record], summary: Record) -> ArmTimes:
    """Return the times of one draft length."""

    def phase(*names: str) -> Timed:
        return median_time([sum(r[f"{n}_ms"] for n in names) / 1e3 / steps for r, steps in batches(records)])

    drafted = np.concatenate([r["rounds"]["drafted"] for r in records])
    accepted = np.concatenate([r["rounds"]["accepted"] for r in records])
    # An end of sequence hides how many more would have been accepted.
    whole = (drafted == draft_length) & (np.concatenate([r["rounds"]["cut_by"] for r in records]) != "eos")
    speedup = summary["speedup_decode"]
    return ArmTimes(
        name=name,
        draft_length=draft_length,
        drafted=float(drafted.mean()),
        draft=phase("draft"),
        verify=phase("verify"),
        rest=phase("sample", "kv", "other"),
        tokens_per_round=sum(r["generated_tokens"] for r in records) / sum(map(rounds_of, records)),
        histogram=np.bincount(accepted[whole], minlength=draft_length + 1).astype(np.float64),
        speedup=speedup["value"],
        speedup_ci95=speedup["ci95"] and tuple(speedup["ci95"]),
    )
