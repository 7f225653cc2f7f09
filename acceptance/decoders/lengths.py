"""Draft lengths that follow what was accepted: the policies of `estimate.policies`, at work in the loop itself."""

from dataclasses import dataclass

import numpy as np

from acceptance.estimate.policies import Adaptive, HuggingFaceHeuristic

from .batch import Ints
from .method import Control, Options
from .speculative import over_draft


@dataclass(frozen=True, slots=True)
class Planned:
    """Outputs of which only the number and the length are known; starts as in `policies.Outputs`."""

    starts: Ints


class Controlled:
    """The draft length of a policy that looks at the rounds so far of each prompt, and starts anew with each."""

    def __init__(self, policy: Adaptive | HuggingFaceHeuristic, *, prompts: int, budget: int, cap: int) -> None:
        """Begin on some prompts; budget: tokens of the longest output.

        cap: most tokens a round may draft, >= 1; the policy's length never grows beyond it. A round never drafts more
        than the budget less one, so with a cap of that the policy is as without.
        """
        self.player, self.most = policy.begin(Planned(budget * np.arange(prompts + 1))), cap
        self.hold()

    def hold(self) -> None:
        """Keep to the cap."""
        np.minimum(self.player.k, self.most, out=self.player.k)

    def lengths(self, index: Ints) -> Ints:
        """Return the draft length of each of these prompts."""
        return self.player.k[index]

    def learn(self, index: Ints, drafted: Ints, accepted: Ints) -> None:
        """Take note of a round of these prompts."""
        self.player.learn(index, drafted, accepted)
        self.hold()


def by_acceptance(options: Options) -> Control:
    """Return the adaptive controller, begun at k as far as its bounds allow."""
    low, high = options.min_k, options.max_k
    initial = min(max(options.k, low), high)
    policy = Adaptive(initial=initial, min=low, max=high, target=options.target_acceptance)
    return lambda prompts, budget: Controlled(policy, prompts=prompts, budget=budget, cap=high)


def by_heuristic(options: Options) -> Control:
    """Return Hugging Face's heuristic, begun as the library does and without a limit but the budget."""
    policy = HuggingFaceHeuristic()
    return lambda prompts, budget: Controlled(policy, prompts=prompts, budget=budget, cap=max(1, budget - 1))


METHODS = (
    over_draft("adaptive", "speculative, longer drafts while most are accepted", lengths=by_acceptance),
    over_draft("heuristic", "speculative, draft length by Hugging Face's heuristic", lengths=by_heuristic),
    over_draft(
        "confidence-stop",
        "speculative, up to k tokens as long as the draft is sure",
        draft=lambda options: {"least_confidence": options.least_confidence},
    ),
)
