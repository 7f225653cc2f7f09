"""The command `simulate-serving`: a server step for step, with speculation and without, at one load or many."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.answers.latency import Limit
from simulator.costs.parameters import BY_NAME, PARAMETERS
from simulator.ground.artefacts import UserError, check_outputs, to_json, writing
from simulator.ground.command import FILE, command
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.ranges import parse_whole

from .accepting import ACCEPTANCE_OPTIONS, as_accepted
from .engine_settings import STATED_OPTIONS, as_engines_state
from .fleet_options import FLEET_OPTIONS, check_fleet
from .options import DEVICE_OPTIONS, HIST_OPTIONS, SharedOptions, options_of, parameter_options
from .running import serving
from .serving_options import (
    BLOCK_SIZES,
    LIMIT_OPTIONS,
    OF_ONE,
    SERVER_OPTIONS,
    TRAFFIC_OPTIONS,
    WORK_OPTIONS,
    Loads,
    check_cluster,
    limits_of,
    loads_of,
    server_as,
)

if TYPE_CHECKING:
    from simulator.answers.load_curve import Looked
    from simulator.answers.load_search import Found
    from simulator.answers.load_uncertainty import Served
    from simulator.answers.scene import Scene
    from simulator.rounds.kept import Kept

# What simulate and sweep have and a served load has not.
ABSENT: dict[str, Any] = {"engine": None, "load": None, "said": (), "overlap": False, "guesses": 1}
ABSENT |= {"baseline_tpot": None, "speculative_tpot": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions(SharedOptions):
    """The options of `simulate-serving`.

    draft_lengths: as stated, each a way of serving; none where nobody says. trace: recorded texts that requests go
    along. values: all that were parsed, for what makes traffic and servers of them.
    """

    alpha: float
    draft_lengths: tuple[int, ...]
    trace: Path | None
    policy: tuple[str, ...]
    values: Mapping[str, Any]
    loads: Loads
    limits: tuple[Limit, ...]
    attain: float
    for_load: float | None
    warmup: float
    workers: int | None
    cluster: str | None
    plot: Path | None
    out: Path | None
    requests_out: Path | None
    events: Path | None
    as_json: bool


@command("simulate-serving")
@click.option(
    *BY_NAME["draft_length"].flags, "draft_length", metavar="VALUES", help="Draft lengths K, each a way of serving."
)
@parameter_options(many=False, without=tuple(p.name for p in PARAMETERS if p.name != "alpha"))
@DEVICE_OPTIONS
@STATED_OPTIONS
@HIST_OPTIONS
@click.option("--trace", type=FILE, help="In its place: trace.json of measure-acceptance, along which requests go.")
@ACCEPTANCE_OPTIONS
@click.option(
    "--policy",
    multiple=True,
    metavar="NAME[:SETTINGS]",
    help="How draft lengths are chosen, each a way of serving: static:k=3, vllm-by-batch:ranges=[[1,8,5],[9,64,2]], "
    "vllm-adaptive, sglang-adaptive, trt-llm, llama-cpp, off-above:batch=32, goodput.",
)
@click.option(
    "--spread",
    type=click.FloatRange(0, min_open=True),
    help="How alike requests accept: concentration of a beta law across them, inf: alike.  [default: as measured]",
)
@TRAFFIC_OPTIONS
@SERVER_OPTIONS
@FLEET_OPTIONS
@LIMIT_OPTIONS
@WORK_OPTIONS
@click.option("--replications", default=1, type=click.IntRange(1, 10_000), help="Runs of each load.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of every random stream.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--plot", type=FILE, help="Draw latency against load, and the server over time, as .png or .svg.")
@click.option("--out", type=FILE, help="Write a row for each load and way of serving, as .csv or .parquet.")
@click.option("--requests-out", type=FILE, help="Write a row for each request of the first load.")
@click.option("--events", type=FILE, help="Write the steps of the first load as Chrome/Perfetto trace JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate_serving(**values: Any) -> None:
    """Serve requests step for step as an engine schedules them: does speculation pay under load?

    The same requests are served with and without speculation. Times of steps come from models on a profiled device,
    what rounds accept from --acceptance, --hist or --alpha. Tells P50 and P99 of the first token and of the time a
    token at each load, where speculation stops paying, and with --slo what a server carries.
    """
    values = as_engines_state({**values, **ABSENT}, many=False)
    values = as_accepted(values, many=False, compared="," in (values["method"] or ""))
    text = values["draft_length"]
    lengths = () if text is None else parse_whole("--draftN", str(text), 1, MAX_DRAFT_LENGTH)
    check_cluster(values)
    check_fleet(values)
    values |= {"loads": loads_of(values), "limits": limits_of(values["slo"]), "draft_lengths": lengths}
    values |= server_as(values)
    values["block_size"] = values["block_size"] or BLOCK_SIZES[values["scheduler"]]
    run(options_of(ServingOptions, {**values, "values": values}))


def run(options: ServingOptions) -> None:
    """Load, serve, write and print."""
    from simulator.answers.load_curve_report import load_curve_json, load_curve_text
    from simulator.ground.pictures import check_format
    from simulator.ground.tables import check_table_format
    from simulator.rounds.kept import Kept

    outputs = {
        "--plot": options.plot,
        "--out": options.out,
        "--requests-out": options.requests_out,
        "--events": options.events,
    }
    check_format(options.plot)
    check_table_format("--out", options.out)
    check_table_format("--requests-out", options.requests_out)
    inputs = options.inputs | {"--workload": options.values["workload"], "--trace": options.trace}
    check_outputs(outputs, options.force, inputs)
    if options.for_load is not None and not options.limits:
        raise UserError("--for-load: of servers within limits, expected --slo beside it")
    from .serving_ways import scene_of

    scene, basis, notes, served = scene_of(options)
    kept = Kept(options.out, scene, force=options.force) if options.out else None
    if kept:
        click.get_current_context().call_on_close(kept.close)
    found, looked = found_of(options, scene, served, kept)
    write(options, scene, found, looked)
    if kept:
        kept.end()
    if options.as_json:
        click.echo(to_json(load_curve_json(scene, found, parameters_of(options), basis, notes)), nl=False)
        return
    told = "\n".join([heading(options, scene), *options.said])
    click.echo(load_curve_text(scene, found, told, basis, notes))
    for path in filter(None, outputs.values()):
        click.echo(f"wrote {path}")


def found_of(
    options: ServingOptions, scene: "Scene", served: "tuple[Served, ...]", kept: "Kept | None"
) -> "tuple[Found, Looked]":
    """Serve all loads, and look for those that are asked for; what ends it says what is kept.

    Besides what is found: of each way of serving, what it came to at all loads that were looked at.
    """
    from simulator.answers.clustered import LostCluster
    from simulator.answers.load_curve import curve
    from simulator.answers.load_search import COMPARED, Found, capacity, servers_for, turning
    from simulator.answers.load_uncertainty import known
    from simulator.answers.played import playing

    seeds, loads = [options.seed + i for i in range(options.replications)], options.loads.values
    ways, drafting = range(len(scene.arms)), range(1, len(scene.arms))
    wanted, middle = ways if scene.limits else (), loads[len(loads) // 2]
    runs, share = len(loads) * len(ways) * len(seeds), options.attain
    where: Mapping[str, Any] = {"workers": options.workers, "cluster": options.cluster, "kept": kept}
    try:
        with (
            serving("simulate-serving", f"{runs:,} runs", runs) as update,
            playing(scene, update, runs, **where) as play,
        ):
            points = tuple(curve(ways, loads, seeds, play))
            gain = [partial(known, name=COMPARED, arm=1, served=served[arm - 1]) for arm in drafting]
            turnings = [partial(turning, scene, points, arm, seeds, play, gain[arm - 1]) for arm in drafting]
            most = [partial(capacity, scene, arm, middle, share, seeds, play) for arm in wanted]
            searched: list[Any] = play.at_once([*turnings, *most])
            turned, carried = searched[: len(drafting)], searched[len(drafting) :]
            counting = zip(ways, carried, strict=True) if options.for_load is not None else ()
            asked = (options.for_load or 0.0, share, seeds, play)
            counted = play.at_once([partial(servers_for, scene, arm, each, *asked) for arm, each in counting])
            looked = play.looked_at(ways, seeds)
    except (KeyboardInterrupt, LostCluster) as error:
        again = f"{kept.path.name} keeps what is done, the same command goes on" if kept and kept.is_held else ""
        raise type(error)("; ".join(filter(None, (str(error), again)))) from None
    ends = (points[0], points[-1]) if len(points) > 1 else points
    gains = tuple(tuple(known(point, COMPARED, arm, served[arm - 1]) for point in ends) for arm in drafting)
    servers, tried = tuple(count for count, _ in counted), tuple(is_tried for _, is_tried in counted)
    return Found(points, tuple(turned), tuple(carried), share, options.for_load, gains, servers, tried), looked


def write(options: ServingOptions, scene: "Scene", found: "Found", looked: "Looked") -> None:
    """Write the files that are asked for."""
    from simulator.answers.load_curve import Task, outcome_of
    from simulator.answers.load_curve_report import load_curve_columns, request_columns
    from simulator.ground.tables import write_table

    loads = options.loads.values
    if options.out:
        write_table(options.out, load_curve_columns(scene, found))
    if options.requests_out:
        requests = scene.traffic.requests(loads[0], options.seed)
        outcomes = [outcome_of(scene, Task(arm, loads[0], options.seed), requests) for arm in range(len(scene.arms))]
        write_table(options.requests_out, request_columns(scene, requests, outcomes))
    if options.events:
        from simulator.answers.timeline import write_timeline
        from simulator.ground.artefacts import envelope, finite_or_text

        requests = scene.traffic.requests(loads[0], options.seed)
        tasks = [Task(arm, loads[0], options.seed) for arm in range(len(scene.arms))]
        logged = [outcome_of(scene, task, requests, is_logged=True) for task in tasks]
        with writing(options.events) as file:
            about = finite_or_text(envelope("event_timeline", 1, parameters_of(options)))
            write_timeline(file, scene, logged, about)
    if options.plot:
        from simulator.answers.load_curve_plot import draw_load_curve
        from simulator.ground.pictures import save_figure

        load = loads[len(loads) // 2]
        requests = scene.traffic.requests(load, options.seed)
        series = [outcome_of(scene, Task(arm, load, options.seed), requests).series for arm in range(len(scene.arms))]
        save_figure(options.plot, draw_load_curve(scene, found, looked, heading(options, scene), series, load))


def parameters_of(options: ServingOptions) -> dict[str, Any]:
    """Return what a result hangs on."""
    device, own = options.device, options.values
    names: tuple[str, ...] = ("prompts", "answers", "burstiness", "requests", "prefix", "turns", "think", "scheduler")
    names += ("budget", "seats", "longest", "block_size", "num_blocks", "prefix_caching", "chunked_prefill")
    names += ("async_scheduling", "warmup", "replicas", "router", "prefill_replicas", "decode_replicas", "kv_transfer")
    names += ("kv_latency",)
    names += tuple(name for name, whose in OF_ONE.items() if whose == own["scheduler"])
    told = {name: own[name] for name in names} | {"spread": own["spread"]}
    told |= {"profile": device.profile, "target_model": device.target_model, "draft_model": device.drafter}
    told |= {
        "method": device.method,
        "policy": list(options.policy),
        "tp": device.tp,
        "gpu_memory_utilization": device.gpu_memory_utilization,
        "hist": options.accepts_as,
        "trace": options.trace,
        "acceptance": list(own["acceptance"]),
        "alpha": options.alpha,
    }
    return told | {"replications": options.replications, "seed": options.seed, "loads": list(options.loads.values)}


def asked_of(own: Mapping[str, Any]) -> list[str]:
    """Say what else is asked of requests than their lengths."""
    turns = f"sessions of {own['turns']} turns" + f" {own['think']} apart" * (own["think"] is not None)
    asked = {
        f"{own['prefix']:,} more before every prompt": own["prefix"],
        turns: own["turns"] is not None,
        f"burstiness {own['burstiness']:g}": own["burstiness"] != 1,
    }
    return [said for said, is_asked in asked.items() if is_asked]


def heading(options: ServingOptions, scene: "Scene") -> str:
    """Say what was served."""
    from simulator.answers.fleets import servers_in_words

    device, traffic, own = options.device, scene.traffic, options.values
    what = str(own["workload"]) if own["workload"] else f"{own['prompts']} tokens in, {own['answers']} out"
    what += "".join(f", {part}" for part in asked_of(own))
    drafted = "".join(f", {arm.name}" for arm in scene.arms[1:])
    rooms = dict.fromkeys(arm.settings.num_blocks * arm.settings.block_size for arm in scene.arms)
    blocks = " and ".join(f"{room:,}" for room in rooms)
    server = f"{own['scheduler']}, {own['budget']:,} tokens a step, {scene.arms[0].settings.max_num_seqs:,} at once"
    devices = f"{device.tp} x " if device.tp and device.tp > 1 else ""
    if several := servers_in_words(scene.arms[0].replicas):
        server = f"each of {several}: {server}"
    return (
        f"{traffic.count:,} request{'s' * (traffic.count != 1)} a run, {what}\n"
        f"{device.target_model}{drafted}, on {devices}{device.profile}; "
        f"{server}, room for {blocks} tokens in KV"
    )
