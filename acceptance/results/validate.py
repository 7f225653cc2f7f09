"""Checks a file of records: every line against the published JSON Schema, and whether its numbers agree.

What follows from something else is worked out anew and compared: figures from rounds and phases, places from the
header, summaries from records.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.schema import breaches, checker, load_schema, shown

from .journal import KIND, read_records, to_line
from .parts import PARTS
from .records import PHASES, RECORD, SAMPLER, SCHEMA_PATH, SUMMARY, figures, latest, resume_key
from .settings import ALGORITHMS, BASELINE, config_sha256
from .summary import summarise

Record = Mapping[str, Any]
# What all rows of a batch's turn have in common.
OF_THE_TURN = (
    *("timestamp_utc", "order", "batch_size", "memory_peak_bytes"),
    *("ttft_s", "total_s", "decode_s", *(f"{name}_ms" for name in PHASES)),
    *("energy_j", "energy_net_j", "idle_power_w", "energy_is_reliable"),
)
OF_THE_PROMPT = ("prompt_tokens", "prompt_source", "prompt_category")
MEASURED = ("generated_tokens", "output_sha256", "total_s", "decode_s", "ttft_s", "rounds", "overruled")
# Clocks are read in order, so that sums may differ by the rounding of their terms alone.
CLOSE = 1e-6


def problems(path: Path, *, strict: bool) -> list[str]:
    """Return what is wrong with a file, one line each; empty when nothing is.

    Strict: also whether sums, calls and summaries follow from what was recorded.

    Raises:
        UserError: The file cannot be read as lines of JSON with our header.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a folder, device or pipe, expected a file of bench-decode")
    records, torn = read_records(path, packed=True)
    errors = [f"the last {torn} bytes are a torn line"] if torn else []
    for number, record in enumerate(records, 1):
        wrong = list(line_problems(record, first=number == 1))
        if strict and not wrong and record["kind"] == RECORD:
            wrong = list(disagreements(record))
        errors += [f"line {number}: {what}" for what in wrong]
    if strict and not errors:
        errors = [*file_disagreements(records)]
    return errors


@cache
def checks_of(kind: str) -> Any:
    """Return what checks lines of one kind."""
    return checker({"$ref": f"#/$defs/{kind}", "$defs": load_schema(SCHEMA_PATH)["$defs"]})


def line_problems(record: Record, *, first: bool) -> Iterator[str]:
    """Say where a line breaks the schema; the first is a header, the others are not."""
    kind = record.get("kind")
    allowed = (KIND,) if first else (RECORD, SUMMARY, PARTS)
    if kind not in allowed:
        yield f"kind is {shown(kind)}, expected {' or '.join(allowed)}"
    else:
        yield from breaches(checks_of(str(kind)), record)


def disagreements(record: Record) -> Iterator[str]:
    """Say which numbers of a record do not follow from the others."""
    key = resume_key(record["method"], record["prompt_index"], record["run"])
    yield from unlike("resume_key", record["resume_key"], key)
    yield from no_time("timestamp_utc", record["timestamp_utc"])
    status, same, divergence = record["status"], record["identical_to_baseline"], record["first_divergence"]
    if record["batch_row"] >= record["batch_size"]:
        yield f"batch_row is {record['batch_row']}, expected below batch_size, {record['batch_size']}"
    if (status == "ok") != (record["error"] is None):
        yield f"error is {record['error']!r} though status is {status}"
    if status == "ok":
        missing = [name for name in (*MEASURED, *(f"{p}_ms" for p in PHASES)) if record[name] is None]
        yield from (f"{name} is null though status is ok" for name in missing)
        if not missing:
            yield from measured_disagreements(record)
    elif record["generated_tokens"] is not None:
        yield f"generated_tokens is {record['generated_tokens']} though status is {status}"
    # Where the target could not be asked, the note says why.
    if divergence is None and same is False and "first_divergence:" not in (record["note"] or ""):
        yield "first_divergence is null though identical_to_baseline is false"
    elif divergence is not None and same is not False:
        yield f"first_divergence is there though identical_to_baseline is {shown(same)}"
    match = record["exact_match"]
    if match and not match["matched"] <= match["trials"] <= match["matched"] + 1:
        yield f"exact_match.trials is {match['trials']}, but {match['matched']} matched up to the first that did not"


