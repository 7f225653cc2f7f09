"""AutoJudge (arXiv 2504.20039): a mismatch stays where a trained judge takes it for unimportant. Lossy.

Greedy: the target's first choice is always accepted; another token is if P(important) is below the threshold, else the
target's own takes its place and the round ends. Sampling: what the exact rule accepts is accepted; what it rejects
stays if the judge says so, else the exact rule's correction is drawn. The judge learned from greedy mismatches alone,
so at a temperature it sees tokens of another kind. With threshold 0 both are exact speculative decoding; with 1 all
stays.

The draft reads its last token as well, for the judge to have its hidden state: one pass a round more.
"""

import math

import torch

from acceptance.decoders.chain import Exact, Kept, Seen
from acceptance.decoders.method import Models, Options
from acceptance.decoders.speculative import over_draft

from .judge import Judge, load


class JudgeRule(Exact):
    """Keeps what the exact rule accepts, and what the judge takes for unimportant."""

    is_exact = False

    def __init__(self, judge: Judge, threshold: float | None = None) -> None:
        """Take a judge. A mismatch is rejected from P(important) = threshold on; None: the one chosen in training."""
        threshold = judge.threshold if threshold is None else threshold
        # As log odds, which do not saturate: nothing is below 0, everything below 1.
        inside = 0 < threshold < 1
        self.limit = math.log(threshold / (1 - threshold)) if inside else math.inf if threshold else -math.inf
        self.bias = judge.bias
        self.weights = [torch.from_numpy(w).float() for w in (judge.draft_weights, judge.target_weights)]

    def keeps(self, seen: Seen) -> Kept:
        """Accept by the exact rule, or because the judge does not mind."""
        exact = super().keeps(seen).stays
        return Kept(exact | (self.log_odds(seen) < self.limit) if exact.shape[1] else exact, ~exact)

    def log_odds(self, seen: Seen) -> torch.Tensor:
        """Return how important each drafted token is, as if it were a mismatch; [rows, longest]."""
        assert seen.proposal.hidden is not None
        assert seen.hidden is not None
        device = seen.logits.device
        # At each drafted token itself: the target's state before the first belongs to the last committed one.
        states = seen.proposal.hidden, seen.hidden[:, 1:]
        self.weights = [w.to(h.device) for w, h in zip(self.weights, states, strict=True)]
        products = [(h.float() @ w).to(device) for h, w in zip(states, self.weights, strict=True)]
        return products[0] + products[1] + self.bias


def rule_of(models: Models, options: Options) -> JudgeRule:
    """Load the judge of the pair."""
    assert models.draft is not None
    assert models.judge is not None
    return JudgeRule(load(models.judge, models.target, models.draft), options.judge_threshold)


METHOD = over_draft(
    "autojudge",
    "a draft model's chain; mismatches stay where a trained judge takes them for unimportant",
    acceptance=rule_of,
    keep_hidden=True,
    needs=("judge",),
)
