"""What an engine counted while requests ran: drafts and what was accepted of them, by its /metrics before and after."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from acceptance.importers.imported import Imported
from acceptance.importers.sglang_totals import TEXT
from acceptance.importers.vllm_metrics import DRAFTED, Series, of_values, samples_of, scrape_of, subtract
from simulator.ground.artefacts import UserError
from simulator.ground.records import BadRecord

from .client import Client
from .records import Ran
from .server import Server

# Lines of /metrics that are kept.
KEPT = re.compile(
    r"(?!\S+_created)(?:ray_)?(?:vllm|llamacpp)[:_](?:spec_decode_num_|generation_tokens|request_success|num_requests_running|"
    r"num_preemptions|prefix_cache_(?:hits|queries))|sglang:spec_|process_start_time_seconds"
)
MOST_LINES = 2000
PREEMPTED, HITS, QUERIES = "num_preemptions", "prefix_cache_hits", "prefix_cache_queries"
COUNTER = re.compile(rf"(?:ray_)?vllm[:_]({PREEMPTED}|{HITS}|{QUERIES})(?:_total)?")


class Counted(NamedTuple):
    """What an engine counted.

    imported: acceptance, where it tells that. drafted: tokens. mean: tokens a round, of an engine that tells no more.
    """

    imported: Imported | None
    drafted: float
    mean: float | None
    notes: tuple[str, ...]


async def scraped(client: Client, server: Server) -> tuple[str, ...]:
    """Return the lines of a server's /metrics that say something here; none of one that has none."""
    found = await client.get(f"{server.url}/metrics")
    lines = (found or b"").decode(errors="replace").splitlines()
    return tuple(line for line in lines if KEPT.match(line))[:MOST_LINES]


def counted(server: Server, ran: Sequence[Ran], k: int | None = None) -> Counted:
    """Return what an engine counted over some blocks.

    k: draft length, of an engine whose counters do not tell it.
    """
    whole = [r for r in ran if r.before and r.after]
    path, notes = Path(f"{server.url}/metrics"), [*others(whole)]
    if len(whole) < len(ran) and whole:
        notes.append(f"{server.name}: {len(ran) - len(whole)} of {len(ran)} blocks have no /metrics of their end")
    means = [float(found["mean"]) for r in whole for line in r.after if (found := TEXT.search(line))]
    mean = sum(means) / len(means) if means else None
    total: dict[Series, float] = {}
    servers = set[str]()
    try:
        for r in whole:
            after, before = (scrape_of(path, enumerate(lines, 1)) for lines in (r.after, r.before))
            values, anew = subtract(after, before)
            if anew:
                notes.append(f"{server.name}: was started anew within a block, whose counters begin there")
            servers |= after.servers
            for series, value in values.items():
                total[series] = total.get(series, 0.0) + value
        if not total:
            return Counted(None, 0.0, mean, tuple(notes))
        imported = of_values(path, total, k, servers=servers, since="each block began")
    except UserError as error:
        if "holds no" not in str(error):
            notes.append(f"acceptance is not told: {str(error).removeprefix(f'{path}: ')}")
        return Counted(None, 0.0, mean, tuple(notes))
    drafted = sum(value for series, value in total.items() if series.name == DRAFTED)
    return Counted(imported, drafted, mean, tuple(notes))


def others(ran: Iterable[Ran]) -> Iterable[str]:
    """Yield what else the engine's counters say of these requests."""
    sums = dict.fromkeys((PREEMPTED, HITS, QUERIES), 0.0)
    for r in ran:
        for sign, lines in ((1, r.after), (-1, r.before)):
            for name, value in named_counters(lines):
                sums[name] += sign * value
    if sums[PREEMPTED] > 0:
        yield f"the engine preempted {sums[PREEMPTED]:,.0f} requests: its KV cache was full"
    if sums[HITS] > 0 and sums[QUERIES] > 0:
        yield f"{sums[HITS] / sums[QUERIES]:.0%} of prompt tokens lay in the engine's cache of prefixes"


def named_counters(lines: Iterable[str]) -> Iterable[tuple[str, float]]:
    """Yield counters by name."""
    for line in lines:
        if COUNTER.match(line):
            try:
                for sample in samples_of(line):
                    if named := COUNTER.fullmatch(sample.name):
                        yield named[1], float(sample.value)
            except BadRecord:
                continue
