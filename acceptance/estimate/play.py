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

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from acceptance.trace.trace import Q_KINDS, Trace
from simulator.ground.artefacts import UserError
from simulator.ground.ranges import check_whole

Counts = NDArray[np.int64]
Means = NDArray[np.float64]


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
    """A policy at work on one decode walk of every output: drafts k[output] tokens where there is room."""

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


# Columns that `walk` returns; the last four in the order of `Spent`.
COUNTED = tuple(f.name for f in fields(Played) if f.name != "tokens")


def ratio(part: Means, whole: Means) -> float:
    """Return the ratio of two sums; NaN over nothing."""
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def next_true(flags: NDArray[np.bool_]) -> Counts:
    """Return for each position the first at or after it whose flag is set, or their number; shape [positions]."""
    positions = np.append(np.flatnonzero(flags), len(flags))
    return np.repeat(positions, np.diff(positions, prepend=-1))[: len(flags)]


class Source(Protocol):
    """What decides how many drafts are accepted."""

    def run(self, at: Counts) -> Counts:
        """Return how many would be, of drafts without an end that begin at these positions; shape [rounds]."""

    def accepted(self, run: Counts, lengths: Counts) -> Counts:
        """Return how many are, of drafts of these lengths in the same rounds; shape [rounds]."""


class Coins:
    """The source that a text is: whether a draft of each position is accepted, [positions]."""

    def __init__(self, coins: NDArray[np.bool_]) -> None:
        self.rejection = next_true(~coins)

    def run(self, at: Counts) -> Counts:
        """Return the accepted coins from each position on."""
        return np.asarray(self.rejection[at] - at)

    def accepted(self, run: Counts, lengths: Counts) -> Counts:
        """Return as many of them as were drafted."""
        return np.minimum(run, lengths)


class Step(NamedTuple):
    """One round of each output that runs: what a pass of the target verifies together. Arrays of shape [rounds]."""

    rounds: Rounds
    lengths: Counts
    accepted: Counts
    spent: Spent


def steps(starts: Counts, source: Source, player: Player, slots: int | None = None) -> Iterator[Step]:
    """Walk through every output once.

    starts: where each output begins, and the end of the last, [outputs + 1]. source: what is accepted. player: the
    policy, at the first token of every output. slots: outputs that run side by side, in their order, the next where one
    has ended; None: all.
    """
    ends, count = starts[1:], len(starts) - 1
    begun = count if slots is None else min(slots, count)
    output, at = np.arange(begun), starts[:begun]
    while len(output):
        rounds = Rounds(output=output, at=at, room=ends[output] - at - 1, run=source.run(at))
        lengths = player.lengths(rounds)
        accepted = source.accepted(rounds.run, lengths)
        yield Step(rounds, lengths, accepted, player.spent(rounds, lengths, accepted))
        player.learn(output, lengths, accepted)
        at = at + accepted + 1
        writing = at < ends[output]
        if not writing.all():
            next_ones = np.arange(begun, min(count, begun + int((~writing).sum())))
            begun += len(next_ones)
            output, at = np.append(output[writing], next_ones), np.append(at[writing], starts[next_ones])


def walk(starts: Counts, coins: NDArray[np.bool_], player: Player) -> Counts:
    """Walk through every output of a text, side by side; return totals of each, [outputs, len(COUNTED)]."""
    totals = np.zeros((len(starts) - 1, len(COUNTED)), np.int64)
    for rounds, lengths, accepted, spent in steps(starts, Coins(coins), player):
        totals[rounds.output] += np.stack((np.ones_like(lengths), lengths == 0, accepted, *spent), axis=1)
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
    starts, times = trace.starts, 0
    totals = np.zeros((len(starts) - 1, len(COUNTED)), np.int64)
    for coins in tosses(trace.accept(q_kind), rng, replications):
        totals += walk(starts, coins, policy.begin(trace))
        times += 1
    return by_prompt(trace, totals / times)


def tosses(accept: Means, rng: np.random.Generator, replications: int) -> Iterator[NDArray[np.bool_]]:
    """Yield tosses of all coins, [positions]; those that are certain once, and the generator is left alone."""
    if bool(((accept == 0) | (accept == 1)).all()):
        yield accept == 1
        return
    for _ in range(replications):
        yield rng.random(len(accept)) < accept


def by_prompt(trace: Trace, means: Means) -> Played:
    """Add up what was counted of each output, shape [outputs, len(COUNTED)], over the outputs of each prompt."""
    prompt = trace.prompt_of_output

    def summed(values: Means | Counts) -> Means:
        return np.asarray(np.bincount(prompt, weights=values), np.float64)

    counted = {name: summed(column) for name, column in zip(COUNTED, means.T, strict=True)}
    return Played(tokens=summed(np.diff(trace.starts)), **counted)
