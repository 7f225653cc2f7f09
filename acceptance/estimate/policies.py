"""Policies: rules for the draft length of the next round, to be played on a trace (`play`) or to draft by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError
from simulator.ground.ranges import check_fraction, check_whole

from .play import Counts, Outputs, Player, Rounds, Spent, next_true

# The field's adaptive controller stays put this close to its target, and for its first rounds.
BAND = 0.1
WARM_UP_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same draft length every round."""

    k: int

    def __post_init__(self) -> None:
        check_whole("k", self.k)

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return Player(same_for_all(outputs, self.k))


@dataclass(frozen=True, slots=True)
class HuggingFaceHeuristic:
    """Two tokens more after a round whose drafts were all accepted, else one less, never below 1; no upper limit.

    Source: transformers 5.23, `AssistedCandidateGenerator.update_candidate_strategy` with
    `num_assistant_tokens_schedule="heuristic_transient"`, `initial` is its `num_assistant_tokens`. "All" are the
    tokens really drafted, also where the end of the output left room for fewer. "heuristic" differs in that its state
    survives from prompt to prompt in the assistant's generation config; here it restarts with every output. The
    library's default schedule is "constant", and it also stops a draft after a token with a probability below 0.4;
    that is not played here.
    """

    initial: int = 20

    def __post_init__(self) -> None:
        check_whole("initial", self.initial)

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return HeuristicPlayer(same_for_all(outputs, self.initial))


