"""The options of `simulate-serving`: what clients send, how a server is set, what is promised to users."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from simulator.answers.latency import MEASURES, Limit
from simulator.costs.parameters import CHUNK, Load
from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, Decorator, is_given, stacked
from simulator.ground.fields import shortened
from simulator.ground.ranges import milliseconds_in

from .as_rows import fit_of, in_words

if TYPE_CHECKING:
    from simulator.answers.scene import Traffic
    from simulator.answers.ways import Server

SCHEDULERS = ("vllm", "sglang", "trtllm")
# Tokens of a block of KV, as engines have them by default.
BLOCK_SIZES = {"vllm": 16, "sglang": 1, "trtllm": 32}
# Options that one scheduler alone knows, by name.
OF_ONE = {"by_priority": "vllm", "long_prefill_token_threshold": "vllm", "mixed_chunk": "sglang"}
OF_ONE |= {"schedule_conservativeness": "sglang", "max_prefill_tokens": "sglang", "schedule_policy": "sglang"}
OF_ONE |= {"capacity_policy": "trtllm"}
KINDS = {"rate": "--rate", "concurrency": "--concurrency", "speed": "--speed"}
# Loads of one call; requests of a run.
MOST_LOADS, MOST_REQUESTS = 1000, 100_000_000
# With the usual warm-up a batch of them has two requests beyond P99, of which it takes an interval.
USUAL_REQUESTS = 3000


def traffic_options(requests: str) -> Decorator:
    """Add what clients send; requests: how many by default, in words."""
    return stacked(
        click.option(
            "--rate",
            metavar="VALUES",
            help="Requests, with --turns sessions, a second: a list or range, such as 2:40:2.",
        ),
        click.option("--concurrency", metavar="VALUES", help="In its place: clients that each wait for their answer."),
        click.option("--workload", type=FILE, help="Recorded requests, see `workload describe`, in place of laws."),
        click.option(
            "--speed", metavar="VALUES", help="How many times as fast as recorded they are sent.  [default: 1]"
        ),
        click.option(
            "--tokenizer", type=FILE, help="Folder with a tokenizer.json that counts the tokens of --workload."
        ),
        click.option("--requests", type=click.IntRange(1, MOST_REQUESTS), help=f"Of each run.  [default: {requests}]"),
        click.option(
            "--isl",
            "prompts",
            default="1024",
            show_default=True,
            metavar="LAW",
            help="Tokens of a prompt: 1024, 100:300, lognormal:MEAN:SIGMA or file:FILE.",
        ),
        click.option(
            "--osl", "answers", default="256", show_default=True, metavar="LAW", help="The same of an answer."
        ),
        click.option(
            "--burstiness",
            default=1.0,
            type=click.FloatRange(0, min_open=True),
            help="Of arrivals: 1 is a Poisson process, less comes in bursts, inf is constant.",
        ),
        click.option(
            "--prefix", default=0, type=click.IntRange(0), help="Tokens that all prompts begin with, beside --isl."
        ),
        click.option(
            "--turns",
            metavar="LAW",
            help="Of a session: each prompt holds all before, --isl is what it adds; loads are sessions.",
        ),
        click.option(
            "--think", metavar="LAW", help="Time between an answer and the next turn, such as exponential:10s."
        ),
        click.option(
            "--warmup",
            default=0.1,
            type=click.FloatRange(0, 0.9),
            help="Share of the requests, the first, that does not count.",
        ),
    )


TRAFFIC_OPTIONS = traffic_options(f"{USUAL_REQUESTS}, or all")
SERVER_OPTIONS = stacked(
    click.option("--scheduler", default="vllm", type=click.Choice(SCHEDULERS), help="Whose rules of scheduling."),
    click.option(
        "--chunk", "budget", default=CHUNK, type=click.IntRange(1, 1_000_000), help="Tokens of a step, at most."
    ),
    click.option("--max-running", "seats", type=click.IntRange(1, 16_384), help="Requests that run at once at most."),
    click.option("--max-model-len", "longest", type=click.IntRange(2, 16_777_216), help="Tokens of a request at most."),
    click.option(
        "--block-size",
        type=click.IntRange(1, 4096),
        help="Tokens of a block (page) of KV.  [default: 16, of sglang 1, of trtllm 32]",
    ),
    click.option("--num-blocks", type=click.IntRange(1), help="Blocks of KV.  [default: as memory allows]"),
    click.option("--prefix-caching/--no-prefix-caching", default=True, help="Keep KV of texts that come again."),
    click.option("--chunked-prefill/--no-chunked-prefill", default=True, help="Read long prompts in parts."),
    click.option("--async-scheduling/--no-async-scheduling", default=True, help="Plan a step while one runs."),
    click.option("--by-priority", is_flag=True, help="The smallest priority of --workload first."),
    click.option(
        "--long-prefill-token-threshold", default=0, type=click.IntRange(0), help="Tokens of a long prompt in one step."
    ),
    click.option("--mixed-chunk", is_flag=True, help="Of sglang: decode beside prompts, without drafts."),
    click.option(
        "--schedule-conservativeness",
        default=1.0,
        type=click.FloatRange(0, 10),
        help="Of sglang: how much room is kept for what those that run may write.",
    ),
    click.option(
        "--schedule-policy", default="fcfs", type=click.Choice(("fcfs", "lpm")), help="Of sglang: who waits in front."
    ),
    click.option(
        "--max-prefill-tokens",
        default=16_384,
        type=click.IntRange(1),
        help="Of sglang: tokens of prompts in a step, where they are not read in parts.",
    ),
    click.option(
        "--capacity-policy",
        default="guaranteed_no_evict",
        type=click.Choice(("guaranteed_no_evict", "max_utilization")),
        help="Of trtllm: whether a request is admitted only where all of its answer has a place.",
    ),
)
SHARE_OPTIONS = stacked(
    click.option(
        "--slo",
        metavar="LIMITS",
        help="Promises, such as ttft:500ms,tpot:20ms; also e2e, queueing; a number alone is ms.",
    ),
    click.option(
        "--attain",
        default=0.9,
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the requests that has to be within --slo.",
    ),
)
LIMIT_OPTIONS = stacked(
    SHARE_OPTIONS,
    click.option(
        "--for-load",
        type=click.FloatRange(0, min_open=True),
        help="With --slo: count the servers for this load, in the unit of loads.",
    ),
)

WORK_OPTIONS = stacked(
    click.option(
        "--workers", type=click.IntRange(1, 1024), help="Runs at once.  [default: as many as there are cores]"
    ),
    click.option("--cluster", metavar="ADDRESS", help="Run on a Dask cluster: tcp://HOST:PORT of its scheduler."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """What the loads are: kind as of `scene`, option that told them, and values."""

    kind: str
    option: str
    values: tuple[float, ...]


def loads_of(values: Mapping[str, Any]) -> Loads:
    """Return the loads that options tell.

    Raises:
        UserError: None is told, two are, or one is no load.
    """
    from simulator.answers.scene import CLIENTS, RATE, SPEED
    from simulator.ground.ranges import parse_values

    given = [name for name in KINDS if values[name] is not None]
    if len(given) > 1:
        raise UserError(f"{KINDS[given[1]]}: beside {KINDS[given[0]]}, expected one of them")
    if not given and values["workload"] is None:
        raise UserError("--rate: missing, expected requests a second such as 2:40:2, or --concurrency or --workload")
    name = given[0] if given else "speed"
    if name == "speed" and values["workload"] is None:
        raise UserError("--speed: of recorded requests, expected --workload beside it")
    loads = parse_values(KINDS[name], str(values[name] or "1"), percent=False)
    for load in loads:
        if not 0 < load < float("inf") or (name == "concurrency" and (load != int(load) or load > MOST_REQUESTS)):
            kind = "a whole number of at least 1" if name == "concurrency" else "a number above 0"
            raise UserError(f"{KINDS[name]}: {load:g} is not allowed, expected {kind}")
    if len(loads) > MOST_LOADS:
        raise UserError(f"{KINDS[name]}: {len(loads):,} loads, expected at most {MOST_LOADS:,}")
    kind = {"rate": RATE, "concurrency": CLIENTS, "speed": SPEED}[name]
    return Loads(kind=kind, option=KINDS[name], values=tuple(sorted(float(load) for load in loads)))


def check_cluster(values: Mapping[str, Any]) -> None:
    """Refuse what is no address of a scheduler, and workers here beside it."""
    address = values["cluster"]
    if address is None:
        return
    if not re.fullmatch(r"(tcp|tls)://[^\s/]+:\d{1,5}", address):
        raise UserError(f"--cluster: {shortened(address)} is not allowed, expected tcp://HOST:PORT of a Dask scheduler")
    if values["workers"] is not None:
        raise UserError("--workers: of this machine, beside --cluster, whose workers run; expected one of them")


def limits_of(text: str | None) -> tuple[Limit, ...]:
    """Return promises.

    Raises:
        UserError: The text is none.
    """
    if text is None:
        return ()
    found: dict[str, Limit] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition(":")
        most_ms = milliseconds_in(value)
        if name.lower() not in MEASURES or most_ms is None or most_ms <= 0:
            raise UserError(
                f"--slo: {part!r} is not allowed, expected {', '.join(MEASURES)} with a time: ttft:500ms, or ttft:500"
            )
        if name.lower() in found:
            raise UserError(f"--slo: {name} twice, expected it once")
        found[name.lower()] = Limit(name.lower(), most_ms / 1e3)
    return tuple(found.values())


def traffic_of(values: Mapping[str, Any], loads: Loads, longest: int) -> "tuple[Traffic, tuple[str, ...]]":
    """Return what clients send, and what is to be known of it; longest: tokens of a request at most."""
    from simulator.answers.scene import Traffic
    from simulator.workloads.laws import parse_lengths, parse_times
    from simulator.workloads.readers.format import Options
    from simulator.workloads.reading import read_workload
    from simulator.workloads.sessions import AT_ONCE

    context = click.get_current_context()
    count, recorded, notes, found = values["requests"], None, tuple[str, ...](), None
    if values["workload"] is not None:
        for name, option in (("prompts", "--isl"), ("answers", "--osl"), ("turns", "--turns"), ("think", "--think")):
            if is_given(context, name):
                raise UserError(f"{option}: beside --workload, whose requests have their own; expected one of them")
        found = read_workload(values["workload"], Options(values["tokenizer"]))
        if not found.is_timed and loads.kind == "speed":
            raise UserError(f"--workload {values['workload']}: does not tell when requests were sent, expected --rate")
        recorded, notes = found.requests, found.notes
        count = count or len(recorded.prompt)
    if values["think"] is not None and values["turns"] is None:
        raise UserError("--think: of sessions, expected --turns beside it")
    traffic = Traffic(
        kind=loads.kind,
        count=count or USUAL_REQUESTS,
        isl=parse_lengths("--isl", values["prompts"], "prompt"),
        osl=parse_lengths("--osl", values["answers"], "output"),
        burstiness=values["burstiness"],
        longest=longest,
        prefix=values["prefix"],
        turns=None if values["turns"] is None else parse_lengths("--turns", values["turns"]),
        think_s=AT_ONCE if values["think"] is None else parse_times("--think", values["think"]),
        recorded=recorded,
        categories=found.categories if found else (),
    )
    return traffic, notes


def server_as(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what nobody states of a server and the rows of the profile were served with, and how that is said."""
    context, fit = click.get_current_context(), fit_of(values["profile"])
    of_rows = {"budget": "chunk", "seats": "max_running"}
    taken = {n: o for n, o in of_rows.items() if fit and o in fit.served.words and not is_given(context, n)}
    if fit is None or not taken:
        return {}
    own = Load().with_options({option: fit.served.options[option] for option in taken.values()})
    given = {name: int(fit.served.options[option]) for name, option in taken.items()}
    return given | {"said": tuple(in_words(values["profile"], {}, own, own))}


