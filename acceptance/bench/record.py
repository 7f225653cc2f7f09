"""What one decoding of a prompt says, as a record of the published schema (`results.records`)."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from acceptance.decoders.batch import Round
from acceptance.measure.loop_check import Recheck
from acceptance.results.records import (
    OPTIONAL,
    PHASES,
    RECORD,
    ROUND_FIELDS,
    SAMPLER,
    SCHEMA_PATH,
    SCHEMA_VERSION,
    figures,
    resume_key,
)
from simulator.ground.schema import load_schema

from .clock import Phases
from .machine import EnergyUsed
from .quality import Quality
from .scores import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was decoded, by what, and when.

    timestamp_utc: when its turn began. order: place of the method among those that took turns on this prompt.
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
    timestamp_utc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Nothing was measured: "skipped" or "error", and why."""

    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a greedy output first differs from the baseline's.

    margin: the target's best logit less its second. is_exact: whether the method promises no difference at all.
    recheck: what a finer type says; None of a lossy method, or where it could not be asked.
    """

    position: int
    margin: float
    is_exact: bool
    recheck: Recheck | None = None

    @property
    def verdict(self) -> str | None:
        """One of VERDICTS; None for a lossy method, which promises nothing."""
        if not self.is_exact:
            return None
        if self.recheck is None:
            return "unchecked"
        return "rounding" if self.recheck.is_tie else "bug"

    def as_json(self) -> dict[str, Any]:
        """Return it by the names of the schema."""
        fields = {"position": self.position, "margin": self.margin, "verdict": self.verdict}
        checked = self.recheck
        # No deficit where one of the outputs ended and the other did not.
        deficit = checked.deficit if checked and math.isfinite(checked.deficit) else None
        return fields | {"deficit": deficit, "spread": checked and checked.spread}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerUsed:
    """Who decided on drafts in the loop's place; ms: how long in each round, of the batch."""

    name: str
    ms: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of a timed batch.

    has_judge: whether a trained judge decides. identical: to the baseline's greedy output. reference: what a task says
    really follows. scores: of the text, beside its reference. sound_s: how long the sound is that was heard.
    sampler: who decided on drafts in the loop's place. note: what could not be worked out or measured, and why.
    """

    tokens: list[int]
    rounds: Sequence[Round]
    phases: Phases
    is_tree: bool
    has_judge: bool
    identical: bool | None
    divergence: Divergence | None
    memory_peak_bytes: int | None
    energy: EnergyUsed | None
    quality: Quality | None
    reference: Sequence[int] | None = None
    scores: Scores | None = None
    sound_s: float | None = None
    sampler: SamplerUsed | None = None
    note: str | None = None


@cache
def no_fields() -> dict[str, None]:
    """Return every field of a record, null; those that a task brings are not among them."""
    return dict.fromkeys(
        name for name in load_schema(SCHEMA_PATH)["$defs"][RECORD]["properties"] if name not in OPTIONAL
    )


def as_record(origin: Origin, outcome: Measured | Skipped) -> dict[str, Any]:
    """Return a record; fields that nothing was measured for are null."""
    key = resume_key(origin.method, origin.prompt_index, origin.run)
    head = no_fields() | {"kind": RECORD, "schema_version": SCHEMA_VERSION, "resume_key": key} | asdict(origin)
    if isinstance(outcome, Skipped):
        return head | {"status": outcome.status, "error": outcome.reason}
    return head | {"status": "ok"} | measured_fields(outcome)


def measured_fields(measured: Measured) -> dict[str, Any]:
    """Return what a measurement says, by the names of the schema."""
    rounds = {name: [getattr(r, name) for r in measured.rounds] for name in ROUND_FIELDS}
    rounds["accepted"] = [min(r.accepted, r.committed) for r in measured.rounds]
    phases, energy = measured.phases, measured.energy
    decode_s = phases.total_s - phases.prefill_s
    has = {"has_tree": measured.is_tree, "has_judge": measured.has_judge}
    return figures(rounds, generated=len(measured.tokens), total_s=phases.total_s, decode_s=decode_s, **has) | {
        "output_sha256": hashlib.sha256(np.array(measured.tokens, "<i8").tobytes()).hexdigest(),
        "identical_to_baseline": measured.identical,
        "first_divergence": measured.divergence.as_json() if measured.divergence else None,
        "ttft_s": phases.first_token_s,
        "total_s": phases.total_s,
        "decode_s": decode_s,
        **{f"{name}_ms": 1e3 * getattr(phases, f"{name}_s") for name in PHASES},
        "rounds": rounds,
        "memory_peak_bytes": measured.memory_peak_bytes,
        "energy_j": energy and energy.joules,
        "energy_net_j": energy and energy.net_joules,
        "idle_power_w": energy and energy.idle_w,
        "energy_is_reliable": energy and energy.is_reliable,
        "quality": asdict(measured.quality) if measured.quality else None,
        "exact_match": next_token_match(measured.tokens, measured.reference) if measured.reference else None,
        "note": measured.note,
        **({"text_scores": measured.scores} if measured.scores else {}),
        **({} if measured.sound_s is None else {"sound_s": measured.sound_s}),
        **({SAMPLER: asdict(measured.sampler)} if measured.sampler else {}),
    }


def next_token_match(output: Sequence[int], reference: Sequence[int]) -> dict[str, int]:
    """Return how often a method's next token behind the true text was the true one, on the common prefix of both.

    Up to its first mismatch an output is the reference itself: every token of it, the mismatch too, was emitted behind
    the true prefix. What comes later was not, and says nothing.

    matched: tokens of the common prefix. trials: those and the mismatch, where there is one. Easy texts have more
    trials: the share over all of them is of the text as far as a method gets, not of the task's tokens.
    """
    pairs = zip(output, reference, strict=False)
    matched = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(output), len(reference)))
    return {"matched": matched, "trials": min(matched + 1, len(output), len(reference))}
