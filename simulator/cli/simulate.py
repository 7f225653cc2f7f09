"""The commands `simulate` and `sweep`: parse, load, one library call, write, print."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.costs.parameters import BY_KEY, PARAMETERS, Parameter, check_parameters
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json, writing
from simulator.ground.command import command, progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.costs.priced import Pricing
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance
    from simulator.rounds.experiment import Setting
    from simulator.rounds.grid import Columns, Sweep

FILE = click.Path(path_type=Path)
# About 10 GB of trace.
MAX_LOGGED_TOKENS = 50_000_000
RUN_KEYS = ("dtype", "draft_dtype", "kv_dtype", "devices", "placement")


class Number(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number; whole where the parameter is. Bounds are checked with the parameter's own words."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter, self.name = parameter, "INTEGER" if parameter.integer else "FLOAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"{self.parameter.flags[0]}: {value!r} is not {self.parameter.allowed}") from None
        self.parameter.check(number)
        return int(number) if self.parameter.integer else number


def parameter_options(many: bool) -> Callable[[Any], Any]:
    """Add an option for every numeric parameter; `many` takes lists and ranges as text."""

    def decorate(function: Any) -> Any:
        for p in reversed(PARAMETERS):
            kind = {"metavar": "VALUES"} if many else {"type": Number(p)}
            default = f"{p.default:g}" if many else (int(p.default) if p.integer else p.default)
            text = f"{p.help} [{p.unit}]"
            function = click.option(*p.flags, p.key, default=default, help=text, **kind)(function)
        return function

    return decorate


def pricing_options(function: Any) -> Any:
    """Add the options that put models on a device."""
    named: tuple[tuple[str, dict[str, Any]], ...] = (
        ("--profile", {"help": "Device: profile.json of calibrate, or a name that `profiles list` shows."}),
        ("--target-model", {"help": "config.json, its folder, or a name of the catalogue, such as llama-3.1-8b."}),
        ("--draft-model", {"help": "The same, of the draft."}),
        ("--dtype", {"help": "Number format of the weights.  [default: bfloat16, or what the profile has]"}),
        ("--draft-dtype", {"help": "The draft's, where it is another."}),
        ("--kv-dtype", {"help": "Of the KV cache.  [default: 16 bits, or 32 of float32 weights]"}),
        ("--tp", {"type": click.IntRange(1, 1024), "help": "Devices that share the target (tensor parallelism)."}),
        (
            "--placement",
            {
                "type": click.Choice(("same", "separate")),
                "help": "Draft on the target's devices, or on one of its own.",
            },
        ),
    )
    for name, told in reversed(named):
        function = click.option(name, **told)(function)
    return function


def shared_options(replications: int, least: int) -> Callable[[Any], Any]:
    """Add the options that both commands take."""
    repeat = click.IntRange(least, 1_000_000)
    options = (
        click.option(
            "--hist",
            type=FILE,
            help="Measured histogram, such as accept_hist_k4.json, or a folder of them: each K from its own.",
        ),
        click.option(
            "--measured/--no-measured",
            default=None,
            help="With --hist: sample it, or use only its i.i.d. equivalent.  [default: measured]",
        ),
        click.option("--overlap/--no-overlap", default=False, help="Draft the next round while the target verifies."),
        click.option("--replications", default=replications, type=repeat, help="Simulated runs of each point."),
        click.option("--seed", default=0, type=click.IntRange(0), help="Seed of every random stream."),
        click.option("--force", is_flag=True, help="Overwrite files that exist."),
    )

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def given(key: str) -> bool:
    """Say whether the user set this option, rather than its default."""
    source = click.get_current_context().get_parameter_source(key)
    return source is click.core.ParameterSource.COMMANDLINE


def load_acceptance(
    hist: Path | None, measured: bool | None, longest: int
) -> "HistogramAcceptance | EquivalentAcceptance | None":
    """Return what --hist says of acceptance; None where --alpha is to be used.

    Args:
        hist: File or folder, as the user gave it.
        measured: Whether to sample it; None if the user did not say.
        longest: The longest draft length that is asked for.

    Raises:
        UserError: The file is wrong, or the options contradict each other.
    """
    from simulator.ground.histogram import load_histograms
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance

    if hist is None:
        if measured is not None:
            raise UserError("--measured/--no-measured: nothing to measure by, expected --hist FILE beside it")
        return None
    model = HistogramAcceptance(load_histograms(hist))
    if measured is False:
        return None if given("alpha") else EquivalentAcceptance(model)
    if longest > model.longest:
        raise UserError(f"--draftN: {longest} is above k = {model.longest} of {hist}, expected 1 to {model.longest}")
    if given("alpha"):
        raise UserError("--alpha: not used while --hist is sampled, expected one of them or --no-measured")
    return model


def inputs(options: Mapping[str, Any]) -> dict[str, Path | None]:
    """Return the files that are read, by option: no output may take their place."""
    named = {f"--{key.replace('_', '-')}": options[key] for key in ("profile", "target_model", "draft_model")}
    paths = {option: Path(name) if name else None for option, name in named.items()}
    # A folder stands for the config.json in it.
    files = {option: path / "config.json" if path and path.is_dir() else path for option, path in paths.items()}
    return {"--hist": options["hist"]} | files


@command("simulate")
@parameter_options(many=False)
@pricing_options
@shared_options(replications=32, least=1)
@click.option("--why", is_flag=True, help="Say in words where the time goes, and what would change it.")
@click.option("--csv", type=FILE, help="Write one row for each run.")
@click.option("--events", type=FILE, help="Write the first run's timeline as Chrome/Perfetto trace JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate(**options: Any) -> None:
    """Forecast speculative decoding in a closed loop: does it pay, by how much, and with which K.

    Both arms produce --total tokens on one clock. A round drafts K tokens one after another, verifies them in
    one target pass and commits A + 1 tokens; A comes from --hist, or is i.i.d. with --alpha.
    """
    from simulator.answers.outlook import look_out, outlook_json, outlook_text
    from simulator.answers.report import check_table_format, result_json, result_text, write_table
    from simulator.answers.verdict import judge, weigh
    from simulator.costs.priced import load_pricing
    from simulator.rounds.experiment import replicate, summarise

    check_table_format("--csv", options["csv"], (".csv",))
    check_outputs({f"--{name}": options[name] for name in ("csv", "events")}, options["force"], inputs(options))
    pricing = load_pricing(options)
    values = point_values(pricing, options)
    if options["events"] and values["total"] > MAX_LOGGED_TOKENS:
        raise UserError(f"--events: {values['total']} tokens are too many to log, expected at most {MAX_LOGGED_TOKENS}")
    setting, source = make_setting(values, pricing, options)
    parameters = (
        values | source | told_of(pricing, options) | {k: options[k] for k in ("overlap", "replications", "seed")}
    )
    runs = replicate(setting, options["replications"], options["seed"])
    summary = summarise(setting, runs)
    verdict = judge(setting, summary)
    outlook = look_out(setting, verdict, options["seed"])
    verdict = weigh(verdict, summary, outlook.uncertainty)
    if options["csv"]:
        write_table(options["csv"], run_columns(setting, runs, parameters))
    if options["events"]:
        write_events(options["events"], setting, parameters)
    if options["as_json"]:
        found = result_json(summary, verdict, parameters) | outlook_json(setting, outlook, summary)
        click.echo(to_json(found), nl=False)
    else:
        more = outlook_text(setting, outlook, summary, why=options["why"])
        told = heading(parameters), setting.draft_length, values["round_overhead_ms"]
        click.echo(result_text(summary, verdict, *told, more=more))
        for name in ("csv", "events"):
            if options[name]:
                click.echo(f"wrote {options[name]}")


def point_values(pricing: "Pricing", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that count, by key: what the user gave, what the profile says, or the default."""
    from simulator.costs.priced import refuse_unused

    refuse_unused(pricing, [p.key for p in PARAMETERS if given(p.key)])
    told = {key: value for key, value in pricing.defaults().items() if not given(key)}
    return {key: told.get(key, options[key]) for key in pricing.keys}


