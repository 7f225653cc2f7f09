"""Rules of acceptance that give up the target's law for longer runs: fast, and no longer the target's own text.

With a rule that accepts x ~ q with probability a(x), and c what a rejection is replaced from, every token that a draft
was tried for follows q(x) a(x) + (1 - sum q a) c(x) instead of p(x).
"""

import math
from collections.abc import Callable, Sequence

import torch

from acceptance.models import laws
from acceptance.models.laws import entropy, rank
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule

from .batch import Batch, Floats, Ints, Task
from .chain import Acceptance, Chain, FixedLength, Kept, Proposal, Seen
from .decoder import Decoder
from .method import Begin, Method, Models, Options
from .model_draft import ModelDraft


class Lossy:
    """A rule that looks at the drafted token, and where it rejects it, lets the target say its own."""

    is_exact = False

    def correction(self, target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
        """Draw from p."""
        return target


class TopKAgreement(Lossy):
    """Accepts what is among the target's first choices. Greedy with rank 1 is exact."""

    def __init__(self, rank: int) -> None:
        """Say how many choices, >= 1."""
        self.rank = rank

    def keeps(self, seen: Seen) -> Kept:
        """Accept a token that fewer than `rank` are preferred to; logits decide, ties go to the lower index."""
        logits, drafted = judged(seen)
        return Kept((rank(logits.flatten(0, 1), drafted.flatten()) < self.rank).view(drafted.shape))


class Typical(Lossy):
    """Typical acceptance (Cai et al. 2024, Medusa, arXiv 2401.10774, §2.3.1).

    Accepts x where p(x) > min(epsilon, delta exp(-H(p))), H the entropy in nats, delta = sqrt(epsilon) as there: the
    less sure the target is, the less it asks for. p is what the target samples from, so greedy decoding stays exact.
    """

    def __init__(self, epsilon: float) -> None:
        """Say the threshold, 0 to 1; with 0 everything possible is accepted."""
        self.epsilon = epsilon

    def keeps(self, seen: Seen) -> Kept:
        """Compare p(x) with the threshold."""
        logits, drafted = judged(seen)
        p = laws.probabilities(logits, seen.rule)
        least = (math.sqrt(self.epsilon) * torch.exp(-entropy(p))).clamp(max=self.epsilon)
        return Kept(p.gather(-1, drafted[..., None])[..., 0] > least)


class FuzzyTemperature(Lossy):
    """Exact acceptance made T times as likely (JointAdaSpec's fuzziness); with T = 1 it is the exact rule.

    Sampling: accepts x ~ q with probability min(1, T p(x) / q(x)), else draws from max(0, p - q). Greedy: accepts x
    where p(x) > max p / T at temperature 1, and the first choice.
    """

    def __init__(self, fuzziness: float) -> None:
        """Say T, >= 1."""
        self.fuzziness = fuzziness

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


class SureDraft(ModelDraft):
    """A draft model that remembers how probable each drafted token was; greedy: at temperature 1."""

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Draft, from a clean slate."""
        self.confidence: list[torch.Tensor] = []
        return super().propose(batch, lengths, numbers)

    def choose(self, logits: torch.Tensor, numbers: Floats, drafted_from: list[torch.Tensor]) -> torch.Tensor:
        """Note q(x) of the token that is chosen."""
        chosen = super().choose(logits, numbers, drafted_from)
        law = laws.probabilities(logits, SamplingRule(temperature=1.0)) if self.rule.is_greedy else drafted_from[-1]
        self.confidence.append(law.gather(-1, chosen[:, None])[:, 0])
        return chosen


class ConfidenceThreshold(Lossy):
    """Accepts what the draft was sure of, and asks the target about the rest alone."""

    def __init__(self, tau: float, draft: SureDraft) -> None:
        """Say how sure, 0 to 1, and who."""
        self.tau, self.draft = tau, draft

    def keeps(self, seen: Seen) -> Kept:
        """Accept x where q(x) >= tau."""
        logits, drafted = judged(seen)
        if not drafted.shape[1]:
            return Kept(drafted.bool())
        return Kept(torch.stack(self.draft.confidence, 1).to(logits.device) >= self.tau)


def judged(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target's logits at the drafted tokens, [rows, longest, vocabulary], and those, [rows, longest]."""
    drafted = seen.proposal.tokens.to(seen.logits.device)
    return seen.logits[:, : drafted.shape[1]], drafted


def with_rule(rule: Callable[[Options], Acceptance]) -> Callable[[Models, Options], Begin]:
    """Return how a method begins that has a draft model and a rule of its own."""

    def begin(models: Models, options: Options) -> Begin:
        assert models.draft is not None
        draft, acceptance = models.draft, rule(options)

        def on(prompts: Sequence[Sequence[int]], task: Task) -> Decoder:
            return chained(models.target, ModelDraft(draft, options.draft_rule), prompts, task, options, acceptance)

        return on

    return begin


def with_confidence(models: Models, options: Options) -> Begin:
    """Begin with a draft that says how sure it is."""
    assert models.draft is not None
    draft = models.draft

    def on(prompts: Sequence[Sequence[int]], task: Task) -> Decoder:
        drafter = SureDraft(draft, options.draft_rule)
        return chained(models.target, drafter, prompts, task, options, ConfidenceThreshold(options.tau, drafter))

    return on


def chained(
    target: Model,
    drafter: ModelDraft,
    prompts: Sequence[Sequence[int]],
    task: Task,
    options: Options,
    acceptance: Acceptance,
) -> Chain:
    """Begin on a batch with a fixed draft length."""
    return Chain(target, drafter, prompts, task, lengths=FixedLength(options.k), acceptance=acceptance)


def method(name: str, summary: str, begin: Callable[[Models, Options], Begin]) -> Method:
    """Return a lossy method over a draft model."""
    return Method(name=name, summary=summary, batched=True, needs=("draft",), begin=begin)


METHODS = (
    method(
        "topk",
        "accepts drafts among the target's first choices",
        with_rule(lambda options: TopKAgreement(options.rank)),
    ),
    method(
        "typical",
        "accepts drafts that are typical of the target (Medusa's rule); exact when greedy",
        with_rule(lambda options: Typical(options.typical_p)),
    ),
    method("confidence", "accepts drafts that the draft model was sure of, whatever the target says", with_confidence),
    method(
        "fuzzy",
        "accepts drafts more often than the exact rule, by a factor",
        with_rule(lambda options: FuzzyTemperature(options.fuzziness)),
    ),
)
