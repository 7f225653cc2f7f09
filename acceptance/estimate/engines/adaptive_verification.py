"""vLLM's adaptive verification (`enable_adaptive_verification`): of what was drafted, verify what is worth its time.

`vllm/v1/worker/gpu/spec_decode/adaptive_verification.py`. Every sequence drafts K tokens and pays for them. How many
drafts the batch sends to verification follows from confidences one step old, which of them from those of this step: the
likeliest to be reached and accepted. The largest number of tokens a second decides, by tables of what drafting and
verifying take. Until the estimate of confidences was fitted three times, whole drafts are verified.

A trace knows the draft's confidence on the text alone. Behind the first rejected draft, where the draft is off the
text, the confidences that it had on the text at the same positions stand in. A trained confidence head is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acceptance.estimate.play import Counts, Player, Rounds, Spent
from acceptance.estimate.policies import same_for_all
from acceptance.trace.trace import Trace
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH

from .estimator import Floats, OnlineLogistic, of_log_q, of_margin
from .price import StepPrice

NAME = "vllm-adaptive"
WARM_UP_REFITS, REFIT_EVERY = 3, 100
# Tokens of the largest pass that the engine captures as a graph.
CAPTURED = 512


def staircase(sizes: Sequence[int], seconds: Floats, most: int, captured: int) -> Floats:
    """Return the seconds of passes over 0..most tokens, from those of some sizes.

    They rise; up to the largest captured graph a pass is padded to the next size that was timed, above it they are
    interpolated, and beyond the last size go on in a line.
    """
    xs, ys, values = np.asarray(sizes), np.maximum.accumulate(seconds), np.arange(most + 1)
    table = ys[np.minimum(np.searchsorted(xs, values), len(xs) - 1)]
    above = xs > captured
    if above.any():
        table = np.where(values > captured, np.interp(values, xs[above], ys[above]), table)
    if len(xs) > 1:
        line = ys[-1] + (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) * (values - xs[-1])
        table = np.where(values > xs[-1], line, table)
    return np.asarray(table, np.float64)


def graph_sizes(captured: int, most: int) -> list[int]:
    """Return the tokens of the passes that vLLM times: of captured graphs, then one and a half, twice, four times."""
    graphs = [n for n in (1, 2, 4, *range(8, 256, 8), *range(256, captured + 1, 16)) if n <= captured]
    tail, size = {min(graphs[-1] + graphs[-1] // 2, most)}, graphs[-1]
    while size < most:
        size = min(2 * size, most)
        tail.add(size)
    return sorted({*graphs, *tail})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveVerification:
    """Drafts of k tokens, verified as far as they are worth it.

    greedy: whether drafts are the first choice, whose confidence is a margin, or sampled. most: sequences that run at
    once, at most. price: of the steps, as the engine would time them.
    """

    k: int
    greedy: bool
    most: int
    price: StepPrice | None = None
    captured: int = CAPTURED
    refit_every: int = REFIT_EVERY
    warm_up_refits: int = WARM_UP_REFITS
    keeps_up: bool = True
    asks_costs: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """What a trace has to hold."""
        return ("margin_q",) if self.greedy else ("log_q", "log_q_rejected")

    @property
    def warm_up(self) -> int:
        """Steps in which whole drafts are verified."""
        return self.refit_every * self.warm_up_refits

    @property
    def longest(self) -> int:
        """The longest draft."""
        return self.k

    def tables(self) -> tuple[Floats, Floats]:
        """Return what drafting takes, by sequences, and what verifying takes, by tokens."""
        if self.price is None:
            raise ValueError("adaptive verification without a price of steps")
        most = self.most * (self.k + 1)
        tokens = np.array(graph_sizes(min(self.captured, max(most, 1)), most))
        running = np.minimum(-(-tokens // (self.k + 1)), self.most)
        verify = staircase(
            tokens.tolist(), self.price.verify_s(running, np.maximum(tokens, running)), most, self.captured
        )
        return self.price.draft_s(np.arange(self.most + 1), np.full(self.most + 1, self.k)), verify

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
        super().__init__(same_for_all(trace, policy.k))
        self.policy, self.on_text, self.rejected = policy, on_text, rejected
        self.draft_table, self.verify_table = policy.tables()
        self.estimator = OnlineLogistic(policy.k, policy.refit_every)
        # Confidences of each output's last step; 1 before there are any.
        self.before = np.ones((len(self.k), policy.k))
        self.feature = self.predicted = np.zeros((0, policy.k))

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


def adaptive_verification(settings: Field, *, greedy: bool, most: int) -> AdaptiveVerification:
    """vLLM's adaptive verification of drafts of k tokens."""
    settings.only(("k", "captured", "refit_every", "warm_up_refits"))
    return AdaptiveVerification(
        k=settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4),
        greedy=greedy,
        most=most,
        captured=settings["captured"].whole(1, default=CAPTURED),
        refit_every=settings["refit_every"].whole(1, default=REFIT_EVERY),
        warm_up_refits=settings["warm_up_refits"].whole(0, default=WARM_UP_REFITS),
    )
