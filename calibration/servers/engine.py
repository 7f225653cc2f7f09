"""What an engine counted while requests ran: drafts and what was accepted of them, by its /metrics before and after."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.importers.imported import Imported
from acceptance.importers.sglang_totals import INFO, NODES, SINCE_START, STATES, STEPS, TEXT, WIDTH, read_record
from acceptance.importers.vllm_metrics import (
    ACCEPTED,
    DRAFTED,
    DRAFTS,
    PER_POSITION,
    Series,
    of_values,
    samples_of,
    scrape_of,
    subtract,
)
from acceptance.servers.client import Client
from acceptance.servers.server import Server
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Malformed, parse_json
from simulator.ground.records import BadRecord, as_record

from .records import Ran

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

    imported: acceptance, where it tells that. drafts, drafted, accepted, by_place: rounds, tokens that they drafted, of
    these accepted, and of each place. mean: tokens a round, and k, of an engine that tells no more.
    """

    imported: Imported | None
    drafts: float
    drafted: float
    accepted: float
    by_place: tuple[float, ...]
    mean: float | None
    k: int | None
    notes: tuple[str, ...]


async def scraped(client: Client, server: Server) -> tuple[str, ...]:
    """Return the lines of a server's /metrics that say something here; none of one that has none."""
    found = await client.get(f"{server.url}/metrics")
    lines = [line for line in (found or b"").decode(errors="replace").splitlines() if KEPT.match(line)][:MOST_LINES]
    if any(line.startswith(("vllm", "ray_vllm", "llamacpp")) for line in lines):
        return tuple(lines)
    return (*lines, *info_in(await client.get(f"{server.url}/get_server_info")))


def info_in(answer: bytes | None) -> Iterator[str]:
    """Yield a line of what SGLang's server info tells of speculation."""
    try:
        told = parse_json((answer or b"").decode())
    except (Malformed, UnicodeDecodeError):
        return
    if not isinstance(told, dict):
        return
    kept: dict[str, Any] = {name: told[name] for name in (STEPS, NODES, WIDTH) if name in told}
    states = told.get(STATES)
    listed = [state for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    kept[STATES] = [{name: state[name] for name in (INFO, STEPS, NODES, WIDTH) if name in state} for state in listed]
    if any(INFO in state for state in kept[STATES]):
        yield json.dumps(kept)


def counted(server: Server, ran: Sequence[Ran], k: int | None = None) -> Counted:
    """Return what an engine counted over some blocks.

    k: draft length, of an engine whose counters do not tell it.
    """
    whole = [r for r in ran if r.before and r.after]
    path, notes = Path(f"{server.url}/metrics"), [*others(whole)]
    if len(whole) < len(ran) and whole:
        notes.append(f"{server.name}: {len(ran) - len(whole)} of {len(ran)} blocks have no /metrics of their end")
    mean, stated, said = by_sglang(whole)
    notes += said
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
        imported = of_values(path, total, k, servers=servers, since="each block began") if total else None
    except UserError as error:
        imported = None
        if "holds no" not in str(error):
            notes.append(f"acceptance is not told: {str(error).removeprefix(f'{path}: ')}")
    drafts, drafted, accepted = (
        sum(v for s, v in total.items() if s.name == name) for name in (DRAFTS, DRAFTED, ACCEPTED)
    )
    if mean is None and drafts:
        mean = 1 + accepted / drafts
    length = (k or stated) if imported is None else imported.histogram.draft_length
    return Counted(imported, drafts, drafted, accepted, by_place(total), mean, length, tuple(notes))


def by_place(total: Mapping[Series, float]) -> tuple[float, ...]:
    """Return the drafts accepted at each place, of all engines."""
    found: dict[int, float] = {}
    for series, value in total.items():
        place = dict(series.labels).get("position", "")
        if series.name == PER_POSITION and place.isascii() and place.isdecimal() and len(place) < 4:
            found[int(place)] = found.get(int(place), 0.0) + value
    return tuple(found.get(at, 0.0) for at in range(len(found)))


def by_sglang(ran: Sequence[Ran]) -> tuple[float | None, int | None, list[str]]:
    """Return the mean that SGLang tells, tokens a round, and its draft length; what is to be said of them."""
    lines = [line for r in ran for line in r.after]
    infos = [line for line in lines if line.startswith("{")]
    try:
        means = [mean for line in infos for mean in read_record(as_record(parse_json(line)), 0)]
    except (Malformed, BadRecord):
        means = []
    k = means[-1].stated if means else None
    of_steps = [float(found["mean"]) for line in lines if (found := TEXT.search(line))]
    if of_steps:
        return sum(of_steps) / len(of_steps), k, ["tokens a round are SGLang's, of the last steps of each block"]
    if means:
        return means[-1].tokens_per_round, k, [f"tokens a round are SGLang's: {SINCE_START}"]
    return None, None, []


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
