"""The command `sweep`: forecasts over a grid."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.costs.parameters import BY_NAME, LOAD_NAMES, PARAMETERS
from simulator.ground.artefacts import UserError, check_outputs, to_json
from simulator.ground.command import FILE, command, wrapped
from simulator.ground.together import together

from .accepting import ACCEPTANCE_OPTIONS, as_accepted, by_method
from .cases import Case, cases_of, named, refuse_cases, takes_lists
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
    timed_pricing,
)
from .running import running
from .sweep_alone import MOST_BANDS, is_alone, sweep_alone, without_bands
from .sweep_report import Swept, result_json, sweep_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.answers.basis import Basis
    from simulator.ground.tables import Table
    from simulator.rounds.experiment import Progress
    from simulator.rounds.grid import Sweep
    from simulator.rounds.kept import Kept
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


@takes_lists
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
    """Evaluate a grid: options with VALUES take lists and ranges, such as 1:8, 0.05,0.1 or 0.5:0.95:0.05.

    Every point gets the closed form and, unless --replications is 0, a simulation with its 95 % interval.
    """
    each = cases_in(values)
    case, options = each[0]
    if len(method_names(options.device)) > 1:
        refuse_cases(case, "several methods")
        compare(options)
    elif is_alone(options):
        sweep_alone(each)
    else:
        run(each)


def cases_in(values: dict[str, Any]) -> "list[tuple[Case, SweepOptions]]":
    """Return the options that click parsed, those of every case; its context is the current one."""
    from simulator.ground.ranges import list_in_milliseconds, parse_values

    cases = cases_of(values)
    values = as_engines_state(values | cases[0], many=True)
    values = as_accepted(values, many=True, compared="," in (values["method"] or ""))
    texts = {p: values.pop(p.name) for p in PARAMETERS}
    axes = {
        p.name: parse_values(p.flags[0], list_in_milliseconds(text) if p.unit == "ms" else text, percent=p.most == 1)
        for p, text in texts.items()
    }
    for p in PARAMETERS:
        p.check(axes[p.name])
    return [(case, options_of(SweepOptions, {**values, **case, "axes": axes})) for case in cases]


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


def run(cases: "Sequence[tuple[Case, SweepOptions]]") -> None:
    """Load, evaluate, write, draw and print."""
    from simulator.answers.layout import plan
    from simulator.answers.plots import draw
    from simulator.answers.sweep_answers import intervals
    from simulator.ground.pictures import check_format, save_figure
    from simulator.ground.tables import check_table_format, writing_table
    from simulator.rounds.duration import sweep_s
    from simulator.rounds.kept import Kept

    case, options = cases[0]
    check_table_format("--out", options.out)
    check_format(options.plot)
    outputs = {"--out": options.out, "--plot": options.plot}
    check_outputs(outputs, options.force, options.inputs)
    for option, value in (("--plot", options.plot), ("--engine", options.engine)):
        if value is not None:
            refuse_cases(case, f"{option} {value}")
    tasks = [make_sweep(each) for _, each in cases]
    task, points = tasks[0], sum(one.grid.points for one in tasks)
    what = f"{points:,} points" + (f" x {task.replications:,} runs" if task.replications else "")
    counts = {BY_NAME[name].flags[0]: len(values) for name, values in task.grid.values.items()}
    counts["--replications"] = task.replications
    most = max(counts, key=counts.__getitem__)
    layout = plan(task.grid, options.plot_kind) if options.plot else None
    is_kept = options.out and task.replications and len(tasks) == 1
    kept = Kept(options.out, task, force=options.force) if options.out and is_kept else None
    if kept:
        click.get_current_context().call_on_close(kept.close)
    with (
        running("sweep", what, sum(map(sweep_s, tasks)), sum(one.steps for one in tasks), most) as update,
        writing_table(options.out, rows=points) if options.out else nullcontext() as table,
    ):
        seen = list(each_seen(cases, tasks, update, table, keep=layout is not None, kept=kept))
    done = sum(looked.points for looked in seen)
    if done < points:
        first = f"the first {done:,} of {points:,} points are kept in {options.out}"
        together.end()  # only what is told so overwrites them
        how = "goes on behind them" if kept and kept.is_held else "begins anew"
        raise KeyboardInterrupt(f"{first}, with --force the same command {how}")
    if options.plot and layout:
        source = held_fixed(options, task, source_text(options, task), task.acceptance.caveat)
        ends = intervals(task) if layout.kind == "curves" and task.grid.points <= MOST_BANDS else None
        save_figure(options.plot, draw(task.grid, seen[0].columns, layout, source, ends))
    if kept:
        kept.end()
    found = zip(cases, tasks, seen, strict=True)
    tell([Swept(case, one, looked, each, basis_of_sweep(each, one)) for (case, each), one, looked in found])
    if not options.as_json:
        for path in filter(None, outputs.values()):
            click.echo(f"wrote {path}")
        for line in without_bands(options.out, points) if options.out and options.load else ():
            click.echo(line)


def each_seen(
    cases: "Sequence[tuple[Case, SweepOptions]]",
    tasks: "Sequence[Sweep]",
    update: "Progress",
    table: "Table | None",
    *,
    keep: bool,
    kept: "Kept | None",
) -> "Iterator[Overview]":
    """Look over one case after another, to where the user ends it."""
    from simulator.answers.sweep_answers import load_intervals
    from simulator.rounds.sweeping import overview

    points = sum(one.grid.points for one in tasks)
    for (_, options), task in zip(cases, tasks, strict=True):
        ends = load_intervals(task) if table and options.load and points <= MOST_BANDS else None
        seen = overview(task, update, table, parameters_of(options, task), keep=keep, kept=kept, beside=ends)
        yield seen
        if seen.points < task.grid.points:
            return


def tell(cases: "list[Swept]") -> None:
    """Print what was found."""
    from simulator.answers.sweep_answers import answers_of, schedules

    case, options = cases[0], cases[0].options
    answers = [replace(a, values=named(one.case) | a.values) for one in cases for a in answers_of(one.task)]
    warnings = list(dict.fromkeys(warning for one in cases for warning in cautions_of(one.task)))
    if options.as_json:
        planned = [named(one.case) | plan for one in cases for plan in schedules(one.task, options.device.drafter)]
        answer = result_json(cases, answers, parameters_of(options, case.task))
        click.echo(
            to_json(answer | {"schedules": planned, "warnings": warnings, "notes": list(options.said)}), nl=False
        )
        return
    if warnings:
        click.echo(wrapped(f"warning: {warning}" for warning in warnings))
    click.echo(sweep_text(cases, answers, default_length="draft_length" not in options.stated))
    if options.engine:
        click.echo(sweep_for(options.engine, options.device.drafter, case.task, answers))


def cautions_of(task: "Sweep") -> tuple[str, ...]:
    """Return what to know of two models before the numbers, at the widest context and K of a sweep."""
    from simulator.costs.cautions import cautions

    if task.pricing.models is None:
        return ()
    values = task.grid.values
    context = values["isl"] + values["osl"].max() if task.pricing.load else values["context"]
    pair = replace(task.pricing.models, context=context, batch=values["batch"])
    load = {name: values[name] for name in LOAD_NAMES} if task.pricing.load else {}
    most = task.pricing.load.most_running if task.pricing.load else float("inf")
    return cautions(pair, int(values["draft_length"].max()), most_running=most, **load)


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
    constants |= task.pricing.load.options if task.pricing.load else {}
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

    values, there = task.grid.values, task.pricing.defaults(task.grid.values.get("draft_length"))
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