class HeuristicPlayer(Player):
    """Hugging Face's heuristic at work."""

    def learn(self, output: Counts, lengths: Counts, accepted: Counts) -> None:
        """Lengthen after full acceptance, shorten after a rejection."""
        k = self.k[output]
        self.k[output] = np.where(accepted == lengths, k + 2, np.maximum(1, k - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """The field's controller: longer drafts while most are accepted, shorter ones while few are.

    After each round from the fourth on, with the last `window` rounds (or as many as there were) it takes the rate
    accepted / drafted, both summed over the rounds: above target + 0.1 the draft length grows by `step`, up to
    `max`; below target - 0.1 it shrinks by `step`, down to `min`; on the limits and between them it stays. So it never
    grows with a target from 0.9 on, nor shrinks with one up to 0.1.

    The codes that this stands for take the mean of the last four values of a rate that is cumulative since the start
    of the output, so that old rounds never lose their weight, and keep 32 values of which 28 are not used. Here the
    window is what the rate is of, and rounds of the cut tail count by what they really drafted.

    Raises:
        UserError: A field out of its range, or not min <= initial <= max.
    """

    initial: int = 4
    min: int = 1
    max: int = 8
    step: int = 1
    window: int = 32
    target: float = 0.7

    def __post_init__(self) -> None:
        for name in ("initial", "min", "max", "step", "window"):
            check_whole(name, getattr(self, name))
        check_fraction("target", self.target)
        if not self.min <= self.initial <= self.max:
            raise UserError(
                f"initial: {self.initial} is not allowed, expected min <= initial <= max, here {self.min} to {self.max}"
            )

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return AdaptivePlayer(self, outputs)


class AdaptivePlayer(Player):
    """The adaptive controller at work, with sums over the rounds so far of each output.

    An output of n tokens has at most n rounds, so its sums after 0..n rounds take n + 1 places of one flat array.
    """

    def __init__(self, policy: Adaptive, outputs: Outputs) -> None:
        super().__init__(same_for_all(outputs, policy.initial))
        self.policy = policy
        count, starts = len(self.k), outputs.starts
        self.rounds = np.zeros(count, np.int64)
        self.first = starts[:-1] + np.arange(count)
        self.accepted = np.zeros(starts[-1] + count, np.int64)
        self.drafted = np.zeros(starts[-1] + count, np.int64)
        # In decimal: 0.7 + 0.1 is a little less than 0.8, and a rate of 4/5 is not above the limit.
        self.grow_above = round(policy.target + BAND, 9)
        self.shrink_below = round(policy.target - BAND, 9)

    def learn(self, output: Counts, lengths: Counts, accepted: Counts) -> None:
        """Add the round to the sums and move by one step."""
        policy = self.policy
        self.rounds[output] += 1
        played = self.rounds[output]
        now = self.first[output] + played
        self.accepted[now] = self.accepted[now - 1] + accepted
        self.drafted[now] = self.drafted[now - 1] + lengths
        before = now - np.minimum(played, policy.window)
        drafted = self.drafted[now] - self.drafted[before]
        # Nothing drafted in the whole window: only the last token of an output was left, and no round will follow.
        rate = (self.accepted[now] - self.accepted[before]) / np.maximum(drafted, 1)
        direction = (rate > self.grow_above).astype(np.int64) - (rate < self.shrink_below)
        move = np.where(played >= WARM_UP_ROUNDS, policy.step * direction, 0)
        self.k[output] = np.clip(self.k[output] + move, policy.min, policy.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceStop:
    """Drafts until its largest probability falls below the threshold, at most max_k tokens.

    The pass that found out is paid, its token is not sent (transformers sends it). A round whose first pass is below
    the threshold has no draft. With threshold 0 nothing stops a draft before max_k.

    After a rejected token the draft is off the text, and a trace does not know its confidence: at least it stopped
    at the next pass, at most it went on to max_k. How much was drafted in vain is known within these bounds only;
    rounds and acceptances do not depend on it.

    Confidence is the trace's `max_q`: of the law that the draft samples from, at temperature 0 of its softmax.
    """

    threshold: float
    max_k: int

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        check_whole("max_k", self.max_k)

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace."""
        if np.isnan(trace.max_q).any():
            raise UserError(
                "confidence stop: max_q of the trace is NaN, the draft has another tokenizer than the target; "
                "expected a trace of a pair with one tokenizer"
            )
        k = same_for_all(trace, self.max_k)
        if self.threshold == 0:
            return Player(k)
        # In the trace's precision: a stored 0.7 is not below a threshold of 0.7.
        return ConfidencePlayer(k, np.asarray(trace.max_q, np.float32) < np.float32(self.threshold))


class ConfidencePlayer(Player):
    """The confidence stop at work; unsure: whether the draft's confidence is below the threshold, [positions]."""

    def __init__(self, k: Counts, unsure: NDArray[np.bool_]) -> None:
        super().__init__(k)
        self.stop = next_true(unsure)

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts while none is rejected, shape [rounds]."""
        sure: Counts = self.stop[rounds.at] - rounds.at
        return np.minimum(super().lengths(rounds), sure)

    def spent(self, rounds: Rounds, lengths: Counts, accepted: Counts) -> Spent:
        """Return bounds: after a rejection the draft stops at once, or never."""
        most = super().lengths(rounds)
        rejected = accepted < lengths
        low, high = np.where(rejected, accepted + 1, lengths), np.where(rejected, most, lengths)
        return Spent(low, high, np.minimum(low + 1, most), np.minimum(high + 1, most))


@dataclass(frozen=True, slots=True)
class Oracle:
    """Drafts exactly the tokens that will be accepted, at most max_k: no policy up to max_k does better."""

    max_k: int

    def __post_init__(self) -> None:
        check_whole("max_k", self.max_k)

    def begin(self, outputs: Outputs) -> Player:
        """Return the policy at the first token of every output."""
        return OraclePlayer(same_for_all(outputs, self.max_k))


class OraclePlayer(Player):
    """The oracle at work."""

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts, shape [rounds]."""
        return np.minimum(super().lengths(rounds), rounds.run)


def same_for_all(outputs: Outputs, k: int) -> Counts:
    """Return one draft length for each output, shape [outputs]."""
    return np.full(len(outputs.starts) - 1, k, np.int64)
