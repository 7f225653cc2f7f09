"""`calibrate --from-server` and `--from-serving` with files of bench-server: steps of servers, fitted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, to_json, write_json
from simulator.ground.command import say, stacked
from simulator.ground.plain_text import text_parts

from .serving import digest_of, named

if TYPE_CHECKING:
    from calibration.fit.from_server import Models

# Of a plan: clients, seconds of each load on each server, answers, and prompts: short ones, and long ones as parts of
# what a server takes, of so many tokens at most.
CLIENTS, SECONDS, ANSWERS, SHORT, LONG, LONGEST = "1,4,16", 18.0, "32:96", (32, 96), (0.375, 0.625), 4096
# Requests of a load at most, for each of its clients; the time ends it before.
MOST_REQUESTS = 400
LENGTHS = "short", "long"
# Options of rows that servers, whose steps are seen, do not need.
OF_ROWS = ("engine", "tp", "gpu_memory_utilization", "prefix_hit", "prompts_first", "same_length")
server_options = stacked(
    click.option(
        "--from-server",
        "servers",
        multiple=True,
        metavar="[NAME=]URL",
        help="Servers, in place of a probe: put under load for two minutes each; plain=URL, ngram=URL, draft3=URL.",
    ),
    click.option("--draft-model", metavar="NAME", help="Of servers: the model that drafts, as of simulate."),
    click.option("--clients", metavar="VALUES", help=f"Of --from-server: clients of each load.  [{CLIENTS}]"),
    click.option("--seconds", type=click.FloatRange(1, 3600), help=f"The same: time of each load.  [{SECONDS:g}]"),
)


def are_loads(paths: Sequence[Path]) -> bool:
    """Whether files are of `bench-server --out`.

    Raises:
        UserError: Some are, and some are not; one is missing, or empty.
    """
    from calibration.sources.serving_files import within

    kinds = [not within(path) and is_load(path) for path in paths]
    if any(kinds) and not all(kinds):
        one, other = paths[kinds.index(True)], paths[kinds.index(False)]
        raise UserError(f"--from-serving {other}: holds no load of bench-server, as {one} does, expected files alike")
    return any(kinds)


def is_load(path: Path) -> bool:
    """Whether a file is, as its first line says.

    Raises:
        UserError: There is none, or nothing in it.
    """
    from calibration.servers.records import BLOCK, LOADED, REQUEST, SETUP
    from simulator.ground.fields import parse_json

    if path.exists() and not path.is_file():
        return False  # what is piped is read once
    first, *_ = next(iter(text_parts(path)), b"").strip().split(b"\n", 1)
    if not first:
        raise UserError(f"--from-serving {path}: is empty, expected rows, or a load of bench-server")
    try:
        header = parse_json(first.decode())
    except ValueError:
        return False
    if not isinstance(header, dict):
        return False
    # One that lost its first line is one too: its reader says so.
    return bool(header.get("kind") == LOADED.name or header.get("type") in (SETUP, REQUEST, BLOCK))


def run_servers(options: Any) -> int:
    """Put load on servers where that is asked for, fit, write, print; return the exit code."""
    from calibration.fit.calibrate import EXIT_FAILED_CHECKS
    from calibration.fit.from_server import fit_server
    from calibration.fit.server_acceptance import accepted_beside, accepted_of, write_accepted
    from calibration.fit.server_report import failed, server_json, server_text
    from calibration.fit.server_rows import read_seen
    from simulator.costs.profile_file import load_profile, save_profile

    check_given(options)
    device = load_profile(options.profile) if options.profile is not None else None
    if options.servers and options.rows["target_model"]:
        models_of(options, ())  # what is wrong with it is told before two minutes of load
    paths = put_load(options) if options.servers else options.from_serving
    seen = read_seen(paths)
    models = models_of(options, tuple(seen.models.values()))
    for note in (*seen.broken, *models.doubts):
        click.echo(f"calibrate: {note}", err=True)
    found = fit_server(seen, models, options.name or options.out.stem, device, digest_of(paths))
    accepted = accepted_of(seen, models)
    parameters = {"from_serving": named(paths), "rows_sha256": digest_of(paths), **options.rows}
    parameters |= {"draft_model": options.draft_model, "profile": options.profile and str(options.profile)}
    if options.report:
        write_json(options.report, server_json(found, models, accepted, parameters))
    if options.as_json:
        click.echo(to_json(server_json(found, models, accepted, parameters)), nl=False)
    else:
        say(server_text(found, models, accepted))
    if reason := failed(found):
        click.echo(f"calibrate: {reason}: {options.out} is not written", err=True)
        return EXIT_FAILED_CHECKS
    save_profile(options.out, found.profile, parameters)
    folder = accepted_beside(options.out)
    written = [write_accepted(folder, each, {"from_serving": named(paths)}) for each in accepted]
    if not options.as_json:
        for path in filter(None, (options.out, *written, options.report)):
            click.echo(f"wrote {path}")
    return 0


def check_given(options: Any) -> None:
    """Refuse options that servers do not need."""
    for name in OF_ROWS:
        if options.rows[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: {options.rows[name]} of servers whose steps are seen, expected no such option")
    if options.plot is not None:
        raise UserError(f"--plot: {options.plot} beside a load of servers, expected no such option")


def models_of(options: Any, served: Sequence[str]) -> "Models":
    """Return what was served, as options say; a target that nobody names is as servers call it."""
    from calibration.fit.from_server import Models
    from calibration.sources.serving import dtype_of
    from simulator.costs.parameters import Load
    from simulator.costs.shapes import read_shape
    from simulator.ground.records import BadRecord

    given = options.rows
    names = list(dict.fromkeys(served))
    if given["target_model"] is None and len(names) != 1:
        those = f"the servers have {', '.join(names[:4])}" if names else "no server names a model"
        raise UserError(f"--target-model: {those}, expected one named")
    target = given["target_model"] or names[0]
    try:
        shape = read_shape(target)
    except UserError as error:
        if given["target_model"] is not None:
            raise
        raise UserError(f"--target-model: the servers call it {target}, expected its config.json ({error})") from None
    try:
        formats = {name: dtype_of(given[name], name) for name in ("dtype", "kv_dtype")}
    except BadRecord as error:
        raise UserError(f"--{str(error).replace('_', '-', 1).replace(' is', ':', 1)}") from None
    return Models(
        target=shape,
        draft=None if options.draft_model is None else read_shape(options.draft_model),
        dtype=formats["dtype"],
        kv_dtype=formats["kv_dtype"] or None,
        served=Load().with_options({name: given[name] for name in ("chunk", "max_running")}),
    )


def put_load(options: Any) -> tuple[Path, ...]:
    """Put the loads of the plan on servers; return the files that have them, behind which the same command goes on."""
    from acceptance.results.journal import Journal
    from calibration.servers.bench import deliver
    from calibration.servers.records import LOADED

    from .bench_server import benched
    from .server_options import asked_by

    paths = tuple(options.out.with_name(f"{options.out.stem}_{length}.jsonl") for length in LENGTHS)
    check_outputs({"--from-server": paths}, force=True)
    arms = [text if "=" in text.partition("://")[0] else f"server={text}" for text in options.servers]
    longest = LONGEST
    for seed, path in enumerate(paths):
        prompts = SHORT if not seed else tuple(int(part * longest) for part in LONG)
        journal = Journal(path, LOADED)
        try:
            with asked_by("--from-server"):
                done, _ = benched(asked(options, arms, "{}:{}".format(*prompts), path, seed), journal)
        finally:
            journal.close()
        longest = min([LONGEST, *lengths_in(path)])
        whole = len({ran.part[:3] for ran in done.ran if ran.is_whole})
        kept = f"{whole} of {len(done.plan.blocks)} loads are kept in {path}, and the same command goes on behind them"
        if done.number:
            deliver(done.number, kept)
        if done.gone:
            with asked_by("--from-server"):
                raise UserError(f"{done.gone}; {kept}")
    return paths


def lengths_in(path: Path) -> list[int]:
    """Return how many tokens a request of each server may have, where it says."""
    from acceptance.results.journal import read_records
    from calibration.servers.records import LOADED
    from calibration.servers.setup import setup_in

    records, _ = read_records(path, LOADED)
    return list(setup_in(path, records[1]).longest.values())


def asked(options: Any, arms: Sequence[str], prompts: str, path: Path, seed: int) -> Any:
    """Return the options of a load, as bench-server takes them."""
    from .bench_server import bench_server
    from .server_options import options_of

    given: Mapping[str, Any] = {
        "--concurrency": options.clients or CLIENTS,
        "--duration": f"{options.seconds or SECONDS:g}s",
        "--isl": prompts,
        "--osl": ANSWERS,
        "--requests": MOST_REQUESTS,
        "--blocks": 1,
        "--seed": seed,
        "--out": path,
    }
    arguments = [str(part) for pair in given.items() for part in pair] + [p for arm in arms for p in ("--arm", arm)]
    arguments += ["--force"] if options.force else []
    with bench_server.make_context("bench-server", arguments) as context:
        return options_of(context.params)