def server_of(values: Mapping[str, Any], longest: int) -> "Server":
    """Return how a server is set.

    Raises:
        UserError: An option is of another scheduler.
    """
    from simulator.answers.ways import Server

    context, scheduler = click.get_current_context(), values["scheduler"]
    # `advise` is told the engine, whose scheduler that is.
    chooses = "--engine" if values.get("engine") else "--scheduler"
    for name, whose in OF_ONE.items():
        if scheduler != whose and is_given(context, name):
            raise UserError(f"--{name.replace('_', '-')}: of {whose}'s scheduler, expected {chooses} {whose} beside it")
    names: tuple[str, ...] = ("prefix_caching", "chunked_prefill", "async_scheduling", "by_priority")
    names += ("long_prefill_token_threshold", "mixed_chunk", "schedule_conservativeness", "max_prefill_tokens")
    settings = {name: values[name] for name in names} | {"scheduler": SCHEDULERS.index(scheduler)}
    settings["by_prefix"] = values["schedule_policy"] == "lpm"
    if scheduler == "trtllm":
        reserves = values["capacity_policy"] == "guaranteed_no_evict"
        settings |= {"reserves_output": reserves, "reserve_full_isl": reserves}
    return Server(
        chunk=values["budget"],
        most_running=values["seats"],
        longest=longest,
        block_size=values["block_size"],
        num_blocks=values["num_blocks"],
        settings=settings,
    )
