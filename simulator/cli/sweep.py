"""The command `sweep`: forecasts over a grid."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.costs.parameters import BY_NAME, LOAD_NAMES, PARAMETERS
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import FILE, command, wrapped
from simulator.ground.together import together

from .accepting import ACCEPTANCE_OPTIONS, as_accepted, by_method
from .comparing import ComparisonOptions, compare_methods, method_names
from .engine_settings import ENGINE_OPTIONS, as_engines_state, checked, sweep_for
from .load import LOAD_OPTIONS
from .options import (
    DEVICE_OPTIONS,
    SharedOptions,
    load_checked,
    options_of,
    parameter_options,
    provenance,
    run_options,
    running,
    timed_pricing,
)

# Points of curves that get an interval each.
MOST_BANDS = 500

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.answers.basis import Basis
    from simulator.answers.sweep_answers import Answer
    from simulator.rounds.grid import Sweep
    from simulator.rounds.sweeping import Overview


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(SharedOptions):
    """The options of `sweep`. axes: values of each numeric parameter, by name."""

    axes: "Mapping[str, NDArray[Any]]"
    out: Path | None
    acceptance: tuple[str, ...]
    plot: Path | None
    plot_kind: str
    as_json: bool


@command("sweep")
@parameter_options(many=True)
@DEVICE_OPTIONS
@ENGINE_OPTIONS
@run_options(replications=16, least=0)
@LOAD_OPTIONS
@click.option("--out", type=FILE, help="Write the table as .csv or .parquet, a row for each point.")
@ACCEPTANCE_OPTIONS
@click.option("--plot", type=FILE, help="Draw speedup as .png or .svg.")
@click.option(
    "--plot-kind",
    type=click.Choice(("auto", "surface", "curves", "multiples")),
    default="auto",
    help="Contours over two options, curves over one by another, or panels of contours over three or four.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def sweep(**values: Any) -> None:
    """Evaluate a grid: every numeric option takes lists and ranges, such as 1:8, 0.05,0.1 or 0.5:0.95:0.05.

    Every point gets the closed form and, unless --replications is 0, a simulation with its 95 % interval.
    """
    from simulator.ground.ranges import list_in_milliseconds, parse_values

    values = as_engines_state(values, many=True)
    values = as_accepted(values, many=True, compared="," in (values["method"] or ""))
    texts = {p: values.pop(p.name) for p in PARAMETERS}
    axes = {
        p.name: parse_values(p.flags[0], list_in_milliseconds(text) if p.unit == "ms" else text, percent=p.most == 1)
        for p, text in texts.items()
    }
    for p in PARAMETERS:
        p.check(axes[p.name])
    options = options_of(SweepOptions, {**values, "axes": axes})
    if len(method_names(options.device)) > 1:
        compare(options)
        return
    run(options)


def compare(options: SweepOptions) -> None:
    """Hold methods side by side over batch sizes and draft lengths."""
    check_outputs({"--plot": options.plot, "--out": options.out}, options.force, options.inputs)
    if options.out is not None:
        raise UserError(f"--out {options.out}: has the points of one method, expected one --method beside it")
    stated: dict[str, Any] = {}
    several = {
        name: tuple(int(v) for v in options.axes[name]) for name in ("batch", "draft_length") if name in options.stated
    }
    for name in options.stated - several.keys():
        values = options.axes[name]
        if len(values) > 1:
            flag = BY_NAME[name].flags[0]
            raise UserError(
                f"{flag}: {len(values)} values beside several methods, expected one; --batch and --draftN take more"
            )
        stated[name] = (BY_NAME[name].whole and int(values[0])) or float(values[0])
    wanted = ComparisonOptions(
        methods=method_names(options.device),
        batches=several.get("batch"),
        draft_lengths=several.get("draft_length"),
        stated=stated,
        acceptance=by_method(options.acceptance),
        plot=options.plot,
        as_json=options.as_json,
    )
    compare_methods(options, wanted)


def run(options: SweepOptions) -> None:
    """Load, evaluate, write, draw and print."""
    from simulator.answers.layout import plan
    from simulator.answers.plots import draw
    from simulator.answers.sweep_answers import answers_of, intervals, schedules
    from simulator.ground.pictures import check_format, save_figure
    from simulator.ground.tables import check_table_format, writing_table
    from simulator.rounds.duration import sweep_s
    from simulator.rounds.kept import Kept
    from simulator.rounds.sweeping import overview

    check_table_format("--out", options.out)
    check_format(options.plot)
    outputs = {"--out": options.out, "--plot": options.plot}
    check_outputs(outputs, options.force, options.inputs)
    task = make_sweep(options)
    source, caveat = source_text(options, task), task.acceptance.caveat
    what = f"{task.grid.points:,} points" + (f" x {task.replications:,} runs" if task.replications else "")
    counts = {BY_NAME[name].flags[0]: len(values) for name, values in task.grid.values.items()}
    counts["--replications"] = task.replications
    most = max(counts, key=counts.__getitem__)
    layout = plan(task.grid, options.plot_kind) if options.plot else None
    kept = Kept(options.out, task, force=options.force) if options.out and task.replications else None
    if kept:
        click.get_current_context().call_on_close(kept.close)
    with (
        running("sweep", what, sweep_s(task), task.steps, most) as update,
        writing_table(options.out, rows=task.grid.points) if options.out else nullcontext() as table,
    ):
        seen = overview(task, update, table, parameters_of(options, task), keep=layout is not None, kept=kept)
    if seen.points < task.grid.points:
        first = f"the first {seen.points:,} of {task.grid.points:,} points are kept in {options.out}"
        together.end()  # only what is told so overwrites them
        how = "goes on behind them" if kept and kept.is_held else "begins anew"
        raise KeyboardInterrupt(f"{first}, with --force the same command {how}")
    if options.plot and layout:
        ends = intervals(task) if layout.kind == "curves" and task.grid.points <= MOST_BANDS else None
        save_figure(
            options.plot, draw(task.grid, seen.columns, layout, held_fixed(options, task, source, caveat), ends)
        )
    if kept:
        kept.end()
    answers, basis = answers_of(task), basis_of_sweep(options, task)
    warnings = cautions_of(task)
    if options.as_json:
        answer = result_json(task, answers, parameters_of(options, task), basis)
        click.echo(
            to_json(answer | {"schedules": schedules(task, options.device.drafter), "warnings": list(warnings)}),
            nl=False,
        )
        return
    if warnings:
        click.echo(wrapped(f"warning: {warning}" for warning in warnings))
    click.echo(sweep_text(task, seen, answers, basis, default_length="draft_length" not in options.stated))
    if options.engine:
        click.echo(sweep_for(options.engine, options.device.drafter, task, answers))
    for path in filter(None, outputs.values()):
        click.echo(f"wrote {path}")


def cautions_of(task: "Sweep") -> tuple[str, ...]:
    """Return what to know of two models before the numbers, at the widest context and K of a sweep."""
    from simulator.costs.cautions import cautions

    if task.pricing.models is None:
        return ()
    values = task.grid.values
    context = values["isl"] + values["osl"].max() if task.pricing.load else values["context"]
    pair = replace(task.pricing.models, context=context, batch=values["batch"])
    return cautions(pair, int(values["draft_length"].max()), loaded=task.pricing.load is not None)


def make_sweep(options: SweepOptions) -> "Sweep":
    """Return what to evaluate."""
    import numpy as np

    from simulator.costs.priced import load_pricing
    from simulator.rounds.acceptance_law import HistogramAcceptance
    from simulator.rounds.grid import Acceptance, Sweep, grid_over

    stated = {name: options.axes[name] for name in options.stated}
    pricing = checked(load_pricing(options.device), options.engine)._replace(load=options.load)
    longest = int(max(stated.get("draft_length", (1,))))
    model = load_checked(options, longest, pricing.models, options.axes["alpha"].tolist())
    if isinstance(model, HistogramAcceptance) and "draft_length" not in stated:
        stated["draft_length"] = np.array([min(pricing.usual_length, model.longest)])
    pricing = timed_pricing(pricing, options, model)
    grid = grid_over(pricing, stated)
    return Sweep(
        grid=grid,
        acceptance=Acceptance(model=model),
        pricing=pricing,
        overlap=options.ahead,
        replications=0 if options.load else options.replications,
        seed=options.seed,
    )


def parameters_of(options: SweepOptions, task: "Sweep") -> dict[str, Any]:
    """Return the columns of a table that say what did not vary."""
    constants: dict[str, Any] = {"hist": options.accepts_as}
    constants |= {"measured": task.acceptance.is_measured, "overlap": options.overlap}
    constants |= {"replications": options.replications, "seed": options.seed} | dict(provenance(task.pricing, options))
    constants |= task.pricing.load._asdict() if task.pricing.load else {}
    return constants | ({"acceptance_caveat": task.acceptance.caveat} if task.acceptance.caveat else {})


def source_text(options: SweepOptions, task: "Sweep") -> str:
    """Say where the acceptance comes from."""
    from simulator.answers.basis import pair_in_words
    from simulator.rounds.acceptance_law import HistogramAcceptance

    if task.acceptance.model is None:
        return "i.i.d. acceptance"
    model = task.acceptance.model
    histograms = model if isinstance(model, HistogramAcceptance) else model.measured
    if histograms.assumed:
        return f"acceptance as of {histograms.assumed}"
    pair = histograms.nearest(histograms.longest).pair
    measured = str(options.accepts_as) if pair is None else pair_in_words(pair)
    return f"{'acceptance of' if task.acceptance.is_measured else 'i.i.d. equivalent of'} {measured}"


def held_fixed(options: SweepOptions, task: "Sweep", source: str, caveat: str) -> str:
    """Say what did not vary, for the picture's title: the acceptance, and whatever is not at its default."""
    from simulator.costs.model_costs import SEPARATE

    values, there = task.grid.values, task.pricing.defaults()
    words = [source if len(source) <= 60 else f"{source[:28]}...{source[-28:]}"]
    words += [caveat] if caveat else []
    if task.pricing.models is not None:
        words.insert(
            0,
            f"{options.device.target_model} drafted by {options.device.draft_model or task.pricing.models.draft.name}",
        )
    devices = task.pricing.models.devices if task.pricing.models else 1
    words += [f"{devices} x " * (devices > 1) + task.pricing.profile.name] if task.pricing.profile else []
    if task.pricing.models is not None and task.pricing.models.placement == SEPARATE:
        words.append("the draft on one more")
    words += ["a served load"] if task.pricing.load else []
    if task.pricing.timed is not None:
        words.append(f"timed: {options.baseline_tpot:g} ms a token plain, {options.speculative_tpot:g} ms drafting")
    for name in values:
        parameter = BY_NAME[name]
        fixed = name not in task.grid.axes and not (name == "alpha" and task.acceptance.model)
        usual = there.get(name, parameter.default)
        if fixed and (name in ("draft_length", "alpha", "draft_cost", *LOAD_NAMES) or values[name][0] != usual):
            words.append(f"{parameter.flags[0][2:]} {values[name][0]:,.10g}{' ms' * (parameter.unit == 'ms')}")
    return (
        ", ".join(words)
        + (", overlapped drafting" if task.overlap else "")
        + (f" of {task.overlap} outcomes" if task.overlap > 1 else "")
    )


