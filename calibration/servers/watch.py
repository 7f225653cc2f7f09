"""A server that is at work, watched for a while by its /metrics: what is asked of it, and what it makes of that."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from acceptance.importers.vllm_metrics import samples_of
from acceptance.servers.client import Client, Patience, run
from acceptance.servers.server import Server
from acceptance.servers.told import model_of
from simulator.ground.artefacts import UserError
from simulator.ground.records import BadRecord

from .engine import Counted, counted
from .metrics import Part
from .records import Ran

PATIENCE = Patience(connect_s=10, stall_s=30, whole_s=30)
# What engines call the same: vLLM's name first, then SGLang's; sums and counts of times behind them.
NAMES = {
    "requests": ("request_success", "num_requests"),
    "prompt": ("prompt_tokens",),
    "output": ("generation_tokens",),
    "first": ("time_to_first_token_seconds",),
    "each": ("request_time_per_output_token_seconds", "time_per_output_token_seconds", "inter_token_latency_seconds"),
}
RUNNING = ("num_requests_running", "num_running_reqs")
SAMPLE = re.compile(r"(?:ray_)?(?P<engine>vllm|sglang)[:_](?P<name>\w+)")
# Fewer requests tell of no load.
LEAST = 5


class Watched(NamedTuple):
    """What a server did; means over the time that it was watched, NaN where it does not tell.

    model: its name there. rate: requests that ended a second. prompt, output: tokens of one. running: at once. first_s,
    each_s: to the first token, and for each after it. counted: drafts, see `counted`.
    """

    model: str
    requests: int
    rate: float
    prompt: float
    output: float
    running: float
    first_s: float
    each_s: float
    counted: Counted


def watch(server: Server, seconds: float, update: Callable[[float], None], *, asks_model: bool = True) -> Watched:
    """Watch a server.

    Args:
        server: Where it is.
        seconds: For how long.
        update: Called with the seconds that have passed, about once in each.
        asks_model: Whether it is asked for the name of its model; else that is "".

    Raises:
        UserError: It does not answer, has no /metrics, or too few requests ended.
    """

    async def work(client: Client) -> Watched:
        model = (await model_of(client, server, None, None))[0] if asks_model else ""
        before, running, clock = await scraped(client, server), [], asyncio.get_running_loop().time
        began = clock()
        while (passed := clock() - began) < seconds:
            await asyncio.sleep(min(1.0, seconds - passed))
            after = await scraped(client, server)
            running.append(gauge(after))
            update(clock() - began)
        return watched(server, model, before, after, clock() - began, running)

    found: Watched = run(work, PATIENCE)
    return found


async def scraped(client: Client, server: Server) -> tuple[str, ...]:
    """Return the lines of /metrics that are of an engine.

    Raises:
        UserError: There are none.
    """
    found = await client.get(f"{server.url}/metrics")
    lines = tuple(line for line in (found or b"").decode(errors="replace").splitlines() if SAMPLE.match(line))
    if not lines:
        why = f" ({client.said})" if client.said else ""
        raise UserError(f"{server.option}: no /metrics of vLLM or SGLang{why}, expected a server that was started so")
    return lines


def watched(
    server: Server, model: str, before: Iterable[str], after: Iterable[str], seconds: float, running: Iterable[float]
) -> Watched:
    """Return what lies between two readings of /metrics."""
    before, after, running = tuple(before), tuple(after), tuple(running)
    first, last = sums_of(before), sums_of(after)
    moved = {name: max(value - first.get(name, 0.0), 0.0) for name, value in last.items()}

    def told(name: str, suffix: str = "") -> float:
        return next((moved[n + suffix] for n in NAMES[name] if moved.get(n + suffix)), 0.0)

    requests = told("requests")
    if requests < LEAST:
        runs = ", and none runs" if not any(n > 0 for n in running) and running else ""
        raise UserError(
            f"--watch: {requests:g} requests ended in {seconds:.0f} s{runs}, expected {LEAST} or more: a server under "
            "load, or a longer --watch"
        )

    def mean(name: str) -> float:
        count = told(name, "_count")
        return told(name, "_sum") / count if count else float("nan")

    at_once = [n for n in running if n == n]
    block = Ran(Part(0.0, server.name, 0, (), (), seconds, 0), is_whole=True, before=before, after=after)
    return Watched(
        model=model,
        requests=round(requests),
        rate=requests / seconds,
        prompt=told("prompt") / requests,
        output=told("output") / requests,
        running=sum(at_once) / len(at_once) if at_once else float("nan"),
        first_s=mean("first"),
        each_s=mean("each"),
        counted=counted(server, [block]),
    )


def sums_of(lines: Iterable[str]) -> dict[str, float]:
    """Return counters by their names without prefix and `_total`, over all labels; buckets are left out."""
    sums: dict[str, float] = {}
    for name, value in named(lines):
        if not name.endswith("_bucket"):
            plain = name.removesuffix("_total")
            sums[plain] = sums.get(plain, 0.0) + value
    return sums


def gauge(lines: Iterable[str]) -> float:
    """Return the requests that run at this moment, NaN where no line tells."""
    found = [value for name, value in named(lines) if name in RUNNING]
    return sum(found) if found else float("nan")


def named(lines: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Yield samples of engines by name; lines that are none are left out."""
    for line in lines:
        try:
            for sample in samples_of(line):
                if match := SAMPLE.fullmatch(sample.name):
                    yield match["name"], float(sample.value)
        except BadRecord:
            continue
