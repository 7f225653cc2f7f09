"""`sweep` of served loads of a target alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from simulator.costs.kinds import is_models
from simulator.costs.parameters import LOAD_NAMES, Load, Point, key_of
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import wrapped

from .cases import Case, named
from .load import check_models, refuse_drafts
from .options import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.costs.model_costs import ModelPair
    from simulator.costs.priced import Pricing
    from simulator.rounds.grid import Columns, Grid

    from .sweep import SweepOptions

# Loads that are priced at once.
POINTS_A_PART = 200_000
# Points of which a table has intervals too.
MOST_BANDS = 500
NAMES = ("batch", *LOAD_NAMES)


def without_bands(out: "Path", points: int) -> list[str]:
    """Say where a table has no intervals."""
    return [f"{out} has no intervals: those are in tables of at most {MOST_BANDS} loads"] if points > MOST_BANDS else []


def is_alone(options: "SweepOptions") -> bool:
    """Whether a load is of a target that nothing drafts for."""
    device = options.device
    return options.load is not None and not (device.drafter or device.draft_params or device.method)


def sweep_alone(cases: "Sequence[tuple[Case, SweepOptions]]") -> None:
    """Evaluate, write and print."""
    import numpy as np

    from simulator.answers.basis import basis_of
    from simulator.answers.plain_loads_report import PlainLoad, forecast_plain, plain_json, plain_text, rows_shown
    from simulator.ground.tables import check_table_format, writing_table
    from simulator.rounds.acceptance_law import IidAcceptance

    _, options = cases[0]
    refuse_drafts(options)
    for option, given in (("--engine", options.engine), ("--plot", options.plot)):
        if given is not None:
            raise UserError(f"{option} {given}: of drafts, expected --method or --draft-model beside it")
    check_table_format("--out", options.out)
    check_outputs({"--out": options.out}, options.force, options.inputs)
    grids = [grid_of(case, each) for case, each in cases]
    points = sum(grid.points for _, grid in grids)
    found: list[tuple[float, int, int]] = []
    unfit = 0
    with writing_table(options.out, rows=points) if options.out else nullcontext() as table:
        for number, (pricing, grid) in enumerate(grids):
            bands = ends_of(pricing, grid, options.seed) if table and points <= MOST_BANDS else {}
            rates = rates_of(pricing, grid, table, constants_of(pricing, cases[number][1]), bands)
            unfit += int(np.isnan(rates).sum())
            if not np.isnan(rates).all():
                found.append((float(np.nanmax(rates)), number, int(np.nanargmax(rates))))
    ends = np.cumsum([grid.points for _, grid in grids])

    def at(number: int, place: int) -> PlainLoad:
        (pricing, grid), (case, each) = grids[number], cases[number]
        point = {name: float(values[0]) for name, values in grid.columns(np.array([place])).items()}
        values = named(case) | {key_of(name, options.load): point[name] for name in grid.axes}
        pair = pair_at(pricing, {name: int(value) for name, value in point.items()})
        return PlainLoad(values, forecast_plain(pair, load_in(pricing), point["isl"], point["osl"], each.seed))

    rows = []
    for row in rows_shown(points):
        number = int(np.searchsorted(ends, row, "right"))
        rows.append(at(number, int(row - ends[number] + grids[number][1].points)))
    best = at(*max(found)[1:]) if found else None
    pair = (best or rows[0]).forecast.pair
    basis = basis_of(
        pair, IidAcceptance(0.5), draft_length=1, alpha=0.5, stated=options.stated, profile=grids[0][0].profile
    )
    warnings = list(dict.fromkeys(said for pricing, grid in grids for said in cautions_of(pricing, grid)))
    if options.as_json:
        axes = {key_of(name, options.load): grids[0][1].values[name].tolist() for name in NAMES}
        axes |= {key: sorted({named(case)[key] for case, _ in cases}) for key in named(cases[0][0])}
        body = envelope("sweep", 1, {**constants_of(grids[0][0], options), **axes})
        told = {"costs": basis.costs, "costs_text": basis.costs_text}
        body |= {"basis": told, "points": points, "answers": plain_json(rows), "unfit": unfit}
        body |= {"best": plain_json([best])[0] if best else None, "warnings": warnings, "notes": list(options.said)}
        click.echo(to_json(body), nl=False)
        return
    if warnings:
        click.echo(wrapped(f"warning: {warning}" for warning in warnings))
    click.echo(plain_text(best, rows, points, unfit, [basis.lines[-1], *options.said]))
    if options.out:
        click.echo("\n".join([f"wrote {options.out}", *without_bands(options.out, points)]))


def grid_of(case: "Case", options: "SweepOptions") -> "tuple[Pricing, Grid]":
    """Return the costs of a case, and its loads."""
    from simulator.costs.priced import load_pricing
    from simulator.rounds.grid import Grid, grid_over

    device = options.device
    check_models(device)
    pricing = load_pricing(replace(device, method="ngram"))._replace(load=options.load)
    whole = grid_over(pricing, {name: options.axes[name] for name in options.stated})
    return pricing, Grid(values={name: whole.values[name] for name in NAMES})


def cautions_of(pricing: "Pricing", grid: "Grid") -> tuple[str, ...]:
    """Return what to know of a target before the numbers."""
    from simulator.costs.cautions import cautions

    assert pricing.models is not None
    batch, isl, osl = (grid.values[name] for name in NAMES)
    pair, most = replace(pricing.models, context=isl + osl.max(), batch=batch), load_in(pricing).most_running
    return cautions(pair, most_running=most, isl=isl, osl=osl)


def load_in(pricing: "Pricing") -> Load:
    """Return the load."""
    assert pricing.load is not None
    return pricing.load


def pair_at(pricing: "Pricing", columns: Any) -> "ModelPair":
    """Return the costs at some loads."""
    costs = pricing.costs(Point(**columns))
    assert is_models(costs)
    return costs


def ends_of(pricing: "Pricing", grid: "Grid", seed: int) -> "Columns":
    """Return the intervals of every load as columns of a table."""
    import numpy as np

    from simulator.answers.loads import TOLD
    from simulator.answers.plain_loads_report import forecast_plain
    from simulator.answers.sweep_answers import LOAD_COLUMNS, end_columns

    each, unknown = [], (np.nan, np.nan)
    for place in range(grid.points):
        point = {name: float(values[0]) for name, values in grid.columns(np.array([place])).items()}
        pair = pair_at(pricing, {name: int(value) for name, value in point.items()})
        found = forecast_plain(pair, load_in(pricing), point["isl"], point["osl"], seed).plain_ci95
        named = ((LOAD_COLUMNS[name], found[name] or unknown) for name in TOLD)
        each.append({f"baseline_{column}": (scale * low, scale * high) for (column, scale), (low, high) in named})
    return end_columns(each)


def rates_of(pricing: "Pricing", grid: "Grid", table: Any, constants: dict[str, Any], ends: "Columns") -> Any:
    """Return tokens a second of every load, NaN where it does not fit, and write all into a table; ends: beside it."""
    import numpy as np

    from simulator.answers.plain_loads_report import plain_columns

    rates, first = list[Any](), 0
    for ranges in grid.boxes(POINTS_A_PART):
        columns = grid.box(ranges)
        shape = np.broadcast_shapes(*(np.shape(v) for v in columns.values()))
        found = plain_columns(pair_at(pricing, columns), load_in(pricing), columns["isl"], columns["osl"])
        rates.append(np.broadcast_to(found["baseline_tokens_per_s"], shape).ravel())
        if table is not None:
            keyed = {key_of(name, pricing.load): values for name, values in columns.items()}
            here = {key: values[first : first + rates[-1].size].reshape(shape) for key, values in ends.items()}
            table.write(table.encode({**keyed, **found, **here, **constants}, shape))
        first += rates[-1].size
    return np.concatenate(rates)


def constants_of(pricing: "Pricing", options: "SweepOptions") -> dict[str, Any]:
    """Return the columns that say what did not vary: device, model and how it is served."""
    told = dict(provenance(pricing, options))
    drafts = ("draft_model", "method", "draft_dtype", "draft_tp", "placement", "topk", "nodes", "branching")
    kept = {name: value for name, value in told.items() if name not in drafts}
    return kept | load_in(pricing).options | {"seed": options.seed}
