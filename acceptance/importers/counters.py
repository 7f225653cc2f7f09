"""Totals over many rounds: drafts, drafted and accepted tokens, and tokens accepted at each position."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Skipped

from .imported import (
    Imported,
    about_short_rounds,
    about_undrafted,
    assumed,
    histogram_from,
    needs_k,
    reconstruct,
    settle_k,
)

# Counters are read one after another while a server may be running.
AGREEMENT = 0.01
# Of all rounds: where more than these drafted fewer than K tokens, the later positions are no survival of K.
MOST_SHORT = 0.1
PAST_THE_END = (
    "accepted drafts behind an end of sequence are counted though never emitted (vLLM issue 56101): "
    "short answers make fewer tokens a round than this"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Totals over rounds that drafted; accepted tokens are without correction and bonus; None: not known.

    per_position[j]: rounds that accepted more than j drafts; empty where it is not known. undrafted: decode steps
    without a draft, at least.
    """

    rounds: float
    drafted: float | None
    accepted: float
    per_position: tuple[float, ...]
    undrafted: float | None = None


def check_counters(c: Counters) -> None:
    """Refuse totals that contradict one another."""
    if c.rounds <= 0:
        raise BadRecord("counts no drafts")
    if c.drafted is not None and c.accepted > c.drafted:
        raise BadRecord(f"{c.accepted:.17g} tokens accepted, but {c.drafted:.17g} drafted")
    if not c.per_position:
        return
    k = len(c.per_position)
    if k > MAX_DRAFT_LENGTH:
        raise BadRecord(f"has {k} positions, expected at most {MAX_DRAFT_LENGTH}")
    if c.drafted is not None and c.drafted > c.rounds * k * (1 + 1e-9):
        raise BadRecord(f"{c.drafted:.17g} tokens drafted, but {c.rounds:.17g} drafts have {k} positions each")
    check_positions(c)


def check_positions(c: Counters) -> None:
    """Refuse positions that rise, or that do not sum to the accepted tokens; see `check_counters`."""
    before, where = c.rounds, "drafts"
    for position, accepted in enumerate(c.per_position):
        if accepted > before * (1 + 1e-9):
            raise BadRecord(f"position {position} accepted {accepted:.17g} tokens, but {where} are {before:.17g}")
        before, where = accepted, f"those of position {position}"
    total = sum(c.per_position)
    if abs(total - c.accepted) > AGREEMENT * max(total, c.accepted):
        raise BadRecord(
            f"the positions accepted {total:.10g} tokens in all, but the accepted count is {c.accepted:.10g}"
        )


def sum_counters(parts: Iterable[Counters]) -> Counters:
    """Return the totals of all parts, which have the same number of positions."""
    parts = tuple(parts)
    drafted = [p.drafted for p in parts if p.drafted is not None]
    undrafted = [p.undrafted for p in parts if p.undrafted is not None]
    return Counters(
        rounds=sum(p.rounds for p in parts),
        drafted=sum(drafted) if len(drafted) == len(parts) else None,
        accepted=sum(p.accepted for p in parts),
        per_position=tuple(map(sum, zip(*(p.per_position for p in parts), strict=True))),
        undrafted=sum(undrafted) if undrafted else None,
    )


def counters_without_drafts(path: Path, drafted: float, accepted: float, emitted: float | None, k: int) -> Counters:
    """Return the totals where drafts themselves are not counted: each is taken to be of K tokens.

    emitted: tokens of those rounds, the target's own in. Engines that count them (vLLM before V1) call accepted what
    matches after a rejection too, so that `accepted` does not tell the mean.
    """
    rounds = drafted / k
    mean = (emitted if emitted is not None else rounds + accepted) / rounds
    if not 1 - 1e-9 <= mean <= k + 1 + 1e-9:
        raise UserError(f"{path}: {mean:.6g} tokens a round, expected 1 to {k + 1} with --k {k}")
    return Counters(rounds=rounds, drafted=drafted, accepted=max(0.0, mean - 1) * rounds, per_position=())


def meaning_without_drafts(emitted: float | None) -> str:
    """Return the definition that goes with `counters_without_drafts`."""
    if emitted is None:
        return "counters without drafts (vLLM 0.8): rounds = drafted / K, tokens a round = 1 + accepted / rounds"
    return (
        "counters of vLLM before V1: rounds = drafted / K, tokens a round = emitted / rounds "
        "(accepted counts matches after a rejection too)"
    )


