"""What a benchmark writes: a header, a record for each method, prompt and run, a summary for each method.

Times are of the batch a row was decoded in: `batch_row` 0 counts them once. Rounds stand in parallel lists. A record of
the same `resume_key` further down replaces an earlier one, a summary of the same method as well.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from acceptance.decoders.batch import Round

    from .clock import Phases

RECORD, SUMMARY = "decode_record", "decode_summary"
SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).parent / "decode_record.schema.json"
PHASES = ("prefill", "draft", "verify", "sample", "kv", "other")
ROUND_FIELDS = ("drafted", "accepted", "committed", "depth", "draft_passes", "overruled", "cut_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was decoded, by what, and when.

    order: place of the method among those that took turns on this prompt.
    """

    method: str
    algorithm: str
    is_exact: bool
    prompt_index: int
    prompt_source: str
    prompt_category: str
    prompt_tokens: int
    run: int
    order: int
    batch_index: int
    batch_size: int
    batch_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Nothing was measured: "skipped" or "error", and why."""

    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a greedy output first differs from the baseline's.

    margin: the target's best logit less its second. rounding: margin below which rounding can turn the choice.
    """

    position: int
    margin: float
    rounding: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How the target sees an output: mean log p and rank of its tokens, share of its own first choices."""

    mean_logp_nats: float
    mean_rank: float
    argmax_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of a timed batch.

    identical: to the baseline's greedy output. reference: what a task says really follows. note: what could not be
    worked out behind the clock, and why.
    """

    tokens: list[int]
    rounds: "Sequence[Round]"
    phases: "Phases"
    is_tree: bool
    identical: bool | None
    divergence: Divergence | None
    memory_peak_bytes: int | None
    energy_j: float | None
    quality: Quality | None
    reference: Sequence[int] | None = None
    note: str | None = None


def resume_key(method: str, prompt: int, run: int) -> str:
    """Return what finds a measurement again; the header says of which configuration."""
    return f"{method}/{prompt}/{run}"


def as_record(origin: Origin, found: Measured | Skipped) -> dict[str, Any]:
    """Return a record; fields that nothing was measured for are null."""
    key = resume_key(origin.method, origin.prompt_index, origin.run)
    head = {"kind": RECORD, "schema_version": SCHEMA_VERSION, "resume_key": key} | asdict(origin)
    if isinstance(found, Skipped):
        return head | dict.fromkeys(MEASURED_FIELDS) | {"status": found.status, "error": found.reason}
    return head | {"status": "ok", "error": None} | measured_fields(found)


def measured_fields(found: Measured) -> dict[str, Any]:
    """Return what a measurement says, by the names of the schema."""
    rounds = {name: [getattr(r, name) for r in found.rounds] for name in ROUND_FIELDS}
    generated, count = len(found.tokens), len(found.rounds)
    drafted, accepted, passes = (sum(rounds[name]) for name in ("drafted", "accepted", "draft_passes"))
    overruled = sum(rounds["overruled"])
    phases = found.phases
    decode_s = phases.total_s - phases.prefill_s
    divergence = found.divergence
    return {
        "generated_tokens": generated,
        "output_sha256": hashlib.sha256(np.array(found.tokens, "<i8").tobytes()).hexdigest(),
        "identical_to_baseline": found.identical,
        "first_divergence": asdict(divergence) | {"is_tie": divergence.margin <= divergence.rounding}
        if divergence
        else None,
        "ttft_s": phases.first_token_s,
        "total_s": phases.total_s,
        "decode_s": decode_s,
        "tokens_per_s": ratio(generated, phases.total_s),
        "decode_tokens_per_s": ratio(generated, decode_s),
        **{f"{name}_ms": 1e3 * getattr(phases, f"{name}_s") for name in PHASES},
        "rounds": rounds,
        "tokens_per_round": ratio(generated, count),
        "draft_acceptance_rate": ratio(accepted, drafted),
        "target_calls_per_token": ratio(count, generated),
        "draft_calls_per_token": ratio(passes, generated),
        "overruled": overruled,
        "judge": {
            "overruled_per_token": overruled / max(generated, 1),
            "overruled_per_accepted": ratio(overruled, accepted),
        },
        "tree": {
            "nodes": drafted,
            "nodes_per_round": ratio(drafted, count),
            "depth": ratio(sum(rounds["depth"]), count),
        }
        if found.is_tree
        else None,
        "memory_peak_bytes": found.memory_peak_bytes,
        "energy_j": found.energy_j,
        "quality": asdict(found.quality) if found.quality else None,
        "exact_match": exact_match(found.tokens, found.reference) if found.reference else None,
        "note": found.note,
    }


def exact_match(output: Sequence[int], reference: Sequence[int]) -> dict[str, int]:
    """Return how many tokens of a reference stand at the same place of an output, which may have ended early."""
    return {"same": sum(a == b for a, b in zip(output, reference, strict=False)), "of": len(reference)}


def ratio(above: float, below: float) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return above / below if below else None


MEASURED_FIELDS = (
    "generated_tokens",
    "output_sha256",
    "identical_to_baseline",
    "first_divergence",
    "ttft_s",
    "total_s",
    "decode_s",
    "tokens_per_s",
    "decode_tokens_per_s",
    *(f"{name}_ms" for name in PHASES),
    "rounds",
    "tokens_per_round",
    "draft_acceptance_rate",
    "target_calls_per_token",
    "draft_calls_per_token",
    "overruled",
    "judge",
    "tree",
    "memory_peak_bytes",
    "energy_j",
    "quality",
    "exact_match",
    "note",
)


def latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of measurements, each key once, as the last line of that key says."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.get("kind") == RECORD:
            found[record["resume_key"]] = record
    return list(found.values())


def done_keys(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what need not be measured again: failures are tried anew."""
    return {r["resume_key"] for r in latest(records) if r["status"] != "error"}


def load_schema() -> dict[str, Any]:
    """Return the published JSON Schema of a line."""
    found: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return found


def origin_fields() -> tuple[str, ...]:
    """Names of the fields that say what was decoded."""
    return tuple(f.name for f in fields(Origin))
