"""What a sweep answers, as a terminal and as JSON have it; of several cases, all together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.costs.parameters import key_of
from simulator.ground.artefacts import envelope
from simulator.ground.command import wrapped

from .cases import Case, named

if TYPE_CHECKING:
    from simulator.answers.basis import Basis
    from simulator.answers.sweep_answers import Answer
    from simulator.rounds.grid import Sweep
    from simulator.rounds.sweeping import Overview

    from .sweep import SweepOptions


class Swept(NamedTuple):
    """A case of a sweep: what it differs by from others, and what was found of it."""

    case: Case
    task: "Sweep"
    seen: "Overview"
    options: "SweepOptions"
    basis: "Basis"


def sweep_text(cases: "Sequence[Swept]", answers: "list[Answer]", *, default_length: bool) -> str:
    """Return what a sweep answers: its best point, what it rests on, and the best K by the other values.

    default_length: whether nobody said which draft lengths to look at.
    """
    from simulator.answers.sweep_answers import has_ranges
    from simulator.answers.sweep_table import answers_text, off_text

    best = best_of(cases)
    if best is None:
        said = [*cases[0].basis.lines, *cases[0].options.said, *unfit_text(cases[0].task)]
        return wrapped([headline(cases), *said])
    grid, lines = best.task.grid, [headline(cases), *best.basis.lines, *best.options.said]
    batch = key_of("batch", best.task.pricing.load)
    if not best.case and not grid.axes:
        return "\n".join(lines)
    lines += [
        count_text(cases, default_length=default_length),
        *([off_text(answers, batch)] if has_ranges(grid) else []),
    ]
    return "\n".join([wrapped(lines), "", answers_text(grid, answers, len(cases), batch)])


def best_of(cases: "Sequence[Swept]") -> Swept | None:
    """Return the case with the best point, None where nothing fits into memory."""
    fitting = [case for case in cases if case.seen.best is not None]
    return max(fitting, key=lambda case: case.seen.speedup, default=None)


def headline(cases: "Sequence[Swept]") -> str:
    """Return the answer as one line."""
    best = best_of(cases)
    return "Does not fit into memory, at any of these points." if best is None else best_text(best)


def unfit_text(task: "Sweep") -> list[str]:
    """Say with what it would fit at the least of its points."""
    from simulator.costs.room import room, would_fit

    pair, values, load = task.pricing.models, task.grid.values, task.pricing.load
    if pair is None:
        return []
    context = values["context"].min() if load is None else values["isl"].min() + values["osl"].min() / 2
    batch = values["batch"].min() if load is None else 1
    return [would_fit(pair, lambda p: bool(room(p, context) >= batch))]


def best_text(best: Swept) -> str:
    """Say how much the best point gains, and where it is."""
    import numpy as np

    from simulator.answers.sweep_answers import ends_at
    from simulator.answers.uncertainty import is_open
    from simulator.answers.verdict import CANNOT_TELL, answer

    task, seen, basis = best.task, best.seen, best.basis
    points = task.grid.columns(np.array([seen.best]))
    values = named(best.case) | {key_of(name, task.pricing.load): points[name][0] for name in task.grid.axes}
    where = ", ".join(f"{name} {value:,.10g}" for name, value in values.items())
    low, high = ends_at(task, {name: float(values[0]) for name, values in points.items()})
    span = f" ({low:.2f}x to {high:.2f}x)" if is_open(low, high) else ""
    condition = f"{basis.condition[0].upper()}{basis.condition[1:]}: at" if basis.condition else "At"
    if answer(seen.speedup, (low, high)) == CANNOT_TELL:
        condition = f"Cannot tell{basis.condition and f', {basis.condition}'}: at"
    gain = "the tokens a second" if task.pricing.load else "as fast"
    return f"{condition} most {seen.speedup:.2f}x {gain}{span}{where and f', at {where}'}."


def count_text(cases: "Sequence[Swept]", *, default_length: bool) -> str:
    """Say how many points were looked at, and at how many drafting gains."""
    task, case = cases[0].task, cases[0].case
    axes = [*named(case), *(key_of(name, task.pricing.load) for name in task.grid.axes)]
    points, above_1, unfit = (
        sum(of) for of in zip(*((c.task.grid.points, c.seen.above_1, c.seen.unfit) for c in cases), strict=True)
    )
    count = f"{points:,} points over {', '.join(axes)}; above 1x at {above_1:,} of them"
    if unfit:
        count += f"; {unfit:,} do not fit into memory"
    if (name := without_memory(task)) is not None:
        count += f"; which fit into memory is not known: {name} does not say how much its device has"
    longest = min(8, getattr(task.acceptance.model, "longest", 8))
    if default_length and longest > 1:
        alone = f"K = {task.grid.values['draft_length'][0]:g} alone, a default"
        count += f"; {alone}: --draftN 1:{longest} names the best"
    return count


def result_json(cases: "Sequence[Swept]", answers: "Sequence[Answer]", parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sweep answers, under plain keys."""
    task, several = cases[0].task, [named(case.case) for case in cases]
    points = sum(case.task.grid.points for case in cases)
    body: dict[str, Any] = {"headline": headline(cases), "basis": cases[0].basis._asdict(), "points": points}
    body["answers"] = [asdict(answer) for answer in answers]
    if task.pricing.models is not None:
        body["memory_known"] = without_memory(task) is None
    axes = {key_of(name, task.pricing.load): task.grid.values[name].tolist() for name in task.grid.axes}
    axes |= {"cases": several} if cases[0].case else {}
    return envelope("sweep", 1, {**axes, **parameters}) | body


def without_memory(task: "Sweep") -> str | None:
    """Return the name of a profile of models that does not say how much memory there is; None for any other."""
    profile = task.pricing.profile
    return profile.name if profile and task.pricing.models and profile.memory_bytes is None else None