def measured_disagreements(record: Record) -> Iterator[str]:
    """Say which rounds cannot be, and which figures do not follow from rounds and phases."""
    rounds = record["rounds"]
    if len({len(values) for values in rounds.values()}) != 1:
        yield f"rounds are of different numbers: { ({name: len(values) for name, values in rounds.items()}) }"
        return
    for number in range(len(rounds["drafted"])):
        row = {name: values[number] for name, values in rounds.items()}
        yield from (f"round {number} {what}" for what in impossible(row, record))
    total_s = record["total_s"]
    yield from unlike("total_s", total_s, sum(record[f"{name}_ms"] for name in PHASES) / 1e3)
    yield from unlike("decode_s", record["decode_s"], total_s - record["prefill_ms"] / 1e3)
    if record["ttft_s"] > total_s * (1 + CLOSE):
        yield f"ttft_s is {record['ttft_s']}, above total_s, {total_s}"
    # From the field itself: what is left of a total that is nearly all prefill is rounding.
    has = {f"has_{name}": record[name] is not None for name in ("tree", "judge")}
    times = {"total_s": total_s, "decode_s": record["decode_s"]}
    for name, value in figures(rounds, generated=sum(rounds["committed"]), **times, **has).items():
        if isinstance(value, dict):
            for inner in value:
                yield from unlike(f"{name}.{inner}", record[name][inner], value[inner])
        else:
            yield from unlike(name, record[name], value)


def impossible(row: Mapping[str, Any], record: Record) -> Iterator[str]:
    """Say what a round cannot have done.

    A chain is as deep as what it drafted, and has one leaf. A tree has no more leaves than nodes off its deepest
    branch, and that branch's own. A judge keeps all it is asked about but, at most, the last.
    """
    drafted, accepted, kept, judged = (row[name] for name in ("drafted", "accepted", "overruled", "judged"))
    depth, leaves, pruned, is_cut = row["depth"], row["leaves"], row["pruned"] + row["over_budget"], row["cut_by"]
    # Behind an end of sequence a rule may have decided on more than what counts as accepted.
    if not (accepted <= drafted and kept <= (drafted if is_cut == "eos" else accepted)):
        yield f"accepted {accepted} of {drafted} drafted tokens, {kept} of them overruled"
    if row["committed"] != accepted + (is_cut != "eos"):
        yield f"committed {row['committed']} tokens, but accepted {accepted}, cut by {is_cut!r}"
    if record["tree"] is None and depth != drafted:
        yield f"is {depth} deep, but drafted a chain of {drafted}"
    elif record["tree"] is None and pruned:
        yield f"pruned {pruned} branches, but drafted a chain"
    elif not accepted <= depth <= drafted:
        yield f"is {depth} deep, but accepted {accepted} of {drafted} drafted tokens"
    elif not min(drafted, 1) <= leaves <= (drafted and drafted - depth + 1):
        yield f"has {leaves} leaves, but {drafted} drafted tokens, {depth} deep"
    if record["judge"] is None and judged:
        yield f"judged {judged} tokens, but there is no judge"
    elif record["judge"] is not None and not kept <= judged <= min(kept + 1, drafted):
        yield f"judged {judged} of {drafted} drafted tokens and kept {kept} of them"


def no_time(name: str, value: str) -> Iterator[str]:
    """Say that a text in the form of a time is none."""
    try:
        datetime.fromisoformat(value)
    except ValueError:
        yield f"{name} is {value!r}, expected a date and time that exist"


def unlike(name: str, value: Any, expected: Any, source: str = "follows from the others") -> Iterator[str]:
    """Say that a value is not what follows."""
    if not alike(value, expected):
        yield f"{name} is {shown(value)}, but {shown(expected)} {source}"


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float) and float in (type(a), type(b)):
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(a == b)


