"""All that one trace says: every draft length, every metric with its interval, groups of positions, and policies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from acceptance.trace.trace import Trace
from simulator.ground.histogram import synthetic_acceptance
from simulator.ground.ranges import MAX_DRAFT

from .estimators import (
    Estimate,
    RoundCounts,
    alpha_by,
    alpha_estimates,
    bins_of,
    category_metrics,
    excluded,
    expected_rounds,
    metrics,
    surprise_gap,
)
from .play import Played, Policy, play
from .policies import Adaptive, ConfidenceStop, Fixed, HuggingFaceHeuristic, Oracle

# Coins tossed for each position where acceptance is not certain: so many, fewer where there are many positions.
REPLICATIONS = 16
TOSSES = 2**20
# Hugging Face's assistant_confidence_threshold.
CONFIDENCE = 0.4
MAX_FIXED_POLICIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """What a policy would have done, and its speed where a draft pass costs `draft_cost` target passes.

    Ranges are (low, high): they differ only where a trace cannot know how far a draft ran on after a rejection.
    speedup: 1 / (target calls + draft_cost x draft calls), verification at the price of one target pass.
    """

    tokens_per_round: float
    target_calls_per_token: float
    draft_calls_per_token: tuple[float, float]
    draft_acceptance_rate: tuple[float, float]
    rounds_without_draft: float
    speedup: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What one trace says.

    rounds, metrics, synthetic: by draft length. alpha: of a sampled and of a greedy draft. categories, along_output,
    by_context_length: of the longest draft length, or of single tokens; positions by the lower edge of their bin.
    text_gap: see `surprise_gap`; None for greedy text, and where entropies are unknown. foreign: share of the text that
    cannot be the target's: of greedy text what is not its first choice, of sampled text what its law excludes.
    """

    rounds: dict[int, RoundCounts]
    metrics: dict[int, dict[str, Any]]
    synthetic: dict[int, dict[str, object]]
    alpha: dict[str, Estimate]
    categories: dict[str, dict[str, Any]]
    along_output: dict[str | int, tuple[Estimate, int]]
    by_context_length: dict[str | int, tuple[Estimate, int]]
    policies: dict[str, PolicyResult]
    text_gap: Estimate | None
    foreign: float

    @property
    def longest(self) -> int:
        """The longest draft length asked for."""
        return max(self.rounds)

    def as_json(self) -> dict[str, object]:
        """Return all but the counts of single prompts, under plain keys."""
        groups = {
            name: [{"from": edge, "positions": n, "alpha": e.as_json()} for edge, (e, n) in bins.items()]
            for name, bins in (("along_output", self.along_output), ("by_context_length", self.by_context_length))
        }
        return groups | {
            "metrics": {str(k): m for k, m in self.metrics.items()},
            "synthetic_acceptance": {str(k): s for k, s in self.synthetic.items()},
            "alpha": {kind: e.as_json() for kind, e in self.alpha.items()},
            "categories": {
                name: {key: v.as_json() if isinstance(v, Estimate) else v for key, v in values.items()}
                for name, values in self.categories.items()
            },
            "policies": {name: asdict(result) for name, result in self.policies.items()},
            "text_gap": None if self.text_gap is None else self.text_gap.as_json(),
            "foreign": self.foreign,
        }


def analyse(
    trace: Trace,
    draft_lengths: Sequence[int],
    *,
    temperature: float,
    q_kind: str = "sampled",
    draft_cost: float = 0.1,
    seed: int = 0,
    with_policies: bool = True,
) -> Analysis:
    """Return what a trace says.

    Args:
        trace: What was measured.
        draft_lengths: >= 1, in ascending order.
        temperature: That the text was written at.
        q_kind: Whose acceptance: a "sampled" or a "greedy" draft's.
        draft_cost: A draft pass over a target pass, for the policies' speed.
        seed: Of bootstrap and coins.
        with_policies: Whether to play the draft-length policies, which takes longer than all the rest.

    Raises:
        UserError: A draft length above the longest output.
    """
    rounds = {k: expected_rounds(trace, k, q_kind) for k in draft_lengths}
    rng = np.random.default_rng(seed)
    alpha = alpha_estimates(trace, rng)
    of_lengths = {k: metrics(r, alpha[q_kind], seed) for k, r in rounds.items()}
    greedy = temperature == 0
    return Analysis(
        rounds=rounds,
        metrics=of_lengths,
        synthetic={k: synthetic_acceptance(m["survival"], m["tokens_per_round"]) for k, m in of_lengths.items()},
        alpha=alpha,
        categories=category_metrics(trace, rounds[max(draft_lengths)], q_kind, seed),
        along_output=alpha_by(bins_of(trace.position), trace, q_kind, rng),
        by_context_length=alpha_by(bins_of(trace.context_length), trace, q_kind, rng),
        policies=play_policies(trace, draft_lengths, q_kind, draft_cost, seed) if with_policies else {},
        text_gap=None if greedy or np.isnan(trace.entropy_p).any() else surprise_gap(trace, rng),
        foreign=float((trace.rank_p != 0 if greedy else excluded(trace)).mean()),
    )


def play_policies(
    trace: Trace, draft_lengths: Sequence[int], q_kind: str, draft_cost: float, seed: int
) -> dict[str, PolicyResult]:
    """Play every policy on the same coins, up to the longest draft length."""
    longest = max(draft_lengths)
    replications = min(max(TOSSES // max(trace.size, 1), 1), REPLICATIONS)
    policies: dict[str, Policy] = {f"fixed {k}": Fixed(k) for k in draft_lengths[-MAX_FIXED_POLICIES:]}
    policies["Hugging Face heuristic, from 20"] = HuggingFaceHeuristic()
    policies["adaptive 1..8"] = Adaptive()
    if not np.isnan(trace.max_q).any():
        policies[f"confidence {CONFIDENCE}, up to {longest}"] = ConfidenceStop(threshold=CONFIDENCE, max_k=longest)
    policies["oracle"] = Oracle(MAX_DRAFT)
    return {
        name: result_of(
            play(trace, policy, q_kind=q_kind, rng=np.random.default_rng(seed), replications=replications), draft_cost
        )
        for name, policy in policies.items()
    }


def result_of(played: Played, draft_cost: float) -> PolicyResult:
    """Return a policy's totals as rates."""
    calls, (low, high) = played.target_calls_per_token, played.draft_calls_per_token
    return PolicyResult(
        tokens_per_round=played.tokens_per_round,
        target_calls_per_token=calls,
        draft_calls_per_token=(low, high),
        draft_acceptance_rate=played.draft_acceptance_rate,
        rounds_without_draft=float(played.rounds_without_draft.sum() / played.rounds.sum()),
        speedup=(1 / (calls + draft_cost * high), 1 / (calls + draft_cost * low)),
    )
