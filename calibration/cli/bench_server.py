"""The command `bench-server`: load on servers that are there, and what their users see of it."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.serving_options import traffic_of, traffic_options
from simulator.ground.artefacts import UserError, check_outputs, created_utc, envelope, to_json
from simulator.ground.command import command

from .server_options import (
    ALONE,
    IDS,
    PROMPT_OPTIONS,
    RUN_OPTIONS,
    SERVER_OPTIONS,
    TURNS,
    BenchOptions,
    options_of,
)

if TYPE_CHECKING:
    from acceptance.results.journal import Journal
    from calibration.servers.bench import Bench, Plan
    from calibration.servers.prompts import Prompts
    from calibration.servers.results import Result
    from calibration.servers.setup import Setup
    from simulator.answers.scene import Traffic
    from simulator.workloads.requests import Requests

# Requests of a load; of clients, at least so many each. Of one that a time bounds alone, at most.
USUAL_REQUESTS, EACH_CLIENT, MOST_TIMED = 200, 8, 20_000
USUAL_LONGEST = 131_072


@command("bench-server")
@SERVER_OPTIONS
@traffic_options(f"{USUAL_REQUESTS}, of clients {EACH_CLIENT} each at least")
@PROMPT_OPTIONS
@RUN_OPTIONS
def bench_server(**values: Any) -> None:
    """Put load on OpenAI-compatible servers: what their users see, one alone or several in turns.

    Any of vLLM, SGLang, llama.cpp, TGI and others that stream completions or chats. Several servers (--arm), such as
    one with speculation and one without, answer the same requests in turns, block by block, and are held against the
    first. A key is read from OPENAI_API_KEY, and never written.
    """
    run(options_of(values))


def run(options: BenchOptions) -> None:
    """Open what is kept, put the load, write and print."""
    from acceptance.results.journal import Journal
    from calibration.servers.records import LOADED, read_before
    from simulator.ground.tables import check_table_format

    check_table_format("--csv", options.csv)
    inputs = {"--out": options.out, "--workload": options.values["workload"], "--before": options.before}
    if options.before is not None:
        read_before(options.before, options.parameters(), options.warmup)
    check_outputs({"--csv": options.csv, "--export-vllm": options.export_vllm}, options.force, inputs)
    if options.out is None:
        finish(options, *benched(options, None))
        return
    check_outputs({"--out": options.out}, True)
    journal = Journal(options.out, LOADED)
    try:
        finish(options, *benched(options, journal))
    finally:
        journal.close()


def benched(options: BenchOptions, journal: "Journal | None") -> "tuple[Bench, tuple[str, ...]]":
    """Return the run of a plan, and what is to be known of it."""
    from calibration.servers.bench import Bench
    from calibration.servers.records import LOADED, found_in, kept, ran_of
    from calibration.servers.setup import of_setup, set_up, setup_in

    parameters, records, bench = options.parameters(), list[dict[str, Any]](), None
    if journal is not None:
        records = journal.open(envelope(LOADED.name, LOADED.versions[-1], parameters), force=options.force)
    try:
        there = setup_in(journal.path, records[0]) if journal is not None and records else None
        setup = there or set_up(options.servers, options.model, options.manner, asks_ids=asks_ids(options))
        plan, notes = plan_of(options, setup)
        bench = Bench(plan=plan, journal=journal)
        if journal is not None:
            bench.found = found_in(journal.path, records[1:])
        missing = [b for b in plan.blocks if not ran_of(bench.found, b.name, plan.clients[b.load], plan.warmup)]
        if there is None:
            kept(journal, [of_setup(setup)])
        elif missing:
            # Text is made anew, of tokens that the server tells.
            again = set_up(options.servers, options.model, options.manner, asks_ids=asks_ids(options))
            if again.models != there.models or (again.tokens is None) != there.is_text:
                raise UserError(f"--out {options.out}: kept of {there.in_words}, but there is {again.in_words} now")
            bench.plan, notes = plan_of(options, again)
        bench.run()
    except (UserError, KeyboardInterrupt):
        if journal is not None and not records and not (bench and bench.ran):
            journal.remove()
        raise
    return bench, notes


def asks_ids(options: BenchOptions) -> bool:
    """Whether prompts may be sent as tokens."""
    return options.said is None and options.prompts_as in (None, IDS) and options.manner.api != "chat"


def plan_of(options: BenchOptions, setup: "Setup") -> "tuple[Plan, tuple[str, ...]]":
    """Return what is run: at each load the same requests for all arms."""
    from calibration.servers.bench import Plan
    from calibration.servers.plan import blocks_of, fitting, parts_of, within
    from simulator.answers.scene import loaded

    loads = options.loads.values
    values, longest = dict(options.values), min([USUAL_LONGEST, *setup.longest.values()])
    if options.said is not None:
        values["prompts"] = "1"
    if options.values["workload"] is None and options.count is None:
        values["requests"] = USUAL_REQUESTS
    traffic, notes = traffic_of(values, options.loads, longest)
    requests: dict[float, Requests] = {}
    for load in loads:
        sent = counted(options, traffic, load)
        notes += too_long(options, sent.whole(load, options.seed), longest, loaded(load, unit_of(options)))
        made = fitting(sent.requests(load, options.seed), longest)
        if options.duration is not None and not traffic.clients(load):
            if made.arrival_s[0] >= options.duration:
                raise UserError(
                    f"--duration: {options.duration:g} s end before the first request at "
                    f"{loaded(load, unit_of(options))}, expected above {made.arrival_s[0]:.3g} s"
                )
            made = within(made, options.duration)
        requests[load] = made
    blocks = options.blocks or (TURNS if len(options.servers) > 1 else ALONE)
    parts = [parts_of(requests[load], blocks) for load in loads]
    names = [server.name for server in options.servers]
    urls = [server.url for server in options.servers]
    prompts, said = prompts_of(options, setup, requests)
    return Plan(
        servers={server.name: server for server in options.servers},
        models=setup.models,
        manner=options.manner,
        blocks=blocks_of(loads, names, parts),
        prompts=prompts,
        tokens={load: requests[load].output.tolist() for load in loads},
        clients={load: traffic.clients(load) for load in loads},
        # Of arms that are one server, whose cache of prefixes would know the other's prompts.
        salts={
            name: f"{options.seed} {name if urls.count(url) > 1 else ''}" for name, url in zip(names, urls, strict=True)
        },
        most_s=(options.duration or float("inf")) / max(map(len, parts)),
        warmup=options.warmup,
        patience=options.patience,
    ), (*notes, *said)


def too_long(options: BenchOptions, requests: "Requests", longest: int, where: str) -> tuple[str, ...]:
    """Return what is to be known of requests that a server does not take as long as they are.

    Raises:
        UserError: It takes none of them so.
    """
    from calibration.servers.report import WARNING

    tokens = requests.prompt.astype("int64") + requests.output
    over, count = int((tokens > longest).sum()), len(tokens)
    if over < count or options.said is not None:
        return (f"{WARNING}{over:,} of {count:,} requests at {where} are cut to {longest:,} tokens",) if over else ()
    option = "--isl" if options.values["workload"] is None else f"--workload {options.values['workload']}"
    raise UserError(
        f"{option}: prompt and answer are {min(tokens):,} tokens or more, expected at most {longest:,}, "
        "which the server takes"
    )


def counted(options: BenchOptions, traffic: "Traffic", load: float) -> "Traffic":
    """Return traffic of as many requests as a load has."""
    if options.count is not None or traffic.recorded is not None:
        return traffic
    clients = traffic.clients(load)
    if options.duration is not None:
        return replace(traffic, count=MOST_TIMED if clients else int(1.5 * load * options.duration) + 20)
    return replace(traffic, count=max(USUAL_REQUESTS, EACH_CLIENT * clients))


def prompts_of(
    options: BenchOptions, setup: "Setup", requests: "dict[float, Requests]"
) -> "tuple[dict[float, Prompts], tuple[str, ...]]":
    """Return what requests say at each load, and what is to be known of it."""
    from acceptance.text.prompts import given_prompts
    from calibration.servers.prompts import Made, Written, made_of_text
    from calibration.servers.setup import bundled_text

    if options.said is not None:
        file = given_prompts(options.said, options.dataset, column=options.column, turns=1)
        texts, notes = [prompt.turns[0] for prompt in file.rows], list(file.notes())
        asked = sum(len(r.prompt) for r in requests.values())
        if asked > len(texts):
            notes.append(f"{len(texts):,} prompts for {asked:,} requests an arm: a cache of prefixes knows them again")
        return dict.fromkeys(requests, Written(texts)), tuple(notes)
    about = "prompts are pieces of bundled programs, cut to length: acceptance is that of such text"
    if setup.tokens is not None:
        return {load: Made(made, setup.tokens) for load, made in requests.items()}, (about,)
    text = bundled_text()
    return {load: made_of_text(made, text, setup.counted) for load, made in requests.items()}, (about,)


def finish(options: BenchOptions, bench: "Bench", notes: tuple[str, ...]) -> None:
    """Write and print what came, and end as the run did."""
    from acceptance.servers.server import BEFORE, Server
    from calibration.servers.bench import deliver
    from calibration.servers.records import read_before
    from calibration.servers.report import result_json, result_text
    from calibration.servers.results import results_of

    plan = bench.plan
    ran, servers, models = list(bench.ran), dict(plan.servers), dict(plan.models)
    if options.before is not None:
        earlier = read_before(options.before, options.parameters(), options.warmup)
        ran = [r._replace(part=r.part._replace(arm=BEFORE)) for r in earlier.ran] + ran
        servers = {BEFORE: Server(BEFORE, str(options.before)), **servers}
        models[BEFORE] = next(iter(earlier.models.values()), "")
    results = results_of(
        ran,
        servers,
        models,
        api=plan.manner.api,
        clients=plan.clients,
        burstiness=options.values["burstiness"],
        limits=options.limits,
        k=options.draft_length,
        seed=options.seed,
        asked=plan.tokens if plan.manner.ignore_end else {},
    )
    done = len({r.part[:3] for r in bench.ran if r.is_whole})
    is_whole, notes = done == len(plan.blocks), (*cautions_of(results), *notes)
    broken = () if is_whole else (f"interrupted: {done} of {len(plan.blocks)} blocks are whole.",)
    if results:
        if is_whole or options.out is None:  # else the same command writes them, when all is there
            write(options, results)
        if options.as_json:
            parameters = options.parameters() | {"warmup": options.warmup}
            click.echo(to_json(result_json(results, options.limits, parameters, notes, broken)), nl=False)
        else:
            told = result_text(results, options.limits, heading(options, results), notes, unit_of(options), broken)
            click.echo(told)
            tables = [path for path in (options.csv, options.export_vllm) if path is not None]
            is_written = is_whole or options.out is None
            for path in filter(None, (options.out, *(tables if is_written else ()))):
                click.echo(f"wrote {path}")
            for path in () if is_written else tables:
                click.echo(f"not written: {path}, which the same command writes when all is there")
    kept = kept_in_words(options, done, len(plan.blocks))
    if bench.number:
        deliver(bench.number, kept)
    if bench.gone:
        raise UserError(f"{bench.gone}; {kept}")
    if not any(len(part.counted) for r in results for part in r.parts):
        sys.exit(1)


def kept_in_words(options: BenchOptions, done: int, blocks: int) -> str:
    """Say where a run that was ended early goes on."""
    if options.out is None:
        return "nothing is kept without --out"
    if not done:
        more = "" if options.blocks else f"; of {TURNS} --blocks it would go on behind those that are"
        return f"no block of {blocks} is whole in {options.out}, and the same command begins it again{more}"
    return f"{done} of {blocks} blocks are kept in {options.out}, and the same command goes on behind them"


def cautions_of(results: "list[Result]") -> Iterator[str]:
    """Yield what is to be known of results."""
    from calibration.servers.report import cautions

    yield from cautions(results)
    yield from dict.fromkeys(note for r in results for note in r.counted.notes)


def unit_of(options: BenchOptions) -> str:
    """Return what loads are counted in."""
    from simulator.answers.scene import unit_of as unit_of_kind

    return unit_of_kind(options.loads.kind, sessions=options.values["turns"] is not None)


def heading(options: BenchOptions, results: "list[Result]") -> str:
    """Say what was asked of which servers."""
    own = options.values
    what = str(options.said or own["workload"] or f"{own['prompts']} tokens in")
    models = dict.fromkeys(r.model for r in results)
    models.pop("", None)
    arms = ", ".join(
        server.url if server.name == "server" else f"{server.name} {server.url}" for server in options.servers
    )
    return f"{', '.join(models)} at {arms}\n{what}, {own['answers']} out, {options.manner.api}"


def write(options: BenchOptions, results: "list[Result]") -> None:
    """Write the files that are asked for."""
    from calibration.servers.export import columns_of, write_vllm
    from simulator.ground.tables import write_table

    if options.csv is not None:
        write_table(options.csv, columns_of(results))
    if options.export_vllm is not None:
        write_vllm(options.export_vllm, results, created_utc())


if __name__ == "__main__":
    bench_server(prog_name="bench-server")