def sweep_text(
    task: "Sweep", seen: "Overview", answers: "list[Answer]", basis: "Basis", *, default_length: bool
) -> str:
    """Return what a sweep answers: its best point, what it rests on, and the best K by the other values.

    default_length: whether nobody said which draft lengths to look at.
    """
    import numpy as np

    from simulator.answers.sweep_answers import ends_at, has_ranges
    from simulator.answers.sweep_table import answers_text, off_text
    from simulator.answers.uncertainty import is_open
    from simulator.answers.verdict import CANNOT_TELL, answer

    axes = [BY_NAME[name].key for name in task.grid.axes]
    if seen.best is None:
        return "\n".join(["Does not fit into memory, at any of these points.", *basis.lines])
    points = task.grid.columns(np.array([seen.best]))
    where = ", ".join(f"{BY_NAME[name].key} {points[name][0]:,.10g}" for name in task.grid.axes)
    low, high = ends_at(task, {name: float(values[0]) for name, values in points.items()})
    span = f" ({low:.2f}x to {high:.2f}x)" if is_open(low, high) else ""
    condition = f"{basis.condition[0].upper()}{basis.condition[1:]}: at" if basis.condition else "At"
    if answer(seen.speedup, (low, high)) == CANNOT_TELL:
        condition = f"Cannot tell{basis.condition and f', {basis.condition}'}: at"
    gain = "the tokens a second" if task.pricing.load else "as fast"
    first = f"{condition} most {seen.speedup:.2f}x {gain}{span}{where and f', at {where}'}."
    if not axes:
        return "\n".join([first, *basis.lines])
    count = f"{task.grid.points:,} points over {', '.join(axes)}; above 1x at {seen.above_1:,} of them"
    if seen.unfit:
        count += f"; {seen.unfit:,} do not fit into memory"
    if (name := without_memory(task)) is not None:
        count += f"; which fit into memory is not known: {name} does not say how much its device has"
    longest = min(8, getattr(task.acceptance.model, "longest", 8))
    if default_length and longest > 1:
        alone = f"K = {task.grid.values['draft_length'][0]:g} alone, a default"
        count += f"; {alone}: --draftN 1:{longest} names the best"
    lines = [first, *basis.lines, count, *([off_text(answers)] if has_ranges(task.grid) else [])]
    return "\n".join([wrapped(lines), "", answers_text(task.grid, answers)])