def told_of(pricing: "Pricing", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return device and models, and how those run; nothing where no profile is used."""
    if pricing.profile is None:
        return {}
    models = pricing.models
    told = {key: options[key] for key in ("profile", "target_model", "draft_model")}
    run = {} if models is None else {key: getattr(models, key) for key in RUN_KEYS}
    return told | {"profile_status": pricing.profile.status} | run


def make_setting(
    values: dict[str, Any], pricing: "Pricing", options: Mapping[str, Any]
) -> "tuple[Setting, dict[str, Any]]":
    """Return what to simulate, and where its acceptance comes from; puts the alpha that is used into `values`."""
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance, IidAcceptance
    from simulator.rounds.experiment import Setting

    acceptance = load_acceptance(options["hist"], options["measured"], values["draftN"])
    check_parameters(values)
    if isinstance(acceptance, EquivalentAcceptance):
        values["alpha"] = acceptance.alpha(values["draftN"])
    setting = Setting(
        total=values["total"],
        draft_length=values["draftN"],
        costs=pricing.costs(values),
        acceptance=acceptance or IidAcceptance(values["alpha"]),
        overlap=options["overlap"],
    )
    measured = isinstance(acceptance, HistogramAcceptance)
    if measured:
        del values["alpha"]
    source: dict[str, Any] = {"hist": None if acceptance is None else str(options["hist"]), "measured": measured}
    if acceptance is not None and acceptance.caveat:
        source["acceptance_caveat"] = acceptance.caveat
    return setting, source


def heading(parameters: Mapping[str, Any]) -> str:
    if parameters["measured"]:
        source = f"acceptance sampled from {parameters['hist']}"
    else:
        source = f"i.i.d. acceptance {parameters['alpha']:.4g}"
        source += f" (equivalent of {parameters['hist']})" if parameters["hist"] else ""
    source += f" ({parameters['acceptance_caveat']})" if "acceptance_caveat" in parameters else ""
    overlap = ", overlapped drafting" if parameters["overlap"] else ""
    runs = f"{parameters['replications']} run{'s' if parameters['replications'] > 1 else ''}"
    told = f"{parameters['total']} tokens, K = {parameters['draftN']}, {source}{overlap}, {runs}"
    if "profile" not in parameters:
        return told
    where = f"on {parameters['profile']} ({parameters['profile_status']})"
    if parameters["target_model"]:
        pair = f"{parameters['target_model']} drafted by {parameters['draft_model']}"
        where = f"{pair}, batch {parameters['batch']}, context {parameters['context']}, {where}"
    return f"{told}\n{where}"


def run_columns(setting: "Setting", runs: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row for each run: what it was told and what it did."""
    from simulator.rounds.engine import elapsed_s

    count, cost = len(runs.rounds), setting.cost
    times_s = elapsed_s(cost, runs)
    baseline_s = setting.total * float(cost.baseline_s)
    told = {k: [v] * count for k, v in parameters.items() if k != "replications"}
    return told | {
        "replication": range(count),
        "baseline_ms_per_token": [baseline_s / setting.total * 1e3] * count,
        "speculative_ms_per_token": times_s / setting.total * 1e3,
        "speedup": baseline_s / times_s,
        "rounds": runs.rounds,
        "drafted": runs.rounds * setting.draft_length,
        "accepted": runs.accepted,
        "cut_tokens": runs.cut,
        "tokens": [setting.total] * count,
        "tokens_per_round": 1 + runs.accepted / runs.rounds,
    }


def write_events(path: Path, setting: "Setting", parameters: Mapping[str, Any]) -> None:
    """Write the first run as a trace that Perfetto opens."""
    from simulator.ground.artefacts import finite_or_text
    from simulator.ground.chrome_trace import ChromeTrace
    from simulator.rounds.arms import LANES
    from simulator.rounds.experiment import play_events

    with writing(path) as file:
        trace = ChromeTrace(file, LANES, finite_or_text(envelope("event_timeline", 1, parameters)))
        play_events(setting, parameters["seed"], trace)
        trace.close()


@command("sweep")
@parameter_options(many=True)
@pricing_options
@shared_options(replications=16, least=0)
@click.option("--out", type=FILE, help="Write the table as .csv or .parquet, a row for each point.")
@click.option("--plot", type=FILE, help="Draw speedup as .png or .svg.")
@click.option(
    "--plot-kind",
    type=click.Choice(("auto", "surface", "curves", "multiples")),
    default="auto",
    help="Contours over two options, curves over one by another, or panels of contours over three or four.",
)
def sweep(**options: Any) -> None:
    """Evaluate a grid: every numeric option takes lists and ranges, such as 1:8, 0.05,0.1 or 0.5:0.95:0.05.

    Every point gets the closed form and, unless --replications is 0, a simulation with its 95 % interval.
    """
    from simulator.answers.plots import draw, plan
    from simulator.answers.report import check_table_format, write_table
    from simulator.ground.pictures import check_format, save_figure
    from simulator.rounds.grid import run_sweep

    check_table_format("--out", options["out"])
    check_format(options["plot"])
    check_outputs({f"--{name}": options[name] for name in ("out", "plot")}, options["force"], inputs(options))
    task, source, caveat = make_sweep(options)
    layout = plan(task.grid, options["plot_kind"]) if options["plot"] else None
    with progress("sweep", task.steps) as bar:
        columns = run_sweep(task, bar.update)
    if options["out"]:
        hist = None if options["hist"] is None else str(options["hist"])
        told = {"hist": hist, "measured": task.acceptance.is_measured}
        told |= {k: options[k] for k in ("overlap", "replications", "seed")} | told_of(task.pricing, options)
        told |= {"acceptance_caveat": caveat} if caveat else {}
        write_table(options["out"], columns | told)
    if layout:
        unfit = int((~fitting(columns)).sum())
        caveats = "; ".join(filter(None, [caveat, f"{unfit} points do not fit into memory" if unfit else ""]))
        save_figure(options["plot"], draw(task.grid, columns, layout, held_fixed(task, source, caveats)))
    click.echo(sweep_text(task, columns, f"{source} ({caveat})" if caveat else source))
    for name in ("out", "plot"):
        if options[name]:
            click.echo(f"wrote {options[name]}")


def make_sweep(options: Mapping[str, Any]) -> "tuple[Sweep, str, str]":
    """Return what to evaluate, and in words where its acceptance comes from and what kind of approximation that is."""
    from simulator.costs.priced import load_pricing
    from simulator.rounds.acceptance_law import EquivalentAcceptance
    from simulator.rounds.grid import Acceptance, Grid, Sweep

    pricing = load_pricing(options)
    values = point_values(pricing, options)
    grid = Grid(values={k: grid_values(BY_KEY[k].flags[0], v) for k, v in values.items()})
    model = load_acceptance(options["hist"], options["measured"], int(grid.values["draftN"].max()))
    source = "i.i.d. acceptance"
    if model is not None:
        word = "i.i.d. equivalent of" if isinstance(model, EquivalentAcceptance) else "acceptance from"
        source = f"{word} {options['hist']}"
    shared = {k: options[k] for k in ("overlap", "replications", "seed")}
    caveat = "" if model is None else model.caveat
    return Sweep(grid=grid, acceptance=Acceptance(model=model), pricing=pricing, **shared), source, caveat


def grid_values(flag: str, value: str | float) -> "NDArray[Any]":
    """Return the values of one parameter: those the user typed, or the one a profile says."""
    import numpy as np

    from simulator.ground.ranges import parse_values

    return parse_values(flag, value) if isinstance(value, str) else np.array([value], np.float64)


def held_fixed(task: "Sweep", source: str, caveat: str) -> str:
    """Say what did not vary, for the picture's title: the acceptance, and whatever is not at its default."""
    values = task.grid.values
    told = [source if len(source) <= 60 else f"{source[:28]}...{source[-28:]}"]
    told += [caveat] if caveat else []
    told += [str(v) for v in (task.pricing.profile and task.pricing.profile.name,) if v]
    for key in values:
        parameter = BY_KEY[key]
        fixed = key not in task.grid.axes and not (key == "alpha" and task.acceptance.model)
        if fixed and (key in ("draftN", "alpha", "draft_cost") or values[key][0] != parameter.default):
            told.append(f"{parameter.flags[0][2:]} {values[key][0]:.3g}")
    return ", ".join(told) + (", overlapped drafting" if task.overlap else "")


def sweep_text(task: "Sweep", columns: "Columns", source: str) -> str:
    """Return a few lines about a sweep: its size, its best and worst point, and how many points pay."""
    import numpy as np

    key = "speedup" if "speedup" in columns else "closed_form_speedup"
    gains = np.where(fitting(columns), columns[key], np.nan)
    unfit = int(np.isnan(gains).sum())
    lines = [f"{task.grid.points:,} points over {', '.join(task.grid.axes) or 'no option'}; {source}"]
    if unfit:
        lines.append(f"{unfit:,} of them do not fit into memory, and do not count below")
    if unfit == len(gains):
        return "\n".join(lines)
    for word, at in (("best", int(np.nanargmax(gains))), ("worst", int(np.nanargmin(gains)))):
        where = ", ".join(f"{k} {columns[k][at]:g}" for k in task.grid.axes)
        lines.append(f"{word:5} {gains[at]:.3f}x  at {where}")
    lines.append(f"above 1x at {int((gains > 1).sum()):,} of them")
    return "\n".join(lines)


def fitting(columns: "Columns") -> "NDArray[Any]":
    """Return which points fit into memory: all where that is not known."""
    import numpy as np

    return columns["fits"] > 0 if "fits" in columns else np.ones(len(columns["draftN"]), np.bool_)
