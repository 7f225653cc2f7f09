"""The command `simulate`: one forecast."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from simulator.costs.parameters import PARAMETERS, Point, key_of
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json, writing
from simulator.ground.command import FILE, command

from .accepting import ACCEPTANCE_OPTIONS, as_accepted, by_method
from .comparing import ComparisonOptions, compare_methods, method_names
from .engine_settings import ENGINE_OPTIONS, as_engines_state, checked, forecast_for
from .load import LOAD_OPTIONS, run_load
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

if TYPE_CHECKING:
    from simulator.answers.basis import Basis
    from simulator.answers.forecast import Forecast
    from simulator.costs.priced import Pricing

    from .options import Measured

# What announces runs: name, in words, seconds, steps; yields what takes how many of these are done.
Runs = Callable[[str, str, float, int], AbstractContextManager[Callable[[int], None]]]
# About 10 GB of trace.
MAX_LOGGED_TOKENS = 50_000_000
# Of a file's name in a line of at most 100 columns.
LONGEST_PATH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions(SharedOptions):
    """The options of `simulate`."""

    point: Point
    why: bool
    compare: bool
    acceptance: tuple[str, ...]
    plot: Path | None
    csv: Path | None
    events: Path | None
    as_json: bool


@command("simulate")
@parameter_options(many=False)
@DEVICE_OPTIONS
@ENGINE_OPTIONS
@run_options(replications=32, least=1)
@LOAD_OPTIONS
@click.option("--why", is_flag=True, help="Say in words where the time goes, and what would change it.")
@click.option(
    "--compare", is_flag=True, help="Hold all methods that apply to a target, or those of --method, side by side."
)
@ACCEPTANCE_OPTIONS
@click.option("--plot", type=FILE, help="With --compare: draw them over batch size, as .png or .svg.")
@click.option("--csv", "--out", "csv", type=FILE, help="Write one row for each run.")
@click.option("--events", type=FILE, help="Write the first run's timeline as Chrome/Perfetto trace JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate(**values: Any) -> None:
    """Forecast speculative decoding in a closed loop: does it pay, by how much, and with which K.

    Both arms produce --total tokens on one clock. A round drafts K tokens one after another, verifies them in
    one target pass and commits A + 1 tokens; A comes from --hist, or is i.i.d. with --alpha.
    """
    options = options_in(values)
    if options.compare or len(method_names(options.device)) > 1:
        compare(options)
        return
    if options.load is not None:
        run_load(options)
        return
    if options.plot is not None:
        raise UserError(f"--plot {options.plot}: draws a comparison, expected --compare beside it; sweep draws others")
    run(options)


def options_in(values: Mapping[str, Any]) -> SimulateOptions:
    """Return the options that click parsed; its context is the current one."""
    values = as_engines_state(values, many=False)
    compared = values["compare"] or "," in (values["method"] or "")
    values = as_accepted(values, many=False, compared=compared)
    point = Point(**{p.name: values.pop(p.name) for p in PARAMETERS})
    return options_of(SimulateOptions, {**values, "point": point})


def compare(options: SimulateOptions) -> None:
    """Hold methods side by side at one context."""
    outputs = {"--plot": options.plot, "--csv": options.csv, "--events": options.events}
    check_outputs(outputs, options.force, options.inputs)
    for option, given in (
        ("--csv", options.csv),
        ("--events", options.events),
        ("--why", options.why or None),
    ):
        if given is not None:
            raise UserError(f"{option}: tells of one forecast, expected no --compare beside it")
    stated = {name: getattr(options.point, name) for name in options.stated}
    wanted = ComparisonOptions(
        methods=method_names(options.device) or None,
        batches=one_of_them(stated.pop("batch", None)),
        draft_lengths=one_of_them(stated.pop("draft_length", None)),
        stated=stated,
        acceptance=by_method(options.acceptance),
        plot=options.plot,
        as_json=options.as_json,
    )
    compare_methods(options, wanted)


def one_of_them(value: float | None) -> tuple[int, ...] | None:
    """Return a stated value as the only one."""
    return None if value is None else (int(value),)


class Forecasted(NamedTuple):
    """A forecast of one batch, and what it is told with; heading: what was forecast, in words."""

    answer: "Forecast"
    parameters: Mapping[str, Any]
    basis: "Basis"
    said: Sequence[str]
    heading: str
    seed: int

    def document(self) -> dict[str, Any]:
        """Return what --json prints."""
        from simulator.answers.report import result_json

        return result_json(self.answer, self.parameters, self.basis, self.said)

    def text(self, *, why: bool) -> str:
        """Return what is printed for people."""
        from simulator.answers.report import result_text

        return result_text(self.answer, self.heading, self.basis, self.said, why=why)

    def reasons(self) -> list[str]:
        """Say where the time goes, and what would change it."""
        from simulator.answers.report import why_lines

        return why_lines(self.answer)

    def write_events(self, file: IO[str]) -> None:
        """Write the first run as a trace that Perfetto opens."""
        from simulator.ground.artefacts import finite_or_text
        from simulator.ground.chrome_trace import ChromeTrace
        from simulator.rounds.arms import LANES
        from simulator.rounds.experiment import play_events

        trace = ChromeTrace(file, LANES, finite_or_text(envelope("event_timeline", 1, self.parameters)))
        play_events(self.answer.setting, self.seed, trace)
        trace.close()


def run(options: SimulateOptions) -> None:
    """Load, forecast, write and print."""
    from simulator.answers.report import run_columns
    from simulator.ground.tables import check_table_format, write_table

    check_table_format("--csv", options.csv, (".csv",))
    outputs = {"--csv": options.csv, "--events": options.events}
    check_outputs(outputs, options.force, options.inputs)
    told = forecasted(options)
    if options.csv:
        write_table(options.csv, run_columns(told.answer, told.parameters))
    if options.events:
        with writing(options.events) as file:
            told.write_events(file)
    if options.as_json:
        click.echo(to_json(told.document()), nl=False)
        return
    click.echo(told.text(why=options.why) + forecast_for(options.engine, options.device.drafter, told.answer))
    for path in filter(None, outputs.values()):
        click.echo(f"wrote {path}")


def forecasted(options: SimulateOptions, running: Runs = running) -> Forecasted:
    """Load and forecast; running: what shows how far runs are, or refuses those that take too long."""
    from simulator.answers.basis import basis_of
    from simulator.answers.forecast import forecast
    from simulator.costs.priced import load_pricing
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance, IidAcceptance
    from simulator.rounds.duration import simulation_s
    from simulator.rounds.experiment import Setting

    pricing = checked(load_pricing(options.device), options.engine)
    stated = {name: getattr(options.point, name) for name in options.stated}
    longest = int(stated.get("draft_length", 1))
    measured = load_checked(options, longest, pricing.models, (float(options.point.alpha),))
    pricing = timed_pricing(pricing, options, measured)
    if isinstance(measured, HistogramAcceptance):
        # Without a word on K, no longer one than was measured.
        stated.setdefault("draft_length", min(pricing.usual_length, measured.longest))
    point = pricing.point(stated)
    total, draft_length = int(point.total), int(point.draft_length)
    if options.events and total > MAX_LOGGED_TOKENS:
        raise UserError(f"--events: {total} tokens are too many to log, expected at most {MAX_LOGGED_TOKENS}")
    if isinstance(measured, EquivalentAcceptance):
        point = replace(point, alpha=measured.alpha(draft_length))
    setting = Setting(
        total=total,
        draft_length=draft_length,
        costs=pricing.costs(point),
        acceptance=measured or IidAcceptance(float(point.alpha)),
        overlap=options.ahead,
    )
    is_sampled = isinstance(measured, HistogramAcceptance) and "alpha" not in options.stated
    counted = tuple(name for name in pricing.names if name != "alpha" or not is_sampled)
    parameters = parameters_of(options, pricing, {name: getattr(point, name) for name in counted}, measured)
    basis = basis_of(
        setting.costs,
        setting.acceptance,
        draft_length=draft_length,
        alpha=float(point.alpha),
        stated=options.stated,
        profile=pricing.profile,
    )
    count = options.replications
    with running("simulate", f"{count:,} runs of {total:,} tokens", simulation_s(setting, count), count) as update:
        answer = forecast(setting, replications=count, seed=options.seed, progress=update)
    return Forecasted(answer, parameters, basis, options.said, heading(options, point, pricing, measured), options.seed)


def parameters_of(
    options: SimulateOptions, pricing: "Pricing", values: Mapping[str, Any], measured: "Measured | None"
) -> dict[str, Any]:
    """Return what a forecast hangs on, as its files have it: the parameters that count, acceptance, device and runs."""
    from simulator.rounds.acceptance_law import HistogramAcceptance

    payload = {key_of(p.name, options.load): values[p.name] for p in PARAMETERS if p.name in values}
    payload["hist"] = None if measured is None else options.accepts_as
    payload["measured"] = isinstance(measured, HistogramAcceptance) and not measured.assumed
    if isinstance(measured, HistogramAcceptance) and measured.assumed:
        payload["acceptance_published" if measured.pair else "acceptance_prior"] = measured.assumed
    if measured is not None and measured.caveat:
        payload["acceptance_caveat"] = measured.caveat
    runs = {
        "overlap": options.overlap,
        **({"guesses": options.guesses} if options.guesses > 1 else {}),
        "replications": options.replications,
        "seed": options.seed,
    }
    return payload | dict(provenance(pricing, options)) | runs


def heading(options: SimulateOptions, point: Point, pricing: "Pricing", measured: "Measured | None") -> str:
    """Say what was forecast."""
    from simulator.rounds.acceptance_law import EquivalentAcceptance

    if measured is None:
        source = f"i.i.d. acceptance {point.alpha:.4g}"
    elif isinstance(measured, EquivalentAcceptance):
        source = f"i.i.d. acceptance {point.alpha:.4g} (equivalent of {shortened(options.accepts_as)})"
    elif measured.assumed:
        source = "acceptance as published"
    else:
        source = f"acceptance sampled from {shortened(options.accepts_as)}"
    overlap = ", overlapped drafting" if options.overlap else ""
    overlap += f" of {options.guesses} outcomes" if options.guesses > 1 else ""
    runs = f"{options.replications} run{'s' if options.replications > 1 else ''}"
    what = f"{point.total} tokens, K = {point.draft_length}, {source}{overlap}, {runs}"
    if pricing.profile is None:
        return what
    where = f"on {options.device.profile} ({pricing.profile.status})"
    if pricing.models is not None:
        target, draft = options.device.target_model, options.device.draft_model
        pair = f"{target or pricing.models.target.name} drafted by {draft or pricing.models.draft.name}"
        where = f"{pair}, batch {point.batch}, context {point.context}, {where}"
    return f"{what}\n{where}"


def shortened(path: str | None) -> str:
    """Return a path, or the end of a long one."""
    text = str(path)
    return text if len(text) <= LONGEST_PATH else f"...{text[-LONGEST_PATH:]}"