def result_json(
    task: "Sweep", answers: "list[Answer]", parameters: Mapping[str, Any], basis: "Basis"
) -> dict[str, Any]:
    """Return what a sweep answers, under plain keys."""
    body = {"basis": basis._asdict(), "points": task.grid.points, "answers": [asdict(answer) for answer in answers]}
    if task.pricing.models is not None:
        body["memory_known"] = without_memory(task) is None
    axes = {BY_NAME[name].key: task.grid.values[name].tolist() for name in task.grid.axes}
    return envelope("sweep", 1, {**axes, **parameters}) | body


def basis_of_sweep(options: SweepOptions, task: "Sweep") -> "Basis":
    """Return what all points rest on; an alpha that is swept is stated."""
    from simulator.answers.basis import basis_of
    from simulator.costs.parameters import Point
    from simulator.rounds.acceptance_law import IidAcceptance

    first = {name: float(values[0]) for name, values in task.grid.values.items()}
    alpha = first.get("alpha", 0.0)
    return basis_of(
        task.pricing.costs(Point(**first)),
        task.acceptance.model or IidAcceptance(alpha),
        draft_length=int(task.grid.values["draft_length"].max()),
        alpha=None if "alpha" in task.grid.axes else alpha,
        stated=options.stated,
        profile=task.pricing.profile,
    )


def without_memory(task: "Sweep") -> str | None:
    """Return the name of a profile of models that does not say how much memory there is; None for any other."""
    profile = task.pricing.profile
    return profile.name if profile and task.pricing.models and profile.memory_bytes is None else None
