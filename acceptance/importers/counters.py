"""Totals over many rounds: drafts, drafted and accepted tokens, and tokens accepted at each position."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Skipped

from .imported import (
    Imported,
    about_short_rounds,
    assumed,
    histogram_from,
    needs_k,
    reconstruct,
    settle_k,
)

# Counters are read one after another while a server may be running.
AGREEMENT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Totals over rounds that drafted; accepted tokens are without correction and bonus; None: not known.

    per_position[j]: rounds that accepted more than j drafts; empty where it is not known.
    """

    rounds: float
    drafted: float | None
    accepted: float
    per_position: tuple[float, ...]


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
    return Counters(
        rounds=sum(p.rounds for p in parts),
        drafted=sum(drafted) if len(drafted) == len(parts) else None,
        accepted=sum(p.accepted for p in parts),
        per_position=tuple(map(sum, zip(*(p.per_position for p in parts), strict=True))),
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
        UserError: They contradict the user's K, or it is needed and missing.
    """
    tokens_per_round = 1 + c.accepted / c.rounds
    drafted_each = None if c.drafted is None else c.drafted / c.rounds
    if not c.per_position and requested is None:
        hint = "" if drafted_each is None else f", {drafted_each:.4g} drafted"
        raise needs_k(path, tokens_per_round, hint)
    stated = len(c.per_position) or None
    k, source = settle_k(path, requested=requested, stated=stated, at_least=1, evidence="a position")
    if drafted_each is not None and drafted_each > k * (1 + 1e-9):
        raise UserError(f"{path}: {drafted_each:.6g} tokens were drafted a round, but --k is {k}")
    if c.per_position:
        rates = (c.rounds, *c.per_position, 0.0)
        # Positions may rise by rounding alone, which check_positions allows.
        counts = [max(0.0, rates[a] - rates[a + 1]) for a in range(k + 1)]
        histogram = histogram_from(path, counts, k)
        how = f"hist[0] = drafts - accepted[0] and hist[a] = accepted[a - 1] - accepted[a]; {source}"
    else:
        histogram = reconstruct(path, rounds=c.rounds, tokens_per_round=tokens_per_round, k=k)
        how = assumed(k)
    return Imported(
        histogram=histogram,
        definition=f"{meaning}; {how}.",
        reconstructed=not c.per_position,
        notes=(*notes, *notes_on(c, k)),
        skipped=skipped,
    )


def notes_on(c: Counters, k: int) -> tuple[str, ...]:
    """Return what the totals do not tell or nearly contradict."""
    notes = []
    if c.drafted is not None and c.rounds * k - c.drafted > 1e-6 * c.drafted:
        notes.append(about_short_rounds(c.rounds, c.rounds * k - c.drafted, k))
    total = sum(c.per_position)
    if c.per_position and abs(total - c.accepted) > 1e-6 * max(total, c.accepted):
        notes.append(
            f"the positions accepted {total:.10g} tokens and the accepted count is {c.accepted:.10g}: "
            "read while they changed, or rounded; the positions were used"
        )
    return tuple(notes)
