"""Counterfactual draft lengths: what a policy would have drafted and had accepted on a trace. Runs no model.

Position t of an output is accepted, if a draft for it is attempted, with probability a[t], independently of the rest
(model §3). A decode walk attempts a position at most once, so one coin a position is all the chance there is: with the
coins tossed, a round that starts at s and drafts K tokens accepts A = min(run of accepted coins from s, K), commits
A + 1 tokens, and the next starts at s + A + 1.

The end of an output is known to every policy as a token budget is to an engine: a round drafts at most the tokens
still to come minus one, for the target writes one itself. So the last token left is committed by a round without a
draft. Where an end-of-sequence token ended the output, a real engine would have drafted past it: such drafts are
outside the trace and not counted.

What a policy remembers is of one output: every turn starts anew.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Q_KINDS, Trace
from simulator.ground.artefacts import UserError

Counts = NDArray[np.int64]
Means = NDArray[np.float64]

MAX_DRAFT = 1_000_000
# The field's adaptive controller stays put this close to its target, and for its first rounds.
BAND = 0.1
WARM_UP_ROUNDS = 4
# Columns that `walk` returns; the last four in the order of `Spent`.
COUNTED = (
    "rounds",
    "rounds_without_draft",
    "accepted",
    "drafted_low",
    "drafted_high",
    "draft_passes_low",
    "draft_passes_high",
)


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        UserError: Names the field, the value and what is allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_DRAFT:
        raise UserError(f"{name}: {value!r} is not allowed, expected a whole number from {least} to {MAX_DRAFT}")


def check_fraction(name: str, value: float) -> None:
    """Refuse what lies outside 0..1.

    Raises:
        UserError: Names the field, the value and what is allowed.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value!r} is not allowed, expected a number from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Rounds that begin now, one for each output that is still being written; every array has shape [rounds].

    output: index of the output. at: position in the trace at which the round starts.
    room: the most that may be drafted: tokens of the output still to come, minus one.
    run: accepted coins from `at` on. The future: only an oracle may look before it has drafted.
    """

    output: Counts
    at: Counts
    room: Counts
    run: Counts


class Spent(NamedTuple):
    """Tokens sent to verification and forward passes of the draft, at least and at most; shape [rounds] each."""

    drafted_low: Counts
    drafted_high: Counts
    passes_low: Counts
    passes_high: Counts


class Player:
    """A policy at work on one decode walk of every output: drafts k[output] tokens where there is room.

    Args:
        k: Draft length of each output, shape [outputs].
    """

    def __init__(self, k: Counts) -> None:
        self.k = k

    def lengths(self, rounds: Rounds) -> Counts:
        """Return how many tokens each round drafts while none is rejected, shape [rounds]."""
        return np.minimum(self.k[rounds.output], rounds.room)

    def spent(self, rounds: Rounds, lengths: Counts, accepted: Counts) -> Spent:
        """Return what the rounds cost; a draft of known length takes one pass a token."""
        return Spent(lengths, lengths, lengths, lengths)

    def learn(self, output: Counts, lengths: Counts, accepted: Counts) -> None:
        """Take note of what these outputs had accepted, for the rounds to come; shape [rounds] each."""


class Outputs(Protocol):
    """Outputs one behind another, written or still to be."""

    @property
    def starts(self) -> Counts:
        """Return where each begins, and the end of the last, shape [outputs + 1]."""


class Policy(Protocol):
    """A rule for the draft length that looks at the past, and at the draft's own confidence."""

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same draft length every round.

    Raises:
        UserError: k is not a whole number >= 1.
    """

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

    Raises:
        UserError: initial is not a whole number >= 1.
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

    Raises:
        UserError: threshold outside 0..1, max_k not a whole number >= 1.
    """

    threshold: float
    max_k: int

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        check_whole("max_k", self.max_k)

    def begin(self, trace: Trace) -> Player:
        """Return the policy at the first token of every output of a trace.

        Raises:
            UserError: The trace has no confidences.
        """
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
    """The confidence stop at work.

    Args:
        k: Longest draft of each output, shape [outputs].
        unsure: Whether the draft's confidence is below the threshold, shape [positions].
    """

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
    """Drafts exactly the tokens that will be accepted, at most max_k: no policy up to max_k does better.

    Raises:
        UserError: max_k is not a whole number >= 1.
    """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What a policy did, for each prompt with an output, all its turns together; means over the replications.

    Every array has shape [measured prompts] and the order of `Trace.prompt_of_output`. Names as in model §4.

    tokens: tokens of the outputs. rounds: target passes. rounds_without_draft: those of them with nothing to verify.
    accepted: drafted tokens that were accepted; tokens = rounds + accepted.
    drafted_low, drafted_high: tokens sent to verification, at least and at most; they differ only for a policy that
    looks at confidences, which nobody knows off the text.
    draft_passes_low, draft_passes_high: forward passes of the draft: the tokens, and the passes that said stop.
    """

    tokens: Means
    rounds: Means
    rounds_without_draft: Means
    accepted: Means
    drafted_low: Means
    drafted_high: Means
    draft_passes_low: Means
    draft_passes_high: Means

    @property
    def tokens_per_round(self) -> float:
        """Tokens over rounds, of all prompts together; NaN without any."""
        return ratio(self.tokens, self.rounds)

    @property
    def target_calls_per_token(self) -> float:
        """Rounds over tokens, of all prompts together; NaN without any."""
        return ratio(self.rounds, self.tokens)

    @property
    def draft_calls_per_token(self) -> tuple[float, float]:
        """Draft passes over tokens, of all prompts together, at least and at most; NaN without any."""
        return ratio(self.draft_passes_low, self.tokens), ratio(self.draft_passes_high, self.tokens)

    @property
    def draft_acceptance_rate(self) -> tuple[float, float]:
        """Accepted over drafted, of all prompts together, at least and at most; NaN where nothing was drafted."""
        return ratio(self.accepted, self.drafted_high), ratio(self.accepted, self.drafted_low)


def ratio(part: Means, whole: Means) -> float:
    """Return the ratio of two sums; NaN over nothing."""
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def same_for_all(outputs: Outputs, k: int) -> Counts:
    """Return one draft length for each output, shape [outputs]."""
    return np.full(len(outputs.starts) - 1, k, np.int64)


def next_true(flags: NDArray[np.bool_]) -> Counts:
    """Return for each position the first at or after it whose flag is set, or their number; shape [positions]."""
    found = np.append(np.flatnonzero(flags), len(flags))
    return np.repeat(found, np.diff(found, prepend=-1))[: len(flags)]


def walk(starts: Counts, coins: NDArray[np.bool_], player: Player) -> Counts:
    """Walk through every output once, side by side.

    Args:
        starts: Where each output begins, and the end of the last; shape [outputs + 1].
        coins: Whether a draft of each position is accepted, shape [positions].
        player: The policy, at the first token of every output.

    Returns:
        Totals of each output, shape [outputs, len(COUNTED)].
    """
    ends, rejection = starts[1:], next_true(~coins)
    totals = np.zeros((len(ends), len(COUNTED)), np.int64)
    output, at = np.arange(len(ends)), starts[:-1]
    while len(output):
        rounds = Rounds(output=output, at=at, room=ends[output] - at - 1, run=rejection[at] - at)
        lengths = player.lengths(rounds)
        accepted = np.minimum(rounds.run, lengths)
        spent = player.spent(rounds, lengths, accepted)
        totals[output] += np.stack((np.ones_like(at), lengths == 0, accepted, *spent), axis=1)
        player.learn(output, lengths, accepted)
        at = at + accepted + 1
        writing = at < ends[output]
        output, at = output[writing], at[writing]
    return totals


def play(trace: Trace, policy: Policy, *, q_kind: str, rng: np.random.Generator, replications: int) -> Played:
    """Play a policy on a trace.

    The coins depend on the generator and the trace alone, so that policies played with equal generators meet equal
    coins, and their differences carry none of the coins' noise. Where every a[t] is 0 or 1 (greedy drafts, or
    temperature 0) one replication is exact: the policy is played once, and the generator is left alone.

    Args:
        trace: What the target wrote, and how likely its draft is accepted.
        policy: The rule for the draft length.
        q_kind: "sampled" or "greedy": how the draft picks its tokens.
        rng: Source of the coins.
        replications: Tosses of all coins, >= 1, to take the mean over. They are made one after another: memory stays
            a few arrays of [positions].

    Raises:
        UserError: Another q_kind, fewer replications than 1, or a confidence stop on a trace without confidences.
    """
    if q_kind not in Q_KINDS:
        raise UserError(f"q_kind: {q_kind!r} is not allowed, expected one of {', '.join(Q_KINDS)}")
    check_whole("replications", replications)
    accept, starts = trace.accept(q_kind), trace.starts
    certain = bool(((accept == 0) | (accept == 1)).all())
    times = 1 if certain else replications
    totals = np.zeros((len(starts) - 1, len(COUNTED)), np.int64)
    for _ in range(times):
        coins = accept == 1 if certain else rng.random(trace.size) < accept
        totals += walk(starts, coins, policy.begin(trace))
    return by_prompt(trace, totals / times)


def by_prompt(trace: Trace, means: Means) -> Played:
    """Add up what was counted of each output, shape [outputs, len(COUNTED)], over the outputs of each prompt."""
    prompt = trace.prompt_of_output

    def summed(values: Means | Counts) -> Means:
        return np.asarray(np.bincount(prompt, weights=values), np.float64)

    counted = {name: summed(column) for name, column in zip(COUNTED, means.T, strict=True)}
    return Played(tokens=summed(np.diff(trace.starts)), **counted)
