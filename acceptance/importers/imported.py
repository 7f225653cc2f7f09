"""What every importer returns, how K is settled, and the law that stands in where only a mean is known."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram, alpha_iid
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A histogram that another tool measured.

    definition: what the source's numbers mean and how the histogram follows from them. reconstructed: whether only a
    mean was there, so that the histogram's shape is assumed. rounds_apart: rounds that the source states and the
    histogram leaves out: they drafted another number of tokens than K. steps_without_draft: decode steps that drafted
    nothing, which no round of the histogram is, at least; None: not known. notes: whatever else a user should know.
    by_length: rounds of each number of drafted tokens by accepted ones; None: not known, or all drafted K.
    format: what the source was read as. model: the target's name, "" where the source does not say.
    """

    histogram: AcceptanceHistogram
    definition: str
    reconstructed: bool = False
    rounds_apart: float = 0.0
    steps_without_draft: float | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    by_length: Mapping[int, Sequence[float]] | None = None
    format: str = ""
    model: str = ""


class SeveralLengths(UserError):
    """A source whose rounds drafted several numbers of tokens, each of which can be asked for as K."""

    def __init__(self, message: str, lengths: Iterable[int]) -> None:
        super().__init__(f"{message}, expected {' or '.join(f'--k {k}' for k in sorted(lengths))}")
        self.lengths = tuple(sorted(lengths))


def settle_k(path: Path, *, requested: int | None, stated: int | None, at_least: int, evidence: str) -> tuple[int, str]:
    """Return K, by the user or by the file, and a clause that says where it comes from.

    at_least: the smallest K that the file's numbers allow; evidence: what that was taken from, for messages.
    """
    if requested is not None and stated is not None and requested != stated:
        raise UserError(f"{path}: the draft length is {stated} in this file, but --k is {requested}")
    for what, length in (("the draft length", stated or 0), (evidence, at_least)):
        if length > MAX_DRAFT_LENGTH:
            raise UserError(f"{path}: {what} is {length}, expected at most {MAX_DRAFT_LENGTH}")
    k = requested if requested is not None else stated
    if k is None:
        if at_least < 1:
            raise UserError(f"{path}: no round accepted a draft, which tells no draft length, expected --k as well")
        return at_least, f"K = {at_least} is inferred from {evidence}"
    if at_least > k:
        known = f"--k is {k}" if requested is not None else f"its draft length is {k}"
        raise UserError(f"{path}: {evidence} is {at_least}, but {known}")
    return k, f"K = {k} is {'as given' if requested is not None else 'as the file states'}"


def one_stated_k(path: Path, stated: Iterable[tuple[int, int | None]]) -> int | None:
    """Return the K that the records, (line, K) each, agree on; None where none states it."""
    known = [(line, k) for line, k in stated if k is not None]
    for line, k in known:
        if k != known[0][1]:
            raise UserError(
                f"{path}: the draft length is {k} on line {line}, but {known[0][1]} on line {known[0][0]}; "
                "expected one measurement in the file"
            )
    return known[0][1] if known else None


def histogram_from(path: Path, counts: Sequence[float], k: int) -> AcceptanceHistogram:
    """Return the histogram of these counts, with zeros up to K."""
    if math.fsum(counts) <= 0:
        raise UserError(f"{path}: counts no round that drafted {k} tokens, expected at least one")
    padded = [*map(float, counts), *[0.0] * (k + 1 - len(counts))]
    return AcceptanceHistogram(tuple(padded))


def needs_k(path: Path, tokens_per_round: float, hint: str = "") -> UserError:
    """Return the error for a file that states a mean and was given no K."""
    return UserError(
        f"{path}: states only a mean ({tokens_per_round:.4g} tokens a round{hint}), expected --k as well: "
        "the most tokens that a round drafted, such as num_speculative_tokens"
    )


def reconstruct(path: Path, *, rounds: float, tokens_per_round: float, k: int) -> AcceptanceHistogram:
    """Return the i.i.d. law with these tokens a round, as counts."""
    if not 1 - 1e-9 <= tokens_per_round <= k + 1 + 1e-9:
        raise UserError(f"{path}: {tokens_per_round:.6g} tokens a round, expected 1 to {k + 1} with --k {k}")
    alpha = float(alpha_iid(tokens_per_round, k))
    survival = np.power(alpha, np.arange(k + 1))
    return histogram_from(path, (rounds * (survival - np.append(survival[1:], 0.0))).tolist(), k)


def assumed(k: int) -> str:
    """Return the clause that says how a reconstructed histogram came about."""
    return (
        f"RECONSTRUCTED: only a mean was stated, so the shape is assumed to be that of K = {k} independent tokens "
        "with equal acceptance, with the same tokens a round"
    )


def about_undrafted(steps: float, histogram: AcceptanceHistogram) -> tuple[str, ...]:
    """Return the note on decode steps without a draft, which make fewer tokens a step than the histogram says."""
    if steps <= 0:
        return ()
    rounds = histogram.samples
    mean = (rounds * histogram.tokens_per_round + steps) / (rounds + steps)
    return (
        f"at least {steps:,.0f} decode steps ({steps / (rounds + steps):.1%} of all) had no draft and are in no round: "
        f"{histogram.tokens_per_round:.3f} tokens a round are at most {mean:.3f} a decode step",
    )


def about_short_rounds(rounds: float, missing: float, k: int) -> str:
    """Return the note on rounds with fewer than K drafts, `missing` of `rounds` x K, which none can tell apart."""
    low, high = math.ceil(missing / k), min(missing, rounds)
    return (
        f"{low:.10g} to {high:.10g} of {rounds:.10g} rounds drafted fewer than {k} tokens and cannot be told "
        "from the others: they are in the histogram, which understates acceptance at the later positions"
    )