def needs_k_for_rounds(path: Path) -> UserError:
    """Return the error for totals that count no rounds and were given no K."""
    return UserError(
        f"{path}: counts drafted tokens and no drafts, as vLLM before 0.9 did, expected --k as well: "
        "num_speculative_tokens of the server (rounds are drafted / K)"
    )


def import_counters(
    path: Path,
    c: Counters,
    requested: int | None,
    *,
    meaning: str,
    notes: tuple[str, ...] = (),
    skipped: tuple[Skipped, ...] = (),
) -> Imported:
    """Turn checked totals into a histogram: exactly from the positions, else by reconstruction from the mean.

    Raises:
        UserError: They contradict the user's K, or it is needed and missing; or K changed while they were counted.
    """
    if not c.per_position:
        return import_mean(path, c, requested, meaning=meaning, notes=notes, skipped=skipped)
    k, source = settle_positions(path, c, requested)
    rates = (c.rounds, *c.per_position, 0.0)
    # Positions may rise by rounding alone, which check_positions allows.
    counts = [max(0.0, rates[a] - rates[a + 1]) for a in range(k)] + [rates[k]]
    histogram = histogram_from(path, counts, k)
    how = f"hist[0] = drafts - accepted[0] and hist[a] = accepted[a - 1] - accepted[a]; {source}"
    return Imported(
        histogram=histogram,
        definition=f"{meaning}; {how}.",
        steps_without_draft=None if c.undrafted is None else max(0.0, c.undrafted),
        notes=(*notes, *notes_on(c, k), *about_undrafted(c.undrafted or 0.0, histogram)),
        skipped=skipped,
    )


def import_mean(
    path: Path,
    c: Counters,
    requested: int | None,
    *,
    meaning: str,
    notes: tuple[str, ...],
    skipped: tuple[Skipped, ...],
) -> Imported:
    """Reconstruct a histogram from totals without positions; see `import_counters`."""
    tokens_per_round = 1 + c.accepted / c.rounds
    drafted_each = None if c.drafted is None else c.drafted / c.rounds
    if requested is None:
        raise needs_k(path, tokens_per_round, "" if drafted_each is None else f", {drafted_each:.4g} drafted")
    if drafted_each is not None and drafted_each > requested * (1 + 1e-9):
        raise UserError(f"{path}: {drafted_each:.6g} tokens were drafted a round, but --k is {requested}")
    histogram = reconstruct(path, rounds=c.rounds, tokens_per_round=tokens_per_round, k=requested)
    return Imported(
        histogram=histogram,
        definition=f"{meaning}; {assumed(requested)}.",
        reconstructed=True,
        steps_without_draft=None if c.undrafted is None else max(0.0, c.undrafted),
        notes=(*notes, *notes_on(c, requested), *about_undrafted(c.undrafted or 0.0, histogram)),
        skipped=skipped,
    )


def settle_positions(path: Path, c: Counters, requested: int | None) -> tuple[int, str]:
    """Return K and where it comes from; a shorter one may be picked where the draft length changed."""
    stated = len(c.per_position)
    missing = 0.0 if c.drafted is None else c.rounds * stated - c.drafted
    short = math.ceil(missing / stated - 1e-6) / c.rounds
    if short > MOST_SHORT and requested is None:
        raise UserError(
            f"{path}: at least {short:.0%} of {c.rounds:.10g} drafts were shorter than their {stated} positions, "
            "expected --k 1, which every draft has, a longer --k, or counts by draft length (vllm-requests)"
        )
    if short > MOST_SHORT and requested is not None and requested < stated:
        return requested, f"K = {requested} is as given, the first of {stated} positions"
    return settle_k(path, requested=requested, stated=stated, at_least=1, evidence="a position")


def notes_on(c: Counters, k: int) -> tuple[str, ...]:
    """Return what the totals do not tell or nearly contradict."""
    notes = []
    positions = len(c.per_position) or k
    missing = 0.0 if c.drafted is None else c.rounds * positions - c.drafted
    if missing > 1e-6 * (c.drafted or 1.0) and k == positions:
        notes.append(about_short_rounds(c.rounds, missing, k))
    elif missing and k > 1:
        most = min(c.rounds, missing / (positions - k + 1))
        notes.append(
            f"up to {most:.10g} of {c.rounds:.10g} drafts were shorter than {k} tokens: acceptance is understated"
        )
    total = sum(c.per_position)
    if c.per_position and abs(total - c.accepted) > 1e-6 * max(total, c.accepted):
        notes.append(
            f"the positions accepted {total:.10g} tokens and the accepted count is {c.accepted:.10g}: "
            "read while they changed, or rounded; the positions were used"
        )
    return tuple(notes)
