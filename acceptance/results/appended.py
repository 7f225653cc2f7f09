"""Whether the lines of a file stand as the benchmark appends them.

The records of a turn are written together, and as a whole once more where one of them is missing or an error: killed in
between, a file has some of them twice. Summaries come behind the last record, and anew behind later ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .records import RECORD, SUMMARY, latest

Record = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Block:
    """What is written together.

    size: keys of a whole one. settled: keys that are no failures. last: keys of the last writing. replaced: a settled
    one that it wrote again.
    """

    size: int
    settled: set[str] = field(default_factory=set)
    last: set[str] = field(default_factory=set)
    replaced: str = ""

    def add(self, key: str, *, is_settled: bool = True) -> bool:
        """Take a key; return whether it may stand here."""
        if key in self.last:
            if len(self.settled) >= self.size:
                return False
            self.last, self.replaced = set(), key if key in self.settled else ""
        self.last.add(key)
        if is_settled:
            self.settled.add(key)
        return True

    @property
    def is_patched(self) -> bool:
        """Whether nothing is missing, but some of it was written again and some was not."""
        return bool(self.replaced) and len(self.settled) >= self.size > len(self.last)


def taking_turns(records: Sequence[Record]) -> set[str]:
    """Return the methods that run: those of the header, but for those on record as skipped."""
    return {m["name"] for m in records[0]["parameters"]["methods"]} - left_out(records)


def left_out(records: Sequence[Record]) -> set[str]:
    """Return the methods on record as skipped."""
    return {r["method"] for r in records if r["kind"] == RECORD and r["status"] == "skipped"}


def is_finished(records: Sequence[Record]) -> bool:
    """Whether every method has a record of every prompt in every run, or the one that says that it cannot run."""
    parameters, names = records[0]["parameters"], taking_turns(records)
    found = sum(r["method"] in names for r in latest(records))
    return bool(found >= len(names) * parameters["prompt_count"] * parameters["runs"])


def repeated_records(records: Sequence[Record]) -> Iterator[str]:
    """Say which keys are there again, though nothing of their turn was missing or failed."""
    count, began_utc = len(taking_turns(records)), records[0]["created_utc"]
    turns: dict[tuple[Any, ...], Block] = {}
    there: dict[str, Record] = {}
    for number, record in enumerate(records, 1):
        if record["kind"] != RECORD:
            continue
        key, is_skipped = record["resume_key"], record["status"] == "skipped"
        turn = (key,) if is_skipped else (record["batch_index"], record["run"])
        block = turns.setdefault(turn, Block(size=1 if is_skipped else count * record["batch_size"]))
        may = block.add(key, is_settled=record["status"] != "error")
        if not may or is_copy(record, there.get(key), began_utc):
            yield f"line {number}: {key} is there already, and was no failure"
        there[key] = record
    for block in turns.values():
        if block.is_patched:
            yield f"{block.replaced}: is there twice, but not all of its turn was measured again"


def is_copy(record: Record, before: Record | None, began_utc: str) -> bool:
    """Whether a record was not measured after an earlier one that is no failure.

    Times are told apart by seconds, in which no run begins anew. Where something stands in for the clock, all are that
    of the header.
    """
    if before is None or before["status"] == "error":
        return False
    return record == before or record["timestamp_utc"] == before["timestamp_utc"] != began_utc


def repeated_summaries(records: Sequence[Record]) -> Iterator[str]:
    """Say which summaries are there again without a record between, and which of the last stand before all was done.

    An earlier one may: a line that was damaged and cut out is measured again behind it.
    """
    size = len(records[0]["parameters"]["methods"])
    block, lasts = Block(size=size), {}
    for number, record in enumerate(records, 1):
        if record["kind"] != SUMMARY:
            block = Block(size=size)
            continue
        lasts[record["method"]] = number
        if not block.add(record["method"]):
            yield f"line {number}: summary of {record['method']} is there already"
    for method, number in lasts.items():
        if not is_finished(records[: number - 1]):
            yield f"line {number}: summary of {method} is not behind all records"


def wrong_orders(records: Sequence[Record], measured: Sequence[Record]) -> Iterator[str]:
    """Say which methods took a turn at the place of another, or at one that is not there."""
    count = len(taking_turns(records))
    places: dict[tuple[Any, ...], str] = {}
    for record in measured:
        if record["status"] == "skipped":
            continue
        key, order, name = record["resume_key"], record["order"], record["method"]
        if order >= count:
            yield f"{key}: order is {order}, expected below the number of methods that run, {count}"
        other = places.setdefault((record["batch_index"], record["run"], order), name)
        if other != name:
            yield f"{key}: order is {order}, but {other} took that place"
