"""What a benchmark writes: a header, a record for each method, prompt and run, a summary for each method.

Times are of the batch a row was decoded in: `batch_row` 0 counts them once. Rounds stand in parallel lists. A record of
the same `resume_key` further down replaces an earlier one, but an error never a measurement; a summary of the same
method as well. A method that cannot run has one record, "skipped" under the first prompt and run.

Accepted tokens are those of the output: what a round accepted behind an end of sequence is not among them. So S rounds
that drafted D and accepted A tokens write S + sum A less one for each round that an end of sequence cut; the acceptance
rate is sum A / sum D (model §4).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from acceptance.bench.clock import Phases
    from acceptance.bench.machine import EnergyUsed
    from acceptance.decoders.batch import Round
    from acceptance.measure.loop_check import Recheck

RECORD, SUMMARY = "decode_record", "decode_summary"
SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).parent / "decode_record.schema.json"
PHASES = ("prefill", "draft", "verify", "sample", "kv", "other")
COUNTED = (
    *("drafted", "accepted", "committed", "depth", "draft_passes", "overruled", "judged"),
    *("leaves", "pruned", "over_budget"),
)
ROUND_FIELDS = (*COUNTED, "cut_by")
# What a difference to the baseline's greedy output is put down to; the last, where it could not be worked out.
VERDICTS = ("rounding", "bug", "unchecked")


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
    recheck: "Recheck | None" = None

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
        found = {"position": self.position, "margin": self.margin, "verdict": self.verdict}
        checked = self.recheck
        # No deficit where one of the outputs ended and the other did not.
        deficit = checked.deficit if checked and math.isfinite(checked.deficit) else None
        return found | {"deficit": deficit, "spread": checked and checked.spread}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How the target sees an output: mean log p and rank of its tokens, share of its own first choices."""

    mean_logp_nats: float
    mean_rank: float
    argmax_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of a timed batch.

    has_judge: whether a trained judge decides. identical: to the baseline's greedy output. reference: what a task says
    really follows. note: what could not be worked out or measured, and why.
    """

    tokens: list[int]
    rounds: "Sequence[Round]"
    phases: "Phases"
    is_tree: bool
    has_judge: bool
    identical: bool | None
    divergence: Divergence | None
    memory_peak_bytes: int | None
    energy: "EnergyUsed | None"
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
    rounds["accepted"] = [min(r.accepted, r.committed) for r in found.rounds]
    generated, count = len(found.tokens), len(found.rounds)
    drafted, accepted, passes = (sum(rounds[name]) for name in ("drafted", "accepted", "draft_passes"))
    phases, energy = found.phases, found.energy
    decode_s = phases.total_s - phases.prefill_s
    return {
        "generated_tokens": generated,
        "output_sha256": hashlib.sha256(np.array(found.tokens, "<i8").tobytes()).hexdigest(),
        "identical_to_baseline": found.identical,
        "first_divergence": found.divergence.as_json() if found.divergence else None,
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
        "overruled": sum(rounds["overruled"]),
        "judge": judge_fields(rounds) if found.has_judge else None,
        "tree": tree_fields(rounds) if found.is_tree else None,
        "memory_peak_bytes": found.memory_peak_bytes,
        "energy_j": energy and energy.joules,
        "energy_net_j": energy and energy.net_joules,
        "idle_power_w": energy and energy.idle_w,
        "energy_is_reliable": energy and energy.is_reliable,
        "quality": asdict(found.quality) if found.quality else None,
        "exact_match": next_token_match(found.tokens, found.reference) if found.reference else None,
        "note": found.note,
    }


def judge_fields(rounds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return what a trained judge did.

    judged: mismatches it was asked about. kept: those it took for unimportant. fallbacks: rounds that it ended, so that
    the target's own token was taken; over drafted tokens, the fallback rate.
    """
    judged, kept, drafted = (sum(rounds[name]) for name in ("judged", "overruled", "drafted"))
    fallbacks = sum(j > k for j, k in zip(rounds["judged"], rounds["overruled"], strict=True))
    return {
        "judged": judged,
        "kept": kept,
        "judge_accept_rate": ratio(kept, judged),
        "fallbacks": fallbacks,
        "target_fallback_rate": ratio(fallbacks, drafted),
    }


def tree_fields(rounds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return what the trees were like.

    depth: mean over rounds. effective_parallelism: branches that a target pass verifies side by side, mean over rounds;
    max_active_branches: the most of them. branch_prune_rate: candidates below the threshold, of all that were looked
    at; those above it that the budget left out count as kept.
    """
    nodes, leaves, pruned, over = (sum(rounds[n]) for n in ("drafted", "leaves", "pruned", "over_budget"))
    count = len(rounds["drafted"])
    return {
        "nodes": nodes,
        "nodes_per_round": ratio(nodes, count),
        "depth": ratio(sum(rounds["depth"]), count),
        "effective_parallelism": ratio(leaves, count),
        "max_active_branches": max(rounds["leaves"], default=0),
        "branch_prune_rate": ratio(pruned, nodes + over + pruned),
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
    "energy_net_j",
    "idle_power_w",
    "energy_is_reliable",
    "quality",
    "exact_match",
    "note",
)


def latest(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records of measurements, each key once: the last that was measured, or else the last line of it."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.get("kind") == RECORD:
            before = found.get(record["resume_key"])
            if record["status"] == "ok" or before is None or before["status"] != "ok":
                found[record["resume_key"]] = record
    return list(found.values())


def done_keys(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what need not be measured again: failures are tried anew."""
    return {r["resume_key"] for r in latest(records) if r["status"] != "error"}


def load_schema() -> dict[str, Any]:
    """Return the published JSON Schema of a line."""
    found: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return found
