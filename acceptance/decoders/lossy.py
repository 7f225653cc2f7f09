"""Rules of acceptance that give up the target's law for longer runs: fast, and no longer the target's own text.

With a rule that accepts x ~ q with probability a(x), and c what a rejection is replaced from, every token that a draft
was tried for follows q(x) a(x) + (1 - sum q a) c(x) instead of p(x).
"""

import math
from dataclasses import dataclass

import torch

from acceptance.models import laws
from acceptance.models.laws import entropy, rank

from .chain import Kept, Seen
from .speculative import over_draft


class Lossy:
    """A rule that looks at the drafted token, and where it rejects it, lets the target say its own."""

    is_exact = False

    def correction(self, target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Draw from p."""
        return target


@dataclass(frozen=True)
class TopKAgreement(Lossy):
    """Accepts what is among the target's first `rank` choices, >= 1. Greedy with rank 1 is exact."""

    rank: int

    def keeps(self, seen: Seen) -> Kept:
        """Accept a token that fewer than `rank` are preferred to; logits decide, ties go to the lower index."""
        logits, drafted = judged(seen)
        return Kept((rank(logits.flatten(0, 1), drafted.flatten()) < self.rank).view(drafted.shape))


@dataclass(frozen=True)
class Typical(Lossy):
    """Typical acceptance (Cai et al. 2024, Medusa, arXiv 2401.10774, §2.3.1).

    Accepts x where p(x) > min(epsilon, delta exp(-H(p))), H the entropy in nats, delta = sqrt(epsilon) as there: the
    less sure the target is, the less it asks for. p is what the target samples from, so greedy decoding stays exact.
    epsilon: 0 to 1; with 0 everything possible is accepted.
    """

    epsilon: float

    def keeps(self, seen: Seen) -> Kept:
        """Compare p(x) with the threshold."""
        logits, drafted = judged(seen)
        p = laws.probabilities(logits, seen.rule)
        least = (math.sqrt(self.epsilon) * torch.exp(-entropy(p))).clamp(max=self.epsilon)
        return Kept(p.gather(-1, drafted[..., None])[..., 0] > least)


@dataclass(frozen=True)
class FuzzyTemperature(Lossy):
    """Exact acceptance made T times as likely (JointAdaSpec's fuzziness); with T = 1 it is the exact rule.

    Sampling: accepts x ~ q with probability min(1, T p(x) / q(x)), else draws from max(0, p - q). Greedy: accepts x
    where p(x) > max p / T at temperature 1, and the first choice. fuzziness: T, >= 1.
    """

    fuzziness: float

    def keeps(self, seen: Seen) -> Kept:
        """Compare with a uniform number, or with the first choice."""
        logits, drafted = judged(seen)
        if seen.rule.is_greedy:
            drafted_logits = logits.gather(-1, drafted[..., None])[..., 0].float()
            near = logits.amax(-1).float() - drafted_logits < math.log(self.fuzziness)
            return Kept(near | (logits.argmax(-1) == drafted))
        p = laws.probabilities(logits, seen.rule)
        q = seen.proposal.masses(p.shape[-1]).to(p.device)
        numbers = laws.uniforms_like(p, seen.numbers)[:, : drafted.shape[1]]
        return Kept(numbers < self.fuzziness * laws.acceptance(p, q, drafted))

    def correction(self, target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Draw from what p has beyond q."""
        return laws.residual(target, draft)


@dataclass(frozen=True)
class ConfidenceThreshold(Lossy):
    """Accepts what the draft was sure of, x where q(x) >= tau, 0 to 1; asks the target about the rest alone."""

    tau: float

    def keeps(self, seen: Seen) -> Kept:
        """Ask the draft."""
        confidence = seen.proposal.confidence
        assert confidence is not None
        return Kept(confidence.to(seen.logits.device) >= self.tau)


def judged(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target's logits at the drafted tokens, [rows, longest, vocabulary], and those, [rows, longest]."""
    drafted = seen.proposal.tokens.to(seen.logits.device)
    return seen.logits[:, : drafted.shape[1]], drafted


METHODS = (
    over_draft(
        "topk",
        "accepts drafts among the target's first choices",
        acceptance=lambda models, options: TopKAgreement(options.rank),
    ),
    over_draft(
        "typical",
        "accepts drafts that are typical of the target (Medusa's rule); exact when greedy",
        acceptance=lambda models, options: Typical(options.typical_p),
    ),
    over_draft(
        "confidence",
        "accepts drafts that the draft model was sure of, whatever the target says",
        acceptance=lambda models, options: ConfidenceThreshold(options.tau),
        draft=lambda options: {"keep_confidence": True},
    ),
    over_draft(
        "fuzzy",
        "accepts drafts more often than the exact rule, by a factor",
        acceptance=lambda models, options: FuzzyTemperature(options.fuzziness),
    ),
)
