"""A file of requests, a line each, and of the blocks that they were part of: what an interrupted run goes on behind."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acceptance.results.journal import Journal, JournalKind, first_difference, read_records, to_line
from acceptance.servers.answer import MOST_TOKENS, Answer
from simulator.answers.scene import CLIENTS
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .metrics import Part, warm_of
from .plan import Block

LOADED = JournalKind(
    name="server_load", versions=(1,), command="bench-server", option="--out", work="load", more_words="another --out"
)
SETUP, REQUEST, BLOCK = "setup", "request", "block"
# Of times in a file: microseconds.
DIGITS = 6
# Chunks may lie unread until the client has time: these percentiles of how long, at most, are kept.
LAGS = 50, 99, 100
MOST_S, MOST_LINES, MOST_TRIES = 1e9, 10_000, 1_000_000
BlockName = tuple[float, str, int]


class Ran(NamedTuple):
    """A block that was run, whole or in part.

    lags_s: see `LAGS`. cpu: share of a core that the client took. before, after: lines of the server's /metrics.
    """

    part: Part
    is_whole: bool
    lags_s: tuple[float, ...] = ()
    cpu: float = 0.0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def of_request(block: Block, attempt: int, row: int, answer: Answer) -> dict[str, Any]:
    """Return the record of a request; ttft_s and e2e_s are from its sending, gaps between chunks with tokens."""
    record: dict[str, Any] = {
        "type": REQUEST,
        "load": block.load,
        "arm": block.arm,
        "part": block.part,
        "try": attempt,
        "row": row,
        "sent_s": round(answer.sent_s, DIGITS),
        "late_s": round(answer.late_s, DIGITS),
    }
    if answer.first_s is not None and answer.last_s is not None:
        record["ttft_s"] = round(answer.first_s - answer.sent_s, DIGITS)
        record["e2e_s"] = round(answer.last_s - answer.sent_s, DIGITS)
        record["gaps_s"] = [round(gap, DIGITS) for gap in answer.gaps_s]
    for name in ("prompt_tokens", "output_tokens"):
        if (value := getattr(answer, name)) is not None:
            record[name] = value
    for name in ("finish", "digest", "error", "detail"):
        if text := getattr(answer, name):
            record[name] = text
    return record


def of_block(block: Block, attempt: int, ran: Ran) -> dict[str, Any]:
    """Return the record of a block, which its requests stand before."""
    return {
        "type": BLOCK,
        "load": block.load,
        "arm": block.arm,
        "part": block.part,
        "try": attempt,
        "duration_s": ran.part.duration_s,
        "lags_s": list(ran.lags_s),
        "cpu": ran.cpu,
        "before": list(ran.before),
        "after": list(ran.after),
    }


def answer_of(record: Field) -> Answer:
    """Read a request."""
    answer = Answer(sent_s=record["sent_s"].number(0, MOST_S), late_s=record["late_s"].number(0, MOST_S, default=0.0))
    if record["ttft_s"].is_given:
        first_s = record["ttft_s"].number(0, MOST_S)
        answer.first_s = answer.sent_s + first_s
        answer.last_s = answer.sent_s + record["e2e_s"].number(first_s, MOST_S)
        answer.gaps_s = [gap.number(0, MOST_S) for gap in record["gaps_s"].elements()]
    for name in ("prompt_tokens", "output_tokens"):
        if record[name].is_given:
            setattr(answer, name, record[name].whole(0, MOST_TOKENS))
    for name in ("finish", "digest", "error", "detail"):
        if record[name].is_given:
            setattr(answer, name, record[name].text())
    return answer


def lags_of(lags_s: list[float]) -> tuple[float, ...]:
    """Return what is kept of how long chunks may have lain."""
    return tuple(float(v) for v in np.percentile(lags_s, LAGS)) if lags_s else ()


def part_of(name: BlockName, answers: Iterable[tuple[int, Answer]], clients: int, share: float) -> Part:
    """Return what came of a block, its requests in the order in which they were sent."""
    ordered = sorted(answers, key=lambda pair: (pair[1].sent_s, pair[0]))
    rows, sent = tuple(row for row, _ in ordered), tuple(answer for _, answer in ordered)
    duration_s = max((a.sent_s if a.last_s is None else a.last_s for a in sent), default=0.0)
    return Part(*name, rows, sent, duration_s, warm_of(len(sent), clients, share))


class Load(NamedTuple):
    """A file of a load: what was asked for, the blocks that came to their end, models by arm, blocks begun.

    torn: bytes of a last line that was never whole.
    """

    parameters: Field
    ran: tuple[Ran, ...]
    models: Mapping[str, str]
    begun: int
    torn: int = 0

    @property
    def broken(self) -> tuple[str, ...]:
        """What it lacks."""
        cut = (f"its last line is cut ({self.torn:,} bytes without an end), and left out.",) if self.torn else ()
        if len(self.ran) == self.begun:
            return cut
        return (*cut, f"interrupted: {len(self.ran)} blocks are whole, {self.begun} were begun.")


def read_load(path: Path, warmup: float = 0.1) -> Load:
    """Read a file of `bench-server --out`; warmup: share of each block's requests that counts in no latency.

    Raises:
        UserError: It is none.
    """
    records, torn = read_records(path, LOADED, packed=True)
    parameters = Field(records[0], path, "line 1")["parameters"]
    by_clients = parameters["load_kind"].text() == CLIENTS
    found = found_in(path, [record for record in records[1:] if record.get("type") != SETUP])
    ran = [ran_of(found, name, int(name[0]) if by_clients else 0, warmup) for name in found.attempts]
    setup = next((Field(r, path, "line 2") for r in records[1:2] if r.get("type") == SETUP), None)
    models = {} if setup is None else {arm: name.text() for arm, name in setup["models"].items()}
    return Load(parameters, tuple(r for r in ran if r is not None), models, len(ran), torn)


def check_once(found: Iterable[tuple[Path, Ran]]) -> None:
    """Refuse blocks of files that have the same requests: they would count twice."""
    known: dict[Any, Path] = {}
    for path, ran in found:
        times = tuple((a.sent_s, a.first_s, a.last_s) for a in ran.part.answers)
        other = known.setdefault((ran.part[:3], times), path) if times else path
        if other is not path:
            raise UserError(f"{path}: has requests that {other} has too, expected each once")


# What two runs may differ by and still be of one load.
OF_SERVERS = ("arms", "model", "timeout_s", "stall_s")


def read_before(path: Path, now: Mapping[str, Any], warmup: float) -> Load:
    """Read what was measured of one server before; now: parameters of this load, which have to be the same.

    Raises:
        UserError: They are not, or it is of several servers.
    """
    load = read_load(path, warmup)
    before = load.parameters.object()
    if len(load.parameters["arms"].object()) != 1:
        raise UserError(f"{path}: is of several servers, expected a file of one")
    same = {name: value for name, value in now.items() if name not in OF_SERVERS}
    told = first_difference(json.loads(to_line(same)), {name: before.get(name) for name in same})
    if told:
        raise UserError(f"{path}: {told}, expected the same load")
    return load


class Found(NamedTuple):
    """What a file holds: attempts of blocks, and records of those that came to their end."""

    attempts: Mapping[BlockName, int]
    answers: Mapping[tuple[BlockName, int], list[tuple[int, Answer]]]
    ended: Mapping[tuple[BlockName, int], Field]


def found_in(path: Path, records: Iterable[Mapping[str, Any]]) -> Found:
    """Read the records behind a header.

    Raises:
        UserError: One is not as we write them.
    """
    attempts: dict[BlockName, int] = {}
    answers: dict[tuple[BlockName, int], list[tuple[int, Answer]]] = {}
    ended: dict[tuple[BlockName, int], Field] = {}
    for line, value in enumerate(records, 3):
        record = Field(value, path, f"line {line}")
        kind = record["type"].choice((REQUEST, BLOCK))
        load, arm, part = record["load"].number(), record["arm"].text(), record["part"].whole()
        name, attempt = (load, arm, part), record["try"].whole(1, MOST_TRIES)
        attempts[name] = max(attempt, attempts.get(name, 0))
        if kind == BLOCK:
            ended[name, attempt] = record
        else:
            answers.setdefault((name, attempt), []).append((record["row"].whole(), answer_of(record)))
    return Found(attempts, answers, ended)


def ran_of(found: Found, name: BlockName, clients: int, share: float) -> Ran | None:
    """Return what a file has of a block that came to its end, None of one that did not."""
    attempt = next((n for n in range(found.attempts.get(name, 0), 0, -1) if (name, n) in found.ended), None)
    if attempt is None:
        return None
    record = found.ended[name, attempt]
    part = part_of(name, found.answers.get((name, attempt), []), clients, share)
    lags = tuple(lag.number(0, MOST_S) for lag in record["lags_s"].elements())
    before, after = (
        tuple(line.text() for line in record[side].elements()[:MOST_LINES]) for side in ("before", "after")
    )
    part = part._replace(duration_s=record["duration_s"].number(0, MOST_S))
    return Ran(part, True, lags, record["cpu"].number(), before, after)


def kept(journal: Journal | None, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records, on disk before this returns; without a file, nowhere."""
    if journal is not None:
        journal.write(b"".join(map(to_line, records)))
