"""vLLM's adaptive verification (`enable_adaptive_verification`): of what was drafted, verify what is worth its time.

`vllm/v1/worker/gpu/spec_decode/adaptive_verification.py`. Every sequence drafts K tokens and pays for them. How many
drafts the batch sends to verification follows from confidences one step old, which of them from those of this step: the
likeliest to be reached and accepted. The largest number of tokens a second decides, by tables of what drafting and
verifying take. Until the estimate of confidences was fitted three times, whole drafts are verified.

A trace knows the draft's confidence on the text alone. Behind the first rejected draft, where the draft is off the
text, the confidences that it had on the text at the same positions stand in. A trained confidence head is not in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acceptance.estimate.play import Counts, Player, Rounds, Spent
from acceptance.estimate.policies import same_for_all
from acceptance.trace.trace import Trace
from simulator.ground.policies import Verification, graph_sizes, staircase

from .estimator import Floats, OnlineLogistic, of_log_q, of_margin
from .price import StepPrice

NAME = "vllm-adaptive"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveVerification:
    """Drafts, verified as far as they are worth it.

    greedy: whether drafts are the first choice, whose confidence is a margin, or sampled. most: sequences that run at
    once, at most. price: of the steps, as the engine would time them.
    """

    by: Verification
    greedy: bool
    most: int
    price: StepPrice | None = None
    keeps_up: bool = True
    asks_costs: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """What a trace has to hold."""
        return ("margin_q",) if self.greedy else ("log_q", "log_q_rejected")

    @property
    def warm_up(self) -> int:
        """Steps in which whole drafts are verified."""
        return self.by.warm_up

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.by.k

    def tables(self) -> tuple[Floats, Floats]:
        """Return what drafting takes, by sequences, and what verifying takes, by tokens."""
        if self.price is None:
            raise ValueError("adaptive verification without a price of steps")
        most = self.most * (self.by.k + 1)
        tokens = np.array(graph_sizes(min(self.by.captured, max(most, 1)), most))
        running = np.minimum(-(-tokens // (self.by.k + 1)), self.most)
        verify = staircase(
            tokens.tolist(), self.price.verify_s(running, np.maximum(tokens, running)), most, self.by.captured
        )
        return self.price.draft_s(np.arange(self.most + 1), np.full(self.most + 1, self.by.k)), verify

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace."""
        if self.greedy:
            on_text = rejected = of_margin(trace.margin_q)
        else:
            on_text, rejected = of_log_q(trace.log_q), of_log_q(trace.log_q_rejected)
        return AdaptivePlayer(self, trace, on_text, rejected)


def survival(confidences: Floats) -> Floats:
    """Return how likely each draft is reached and accepted, [sequences, k]."""
    return np.asarray(np.cumprod(confidences, axis=1), np.float64)


def budget(reached: Floats, there: NDArray[np.bool_], draft_s: float, verify_s: Floats) -> int:
    """Return how many drafts to verify: so many that the most tokens a second are expected.

    reached: survival of each draft, [sequences, k]; there: whether it was drafted. verify_s: seconds by tokens of the
    pass.
    """
    scores = np.sort(reached[there])[::-1]
    running = len(reached)
    tokens = running + np.append(0.0, np.cumsum(scores))
    return int(np.argmax(tokens / (draft_s + verify_s[running : running + len(tokens)])))


def allotted(reached: Floats, there: NDArray[np.bool_], drafts: int) -> Counts:
    """Return how many drafts of each sequence are verified: of all, so many of the likeliest; [sequences]."""
    ranked = np.argsort(np.where(there, -reached, np.inf), axis=None, kind="stable")[:drafts]
    return np.bincount(ranked // reached.shape[1], minlength=len(reached)).astype(np.int64)


class AdaptivePlayer(Player):
    """Adaptive verification at work; on_text, rejected: features of the draft's tokens, [positions]."""

    def __init__(self, policy: AdaptiveVerification, trace: Trace, on_text: Floats, rejected: Floats) -> None:
        super().__init__(same_for_all(trace, policy.by.k))
        self.policy, self.on_text, self.rejected = policy.by, on_text, rejected
        self.draft_table, self.verify_table = policy.tables()
        self.estimator = OnlineLogistic(policy.by.k, policy.by.refit_every)
        # Confidences of each output's last step; 1 before there are any.
        self.before = np.ones((len(self.k), policy.by.k))
        self.feature = self.predicted = np.zeros((0, policy.by.k))

    def features(self, rounds: Rounds) -> Floats:
        """Return the features of what each round drafts, [rounds, k]."""
        j = np.arange(self.policy.k)
        at = np.minimum(rounds.at[:, None] + j, len(self.on_text) - 1)
        return np.asarray(np.where(j == rounds.run[:, None], self.rejected[at], self.on_text[at]), np.float64)

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many drafts of each round are verified, shape [rounds]."""
        drafted = super().lengths(rounds)
        there = np.arange(self.policy.k) < drafted[:, None]
        self.feature = self.features(rounds)
        self.predicted = self.estimator.predict(self.feature)
        before = self.before[rounds.output]
        self.before[rounds.output] = self.predicted
        if self.estimator.refits < self.policy.warm_up_refits:
            return drafted
        draft_s = float(self.draft_table[len(drafted)])
        drafts = budget(survival(before), there, draft_s, self.verify_table)
        return allotted(survival(self.predicted), there, drafts)

    def spent(self, rounds: Rounds, lengths: Counts, accepted: Counts) -> Spent:
        """Return what the rounds cost: drafts are made whether they are verified or not."""
        drafted = super().lengths(rounds)
        return Spent(lengths, lengths, drafted, drafted)

    def learn(self, output: Counts, lengths: Counts, accepted: Counts) -> None:
        """Take note of what was accepted of what was verified."""
        self.estimator.learn(self.feature, self.predicted, lengths, accepted)
