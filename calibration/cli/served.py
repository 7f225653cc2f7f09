"""Options and steps of `validate --serving-log` and `validate --server`: loads of real servers, forecast one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, say, stacked

from .served_ways import Serving, accepts_in, ways_in

if TYPE_CHECKING:
    from calibration.validate.served.measured import Measured
    from calibration.validate.served.rows import ServedValidation

# Options of servers, beside those of rows that mean the same here.
OWN: tuple[str, ...] = (
    "draft_model",
    "ways",
    "accepts",
    "max_model_len",
    "block_size",
    "num_blocks",
    "async_scheduling",
)
OWN += ("prefix_caching", "warmup", "concurrency", "isl", "osl", "requests")
ROWS_TOO = ("target_model", "engine", "kv_dtype", "tp", "gpu_memory_utilization", "chunk", "max_running")
# Of --live, what --serving-log and --server have too.
LIVE_TOO = ("dtype", "runs", "seed")
# What is loaded where nobody says: clients, and shares of the most requests a second that these came to.
USUAL_CLIENTS, SHARES = "1,2,4,8,16", (0.3, 0.6, 0.9)
USUAL = {"isl": "100:300", "osl": "32:96", "blocks": 2, "requests": 96}
WARMUP, RUNS = 0.1, 20
MOST_RUNS = 1000

served_options = stacked(
    click.option(
        "--serving-log",
        "logs",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="Requests of real servers: of bench-server --out or vllm bench serve --save-detailed; several files.",
    ),
    click.option(
        "--server",
        "servers",
        multiple=True,
        metavar="[NAME=]URL",
        help="In its place: servers that run, loaded first; files in --out-dir.",
    ),
    click.option("--draft-model", metavar="NAME", help="Of --serving-log and --server: what arms draft with."),
    click.option(
        "--way",
        "ways",
        multiple=True,
        metavar="NAME=METHOD[:k=K]",
        help="The same: how an arm drafts; plain: not.  [default: as its name begins, K as counted]",
    ),
    click.option(
        "--accepts",
        multiple=True,
        metavar="NAME=FILE",
        help="The same: histograms of an arm or a method.  [default: PROFILE_accepted/METHOD]",
    ),
    click.option("--max-model-len", type=click.IntRange(2, 16_777_216), help="The same: tokens of a request at most."),
    click.option("--block-size", type=click.IntRange(1, 4096), help="The same: tokens of a block of KV."),
    click.option("--num-blocks", type=click.IntRange(1), help="The same: blocks of KV.  [default: as memory allows]"),
    click.option(
        "--async-scheduling/--no-async-scheduling", default=None, help="The same: a step is planned while one runs."
    ),
    click.option("--prefix-caching/--no-prefix-caching", default=None, help="The same: keep KV of texts."),
    click.option(
        "--warmup",
        type=click.FloatRange(0, 0.9),
        help=f"The same: share of requests, the first, that does not count.  [{WARMUP:g}]",
    ),
    click.option("--concurrency", metavar="VALUES", help=f"With --server: clients.  [{USUAL_CLIENTS}]"),
    click.option("--isl", metavar="LAW", help=f"With --server: tokens of prompts.  [{USUAL['isl']}]"),
    click.option("--osl", metavar="LAW", help=f"With --server: tokens of answers.  [{USUAL['osl']}]"),
    click.option(
        "--requests", type=click.IntRange(8, 100_000), help=f"With --server: of a load.  [{USUAL['requests']}]"
    ),
)


class Served(NamedTuple):
    """What was asked. values: options of servers by name, and those of rows that mean the same here."""

    logs: tuple[Path, ...]
    servers: tuple[str, ...]
    values: Mapping[str, Any]

    def __bool__(self) -> bool:
        """Whether anything was."""
        return bool(self.logs or self.servers)

    @property
    def option(self) -> str:
        """What was asked, in words."""
        return f"--serving-log {self.logs[0]}" if self.logs else f"--server {self.servers[0]}"


def taken(values: dict[str, Any]) -> Served:
    """Take options of servers out of those that were parsed.

    Raises:
        UserError: Some are there without servers, or of loads that were measured already.
    """
    own = {name: values.pop(name) for name in OWN}
    found = Served(values.pop("logs"), values.pop("servers"), own)
    if found.logs and found.servers:
        raise UserError(f"--server: {found.servers[0]} beside --serving-log, expected one of them")
    flags = {"ways": "--way"}
    for name, value in own.items():
        flag = flags.get(name, f"--{name.replace('_', '-')}")
        is_given = value is not None and value != ()
        if is_given and not found:
            raise UserError(f"{flag}: {value} without --serving-log or --server, expected one of them beside it")
        if is_given and found.logs and name in ("concurrency", "isl", "osl", "requests"):
            raise UserError(f"{flag}: {value} beside --serving-log, whose requests were sent; expected --server")
    if not found:
        return found
    if found.logs and values["decode"]:
        found = found._replace(logs=(*found.logs, *values["decode"]))
        values["decode"] = ()
    rows = {name: values[name] for name in ROWS_TOO}
    live = {name: values[name] for name in LIVE_TOO}
    values |= dict.fromkeys((*ROWS_TOO, *LIVE_TOO))
    if found.servers:
        live |= {"out_dir": values["out_dir"]}
        values["out_dir"] = None
    return found._replace(values={**own, **rows, **live})


def validation_of(served: Served, profile: Path, max_error: float | None) -> "tuple[ServedValidation, dict[str, Any]]":
    """Forecast all loads; what a result says of itself beside it."""
    from calibration.validate.served.measured import read_all
    from calibration.validate.served.replay import traffic_of
    from calibration.validate.served.rows import FIGURES, validated
    from simulator.cli.as_rows import fit_of
    from simulator.cli.running import serving

    own = served.values
    warmup = WARMUP if own["warmup"] is None else own["warmup"]
    runs, seed = own["runs"] or RUNS, own["seed"] or 0
    if runs > MOST_RUNS:
        raise UserError(f"--runs: {runs:,} of each load, expected at most {MOST_RUNS:,}")
    ways = Serving(profile, own, ways_in(own["ways"]), accepts_in(own["accepts"]), None, fit_of(str(profile)))
    if served.servers:  # what is wrong with options is told before servers are loaded
        ways.check()
    paths = served.logs or measured_now(served)
    loads = read_all(paths, warmup)
    ways = replace(ways, traffic=traffic_of(loads))
    bounds = {name: figure.bound for name, figure in FIGURES.items() if figure.bound is not None}
    if max_error is not None:
        bounds["tpot_p50"] = max_error
    count = sum(len(ways.arms(load)) for load in loads)  # what is wrong with arms is said before anything runs
    with serving("validate", "loads of arms", count) as update:
        found = validated(loads, ways.arms, bounds, runs, ways.draws, seed, update)
    told = {"serving_log": [str(path) for path in paths], "servers": list(served.servers), "profile": str(profile)}
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in own.items() if name != "out_dir"}
    return found, told | options | {"warmup": warmup, "runs": runs, "seed": seed}


def measured_now(served: Served) -> tuple[Path, ...]:
    """Load servers: clients first, then by the clock at shares of the most that the first arm carried; return files."""
    own = served.values
    folder = Path(own["out_dir"] or "served")
    folder.mkdir(parents=True, exist_ok=True)
    arms = [name for word in served.servers for name in ("--arm", word if "=" in word else f"plain={word}")]
    clients = folder / "clients.jsonl"
    load_servers([*arms, "--concurrency", own["concurrency"] or USUAL_CLIENTS], clients, own)
    most = capacity(read_first(clients))
    rates = folder / "rates.jsonl"
    load_servers([*arms, "--rate", ",".join(f"{most * share:.3g}" for share in SHARES)], rates, own)
    return clients, rates


def load_servers(words: list[str], out: Path, own: Mapping[str, Any]) -> None:
    """Run `bench-server` with these words, what is in its file already not again."""
    from .bench_server import bench_server
    from .server_options import asked_by

    lengths = ["--isl", own["isl"] or USUAL["isl"], "--osl", own["osl"] or USUAL["osl"]]
    size = ["--requests", str(own["requests"] or USUAL["requests"]), "--blocks", str(USUAL["blocks"])]
    seed = ["--seed", str(own["seed"] or 0)]
    lengths += [*size, *seed, "--out", str(out)]
    with asked_by("--server"), bench_server.make_context("bench-server", [*words, *lengths]) as context:
        put_load(context.params)


def put_load(values: Mapping[str, Any]) -> None:
    """Put a load on servers and keep what came, without a report."""
    from acceptance.results.journal import Journal
    from calibration.servers.bench import deliver
    from calibration.servers.records import LOADED
    from calibration.servers.report import WARNING

    from .bench_server import benched
    from .server_options import options_of

    options = options_of(dict(values))
    assert options.out is not None
    journal = Journal(options.out, LOADED)
    try:
        bench, notes = benched(options, journal)
    finally:
        journal.close()
    for note in notes:
        if note.startswith(WARNING):
            say(note, err=True)
    kept = f"what is done is kept in {options.out}, the same command goes on"
    if bench.number:
        deliver(bench.number, kept)
    if bench.gone:
        raise UserError(f"{bench.gone}; {kept}")


def read_first(path: Path) -> "list[Measured]":
    """Return the loads of a file that was written just now."""
    from calibration.validate.served.measured import read_all

    return read_all([path], 0.0)


def capacity(loads: "Sequence[Measured]") -> float:
    """Return the most requests a second that the first arm came to."""
    found = []
    for load in loads:
        parts = load.parts(next(iter(load.arms)))
        taken_s = sum(part.duration_s for part in parts)
        found.append(sum(not a.error for part in parts for a in part.answers) / taken_s if taken_s else 0.0)
    return max(found)