def file_disagreements(records: Sequence[Record]) -> Iterator[str]:
    """Say where lines that are well each do not agree with each other."""
    header, measured = records[0], latest(records)
    parameters = {name: value for name, value in header["parameters"].items() if name != "config_sha256"}
    yield from (f"line 1: {what}" for what in no_time("created_utc", header["created_utc"]))
    if config_sha256(parameters) != header["parameters"]["config_sha256"]:
        yield "line 1: config_sha256 does not follow from the parameters"
    if not measured:
        yield "no records"
    known = Known(records)
    for record in measured:
        yield from (f"{record['resume_key']}: {what}" for what in known.disagreements(record))
    yield from repeated_records(records)
    yield from misplaced_summaries(records)
    yield from stale_summaries(records)


class Known:
    """What the header says of a file's records, and what they have in common with those that came before."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.parameters = records[0]["parameters"]
        self.algorithms = {m["name"]: m["method"] for m in self.parameters["methods"]}
        self.samplers = {m["name"]: m["sampler"] for m in self.parameters["methods"] if "sampler" in m}
        self.lossy = {name for name, is_exact in self.parameters.get("samplers", {}).items() if not is_exact}
        self.methods_run, self.finished = len(taking_turns(records)), is_finished(records)
        self.firsts: dict[tuple[Any, ...], Record] = {}
        self.plain = {
            (r["prompt_index"], r["run"]): r["output_sha256"]
            for r in latest(records)
            if r["algorithm"] == BASELINE and r["status"] == "ok"
        }

    def disagreements(self, record: Record) -> Iterator[str]:
        """Say where a record is not what the file says elsewhere."""
        algorithm, order = record["algorithm"], record["order"]
        for name, limit in (("prompt_index", "prompt_count"), ("run", "runs")):
            if record[name] >= self.parameters[limit]:
                yield f"{name} is {record[name]}, expected below {limit}, {self.parameters[limit]}"
        yield from unlike("algorithm", algorithm, self.algorithms.get(record["method"]), "follows from the header")
        if algorithm not in ALGORITHMS:
            yield f"algorithm is {algorithm!r}, expected a decoding method"
        else:
            sampler = self.samplers.get(record["method"])
            is_exact = ALGORITHMS[algorithm].is_exact and sampler not in self.lossy
            yield from unlike("is_exact", record["is_exact"], is_exact, f"holds of {algorithm}")
            if record["status"] == "ok":
                used = record.get(SAMPLER, {}).get("name")
                yield from unlike(SAMPLER, used, sampler, "follows from the header")
        for name, expected in self.place(record["prompt_index"]).items():
            yield from unlike(name, record[name], expected, "follows from the header")
        if record["status"] != "skipped":
            if order >= self.methods_run:
                yield f"order is {order}, expected below the number of methods that run, {self.methods_run}"
            other = self.first(record, "order", record["batch_index"], record["run"], order)["method"]
            if other != record["method"]:
                yield f"order is {order}, but {other} took that place"
        yield from self.unlike_others(record)

    def place(self, index: int) -> dict[str, int]:
        """Return the batch of a prompt, and the prompt's row in it."""
        size, count = self.parameters["batch_size"], self.parameters["prompt_count"]
        first = index - index % size
        return {"batch_index": index // size, "batch_row": index % size, "batch_size": min(size, count - first)}

    def first(self, record: Record, *key: Any) -> Record:
        """Return the first record of a key: this one, if there was none."""
        return self.firsts.setdefault(key, record)

    def unlike_others(self, record: Record) -> Iterator[str]:
        """Say where a record differs from others of its prompt, of its batch, or of the baseline.

        Before all is measured, a turn may have been measured again, but not written as a whole.
        """
        began = "" if self.finished else record["timestamp_utc"]
        turn = (record["method"], record["batch_index"], record["run"], began)
        for key, names, what in (((record["prompt_index"],), OF_THE_PROMPT, "prompt"), (turn, OF_THE_TURN, "batch")):
            first = self.first(record, *key)
            for name in names:
                if record[name] != first[name]:
                    yield f"{name} is {shown(record[name])}, but {shown(first[name])} in another record of that {what}"
        same, plain = record["identical_to_baseline"], self.plain.get((record["prompt_index"], record["run"]))
        if same is not None and plain is not None and same != (record["output_sha256"] == plain):
            differs = "differs from" if same else "equals"
            yield f"identical_to_baseline is {shown(same)}, but output_sha256 {differs} the baseline's"


def taking_turns(records: Sequence[Record]) -> set[str]:
    """Return the methods that run: those of the header, but for those on record as skipped."""
    skipped = {r["method"] for r in records if r["kind"] == RECORD and r["status"] == "skipped"}
    return {m["name"] for m in records[0]["parameters"]["methods"]} - skipped


def is_finished(records: Sequence[Record]) -> bool:
    """Whether every method has a record of every prompt in every run, or the one that says that it cannot run."""
    parameters, names = records[0]["parameters"], taking_turns(records)
    count = sum(r["method"] in names for r in latest(records))
    return bool(count >= len(names) * parameters["prompt_count"] * parameters["runs"])


def repeated_records(records: Sequence[Record]) -> Iterator[str]:
    """Say which keys are there again, though nothing of their turn was missing or failed.

    The records of a turn are written together, and as a whole once more where one of them is missing or an error:
    killed in between, a file has some of them twice. Times are told apart by seconds, in which no run begins anew;
    where something stands in for the clock, all are that of the header.
    """
    count, began_utc = len(taking_turns(records)), records[0]["created_utc"]
    turns: dict[Any, dict[str, Record]] = defaultdict(dict)
    settled: dict[Any, set[str]] = defaultdict(set)
    for number, record in enumerate(records, 1):
        if record["kind"] != RECORD:
            continue
        key, is_skipped = record["resume_key"], record["status"] == "skipped"
        turn = key if is_skipped else (record["batch_index"], record["run"])
        if key in settled[turn]:
            before = turns[turn][key]
            is_whole = len(settled[turn]) >= (1 if is_skipped else count * record["batch_size"])
            is_copy = record["timestamp_utc"] == before["timestamp_utc"] != began_utc
            if is_whole or is_copy or record == before:
                yield f"line {number}: {key} is there already, and was no failure"
        turns[turn][key] = record
        settled[turn] |= set() if record["status"] == "error" else {key}
    for last in turns.values() if is_finished(records) else ():
        newest = max(r["timestamp_utc"] for r in last.values())
        if old := [key for key, r in last.items() if r["timestamp_utc"] != newest]:
            yield f"{old[0]}: others of its turn were measured again, but not all"


def misplaced_summaries(records: Sequence[Record]) -> Iterator[str]:
    """Say which summaries are there again without a record between, and which of the last stand before all was done.

    Killed between them, all are written again. An earlier one may stand before a record: a line that was damaged and
    cut out is measured again behind it.
    """
    size, there, lasts = len(records[0]["parameters"]["methods"]), set[str](), dict[str, int]()
    for number, record in enumerate(records, 1):
        if record["kind"] != SUMMARY:
            there = set()
            continue
        if len(there) >= size:
            yield f"line {number}: summary of {record['method']} is there already"
        there.add(record["method"])
        lasts[record["method"]] = number
    for method, number in lasts.items():
        if not is_finished(records[: number - 1]):
            yield f"line {number}: summary of {method} is not behind all records"


def stale_summaries(records: Sequence[Record]) -> Iterator[str]:
    """Say where the summaries that hold do not follow from the records."""
    there = {r["method"]: r for r in records if r["kind"] == SUMMARY}
    if not there and not is_finished(records):
        return
    fresh = {s["method"]: json.loads(to_line(s)) for s in summarise(latest(records), records[0]["parameters"]["seed"])}
    yield from (f"summary of {name}: no records of it" for name in there.keys() - fresh.keys())
    for name, summary in fresh.items():
        if name not in there:
            yield f"summary of {name} is missing"
            continue
        wrong = [key for key, value in summary.items() if not alike(there[name].get(key, value), value)]
        yield from (f"summary of {name}: {key} does not follow from the records" for key in wrong)
