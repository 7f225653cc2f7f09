"""What a forecast or a sweep recommends, as engines take it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulator.costs.engines.settings import QUANTIZATIONS, Recommended

from .schedule import Range

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair
    from simulator.rounds.grid import Sweep

    from .comparison import Comparison


def recommended(
    pair: "ModelPair", draft: str | None, ranges: tuple[Range, ...], batch: int | None = None
) -> Recommended | None:
    """Return what to tell engines of a schedule; None where no batch size fits.

    Args:
        pair: The models.
        draft: What the user calls the drafter.
        ranges: Draft lengths by batch size.
        batch: The one whose draft length is for engines that have but one; None: the smallest.
    """
    if not ranges:
        return None
    at = ranges[0].first if batch is None else batch
    here = next((r.draft_length for r in ranges if r.first <= at <= r.last), None)
    if here is None:
        return None
    return of_pair(pair, draft, tuple((r.first, r.last, r.draft_length) for r in ranges), here)


def of_pair(
    pair: "ModelPair", draft: str | None, rows: tuple[tuple[int, int, int], ...], draft_length: int
) -> Recommended:
    """Return what to tell engines of a method on two models."""
    from simulator.costs.model_costs import SEPARATE

    stored, is_own = pair.draft_dtype, pair.method.engines.needs_model
    is_named = draft is None and pair.draft.drafting is None and is_own
    return Recommended(
        method=pair.method,
        tree=pair.tree,
        draft=pair.draft.name if is_named else draft if is_own else None,
        draft_format=stored if isinstance(stored, str) and stored in QUANTIZATIONS and is_own else "",
        devices=pair.devices,
        draft_devices=pair.draft_devices,
        apart=pair.placement == SEPARATE,
        rows=rows,
        draft_length=draft_length,
        modules=pair.draft.drafting.modules if pair.draft.drafting else 1,
    )


def of_sweep(sweep: "Sweep", draft: str | None) -> Iterator[tuple[dict[str, float], int | None, Recommended | None]]:
    """Yield what a sweep over ranges of batch sizes recommends: other values, where drafting ends, and what to tell."""
    from simulator.costs.parameters import key_of

    from .schedule import off_above
    from .sweep_answers import blocks_of, has_ranges, plan_of

    pair = sweep.pricing.models
    for block in blocks_of(sweep) if has_ranges(sweep.grid) else ():
        plan, sizes = plan_of(block), block.sizes
        values = {
            key_of(name, sweep.pricing.load): block.point[name] for name in sweep.grid.axes if name in block.point
        }
        # Engines' ranges have no gaps.
        told = pair is not None and sizes[-1] == len(sizes)
        yield values, off_above(plan), recommended(pair, draft, plan) if told and pair else None


def of_comparison(
    comparison: "Comparison", own: str | None, draft: str | None
) -> "Iterator[tuple[Range, str, Recommended | None]]":
    """Yield the methods to take: batch sizes, name, and what to tell engines at the first of these, and by batch size.

    own, draft: the method of the drafter that the user named, and what that is called.
    """
    from .schedule import schedule

    for at in comparison.take:
        if at.draft_length:
            one = comparison.contenders[at.draft_length - 1]
            plan = schedule(one.pair, one.acceptance, one.longest, overlap=False)
            yield at, one.name, recommended(one.pair, draft if one.name == own else None, plan, at.first)
