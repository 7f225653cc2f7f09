"""Checks a file of records: every line against the published JSON Schema, and whether its numbers agree."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from simulator.ground.artefacts import UserError

from .appended import is_finished, repeated_records, repeated_summaries, wrong_orders
from .journal import KIND, read_records, to_line
from .records import (
    COUNTED,
    PHASES,
    RECORD,
    SUMMARY,
    judge_fields,
    latest,
    load_schema,
    ratio,
    resume_key,
    tree_fields,
)
from .settings import BASELINE, config_sha256
from .summary import summarise

MAX_TOLD = 20
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
# What all rows of a batch's turn have in common.
OF_THE_TURN = (
    *("timestamp_utc", "order", "batch_size", "memory_peak_bytes"),
    *("ttft_s", "total_s", "decode_s", *(f"{name}_ms" for name in PHASES)),
    *("energy_j", "energy_net_j", "idle_power_w", "energy_is_reliable"),
)
OF_THE_PROMPT = ("prompt_tokens", "prompt_source", "prompt_category")
# Clocks are read in order, so that sums may differ by the rounding of their terms alone.
CLOSE = 1e-6
# Nothing that is measured or told takes more; arithmetic with larger ones overflows.
MAX_WHOLE = 2**63 - 1


def problems(path: Path, *, strict: bool) -> list[str]:
    """Return what is wrong with a file, one line each; empty when nothing is.

    Args:
        path: Of a benchmark.
        strict: Also whether sums, calls and summaries follow from what was recorded.

    Raises:
        UserError: The file cannot be read as lines of JSON with our header.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a folder, device or pipe, expected a file of bench-decode")
    records, torn = read_records(path)
    found = [f"the last {torn} bytes are a torn line"] if torn else []
    schema = load_schema()
    for number, record in enumerate(records, 1):
        wrong = list(line_problems(schema, record, first=number == 1))
        if strict and not wrong and record["kind"] == RECORD:
            wrong = list(disagreements(record))
        found += [f"line {number}: {what}" for what in wrong]
    if strict and not found:
        found = [*file_disagreements(records)]
    return found


def file_disagreements(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say where lines that are well each do not agree with each other."""
    parameters, measured = records[0]["parameters"], latest(records)
    yield from header_disagreements(records[0])
    if not measured:
        yield "no records"
    yield from strangers(parameters, measured)
    yield from wrong_orders(records, measured)
    yield from unlike_others(measured, finished=is_finished(records))
    yield from untrue_comparisons(measured)
    yield from repeated_records(records)
    yield from repeated_summaries(records)
    yield from stale_summaries(records)


def line_problems(schema: Mapping[str, Any], record: Mapping[str, Any], *, first: bool) -> Iterator[str]:
    """Say where a line breaks the schema."""
    kind = record.get("kind")
    if (kind == KIND) != first:
        yield f"kind is {kind!r}, expected {KIND if first else f'{RECORD} or {SUMMARY}'}"
    elif kind not in schema["$defs"]:
        yield f"kind is {kind!r}, expected {KIND}, {RECORD} or {SUMMARY}"
    else:
        yield from breaches(schema, schema["$defs"][kind], record, "")


def breaches(root: Mapping[str, Any], rule: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
    """Say where a value breaks a rule: the subset of JSON Schema that ours is written in."""
    if "$ref" in rule:
        yield from breaches(root, root["$defs"][rule["$ref"].rpartition("/")[2]], value, at)
        return
    wrong = breach(rule, value)
    if wrong:
        yield f"{at or 'the line'} is {shown(value)}, expected {wrong}"
    elif isinstance(value, dict):
        yield from key_breaches(root, rule, value, at)
    elif isinstance(value, list) and "items" in rule:
        for place, item in enumerate(value):
            yield from breaches(root, rule["items"], item, f"{at}[{place}]")


def key_breaches(root: Mapping[str, Any], rule: Mapping[str, Any], value: dict[str, Any], at: str) -> Iterator[str]:
    """Say which keys of an object are missing, unknown or wrong."""
    known = rule.get("properties", {})
    for key in rule.get("required", ()):
        if key not in value:
            yield f"{path_of(at, key)} is missing"
    for key, item in value.items():
        if key in known:
            yield from breaches(root, known[key], item, path_of(at, key))
        elif rule.get("additionalProperties", True) is False:
            yield f"{path_of(at, key)} is not known"


def same(value: Any, allowed: Any) -> bool:
    """Say whether two JSON values are equal; true is not 1."""
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)


def breach(rule: Mapping[str, Any], value: Any) -> str:
    """Say what a value should be; empty when it is."""
    if "const" in rule and not same(value, rule["const"]):
        return repr(rule["const"])
    if "enum" in rule and not any(same(value, allowed) for allowed in rule["enum"]):
        return f"one of {', '.join(map(repr, rule['enum']))}"
    types = rule.get("type", ())
    types = [types] if isinstance(types, str) else types
    if types and not any(is_type(value, name) for name in types):
        return " or ".join(types)
    if isinstance(value, str):
        return text_breach(rule, value)
    if isinstance(value, list):
        low, high = rule.get("minItems", 0), rule.get("maxItems", len(value))
        return "" if low <= len(value) <= high else f"{low} to {high} items"
    return number_breach(rule, value)


def is_type(value: Any, name: str) -> bool:
    """Whether a value has a type of JSON Schema; true and false are no numbers."""
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def text_breach(rule: Mapping[str, Any], value: str) -> str:
    """Say what a text should be."""
    if "pattern" in rule and not re.search(rule["pattern"], value):
        return f"a text like {rule['pattern']}"
    return "a longer text" if len(value) < rule.get("minLength", 0) else ""


def number_breach(rule: Mapping[str, Any], value: Any) -> str:
    """Say within what a number should be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        return "a number of at most 64 bits"
    low, high = rule.get("minimum", -math.inf), rule.get("maximum", math.inf)
    return "" if low <= value <= high else f"{low:g} to {high:g}"


def path_of(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def shown(value: Any) -> str:
    """Write a value, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def disagreements(record: Mapping[str, Any]) -> Iterator[str]:
    """Say which numbers of a record do not follow from the others."""
    expected = resume_key(record["method"], record["prompt_index"], record["run"])
    if record["resume_key"] != expected:
        yield f"resume_key is {record['resume_key']!r}, expected {expected!r}"
    yield from no_time("timestamp_utc", record["timestamp_utc"])
    if record["batch_row"] >= record["batch_size"]:
        yield f"batch_row is {record['batch_row']}, expected below batch_size, {record['batch_size']}"
    if (record["status"] == "ok") != (record["error"] is None):
        yield f"error is {record['error']!r} though status is {record['status']}"
    if record["status"] == "ok":
        yield from missing(record)
        if record["rounds"] is not None and record["generated_tokens"] is not None:
            yield from round_disagreements(record, record["rounds"])
            yield from time_disagreements(record)
    elif record["generated_tokens"] is not None:
        yield f"generated_tokens is {record['generated_tokens']} though status is {record['status']}"
    if record["first_divergence"] is not None and record["identical_to_baseline"] is not False:
        yield f"first_divergence is told though identical_to_baseline is {shown(record['identical_to_baseline'])}"
    # Where the target could not be asked, the note says why.
    if record["identical_to_baseline"] is False and not (
        record["first_divergence"] or "first_divergence:" in (record["note"] or "")
    ):
        yield "first_divergence is null though identical_to_baseline is false"
    match = record["exact_match"]
    if match and not match["matched"] <= match["trials"] <= match["matched"] + 1:
        yield f"exact_match.trials is {match['trials']}, but {match['matched']} matched up to the first that did not"


def missing(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what every measurement has to tell."""
    for name in ("generated_tokens", "output_sha256", "total_s", "decode_s", "ttft_s", "rounds", "overruled"):
        if record[name] is None:
            yield f"{name} is null though status is ok"


def round_disagreements(record: Mapping[str, Any], rounds: Mapping[str, list[Any]]) -> Iterator[str]:
    """Say which rounds cannot be, and which figures do not follow from them."""
    lengths = {name: len(values) for name, values in rounds.items()}
    if len(set(lengths.values())) != 1:
        yield f"rounds are of different numbers: {lengths}"
        return
    each = zip(*(rounds[n] for n in ("drafted", "accepted", "committed", "overruled", "cut_by")), strict=True)
    for number, (drafted, accepted, committed, overruled, cut_by) in enumerate(each):
        # Behind an end of sequence a rule may have decided on more than what counts as accepted.
        if not (accepted <= drafted and overruled <= (drafted if cut_by == "eos" else accepted)):
            yield f"round {number} accepted {accepted} of {drafted} drafted tokens, {overruled} of them overruled"
        if committed != accepted + (cut_by != "eos"):
            yield f"round {number} committed {committed} tokens, but accepted {accepted}, cut by {cut_by!r}"
    yield from shape_disagreements(record, rounds)
    yield from judge_disagreements(record, rounds)
    total = {name: sum(rounds[name]) for name in COUNTED}
    tokens, count = record["generated_tokens"], lengths["drafted"]
    if total["committed"] != tokens:
        yield f"generated_tokens is {tokens}, but rounds committed {total['committed']}"
        return
    derived = {
        "tokens_per_round": (tokens, count),
        "draft_acceptance_rate": (total["accepted"], total["drafted"]),
        "target_calls_per_token": (count, tokens),
        "draft_calls_per_token": (total["draft_passes"], tokens),
        "overruled": (total["overruled"], 1),
    }
    for name, (above, below) in derived.items():
        yield from unlike(name, record[name], ratio(above, below))
    for part, fields in (("tree", tree_fields), ("judge", judge_fields)):
        for name, value in (fields(rounds) if record[part] else {}).items():
            yield from unlike(f"{part}.{name}", record[part][name], value)


def shape_disagreements(record: Mapping[str, Any], rounds: Mapping[str, list[Any]]) -> Iterator[str]:
    """Say which rounds cannot be of their shape.

    A chain is as deep as what it drafted, and has one leaf. A tree has no more leaves than nodes off its deepest
    branch, and that branch's own.
    """
    lost = [a + b for a, b in zip(rounds["pruned"], rounds["over_budget"], strict=True)]
    each = zip(*(rounds[name] for name in ("drafted", "accepted", "depth", "leaves")), lost, strict=True)
    for number, (drafted, accepted, depth, leaves, pruned) in enumerate(each):
        if record["tree"] is None and depth != drafted:
            yield f"round {number} is {depth} deep, but drafted a chain of {drafted}"
        elif record["tree"] is None and pruned:
            yield f"round {number} pruned {pruned} branches, but drafted a chain"
        elif not accepted <= depth <= drafted:
            yield f"round {number} is {depth} deep, but accepted {accepted} of {drafted} drafted tokens"
        elif not min(drafted, 1) <= leaves <= (drafted and drafted - depth + 1):
            yield f"round {number} has {leaves} leaves, but {drafted} drafted tokens, {depth} deep"


def judge_disagreements(record: Mapping[str, Any], rounds: Mapping[str, list[int]]) -> Iterator[str]:
    """Say in which rounds a judge cannot have decided so: it keeps all it is asked about but, at most, the last."""
    for number, (drafted, judged, kept) in enumerate(
        zip(rounds["drafted"], rounds["judged"], rounds["overruled"], strict=True)
    ):
        if record["judge"] is None and judged:
            yield f"round {number} judged {judged} tokens, but there is no judge"
        elif record["judge"] is not None and not kept <= judged <= min(kept + 1, drafted):
            yield f"round {number} judged {judged} of {drafted} drafted tokens and kept {kept} of them"


def time_disagreements(record: Mapping[str, Any]) -> Iterator[str]:
    """Say which times do not add up."""
    total = record["total_s"]
    if total is None or any(record[f"{name}_ms"] is None for name in PHASES):
        yield "a phase's time is missing"
        return
    yield from unlike("total_s", total, sum(record[f"{name}_ms"] for name in PHASES) / 1e3)
    yield from unlike("decode_s", record["decode_s"], total - record["prefill_ms"] / 1e3)
    tokens = record["generated_tokens"]
    yield from unlike("tokens_per_s", record["tokens_per_s"], ratio(tokens, total))
    # From the field itself: what is left of a total that is nearly all prefill is rounding.
    yield from unlike("decode_tokens_per_s", record["decode_tokens_per_s"], ratio(tokens, record["decode_s"] or 0))
    if record["ttft_s"] is not None and record["ttft_s"] > total * (1 + CLOSE):
        yield f"ttft_s is {record['ttft_s']}, above total_s, {total}"


def no_time(name: str, value: str) -> Iterator[str]:
    """Say that a text in the form of a time is none."""
    try:
        datetime.fromisoformat(value)
    except ValueError:
        yield f"{name} is {value!r}, expected a date and time that exist"


def unlike(name: str, found: float | None, expected: float | None) -> Iterator[str]:
    """Say that a number is not what follows from the others."""
    same = found == expected or (
        found is not None and expected is not None and math.isclose(found, expected, rel_tol=CLOSE, abs_tol=1e-12)
    )
    if not same:
        yield f"{name} is {found}, but {expected} follows from the others"


def header_disagreements(header: Mapping[str, Any]) -> Iterator[str]:
    """Say whether the header's parameters are not those that were hashed, or its time is none."""
    parameters = header["parameters"]
    yield from (f"line 1: {what}" for what in no_time("created_utc", header["created_utc"]))
    told = {name: value for name, value in parameters.items() if name != "config_sha256"}
    if config_sha256(told) != parameters["config_sha256"]:
        yield "line 1: config_sha256 does not follow from the parameters"


def strangers(parameters: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which records are not of what the header tells: its methods, its prompts, its batches."""
    from acceptance.decoders.methods import METHODS

    algorithms = {m["name"]: m["method"] for m in parameters["methods"]}
    size, count = parameters["batch_size"], parameters["prompt_count"]
    for record in measured:
        key, index, algorithm = record["resume_key"], record["prompt_index"], record["algorithm"]
        limits = {"prompt_index": "prompt_count", "run": "runs"}
        for name, limit in limits.items():
            if record[name] >= parameters[limit]:
                yield f"{key}: {name} is {record[name]}, expected below {limit}, {parameters[limit]}"
        if algorithms.get(record["method"]) != algorithm:
            yield f"{key}: algorithm is {algorithm!r}, but the header tells {algorithms.get(record['method'])!r}"
        elif algorithm not in METHODS:
            yield f"{key}: algorithm is {algorithm!r}, expected a decoding method"
        elif record["is_exact"] != METHODS[algorithm].is_exact:
            yield f"{key}: is_exact is {shown(record['is_exact'])}, but {algorithm} is not so"
        first = index - index % size
        place = {"batch_index": index // size, "batch_row": index % size, "batch_size": min(size, count - first)}
        for name, expected in place.items():
            if record[name] != expected:
                yield f"{key}: {name} is {record[name]}, but {expected} follows from the header"


def unlike_others(measured: Sequence[Mapping[str, Any]], *, finished: bool) -> Iterator[str]:
    """Say which records differ from others in what they have in common: a prompt, or the turn of a batch.

    Args:
        measured: What was measured.
        finished: Whether all was; else a turn may have been measured again, but not written as a whole.
    """
    firsts: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in measured:
        turn = (record["method"], record["batch_index"], record["run"])
        told = {
            (record["prompt_index"],): (OF_THE_PROMPT, "that prompt"),
            turn if finished else (*turn, record["timestamp_utc"]): (OF_THE_TURN, "that batch"),
        }
        for shared, (names, what) in told.items():
            first = firsts.setdefault(shared, record)
            for name in names:
                if record[name] != first[name]:
                    found, other = shown(record[name]), shown(first[name])
                    yield f"{record['resume_key']}: {name} is {found}, but {other} in another record of {what}"


def untrue_comparisons(measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which outputs are not, or are, the baseline's, other than told."""
    plain = {
        (r["prompt_index"], r["run"]): r["output_sha256"]
        for r in measured
        if r["algorithm"] == BASELINE and r["status"] == "ok"
    }
    for record in measured:
        told, other = record["identical_to_baseline"], plain.get((record["prompt_index"], record["run"]))
        if told is not None and other is not None and told != (record["output_sha256"] == other):
            differs = "differs from" if told else "equals"
            about = f"identical_to_baseline is {shown(told)}, but output_sha256 {differs} the baseline's"
            yield f"{record['resume_key']}: {about}"


def stale_summaries(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where the summaries that hold do not follow from the records."""
    told = {r["method"]: r for r in records if r["kind"] == SUMMARY}
    if not told and not is_finished(records):
        return []
    fresh = {s["method"]: json.loads(to_line(s)) for s in summarise(latest(records), records[0]["parameters"]["seed"])}
    found = [f"summary of {name}: no records of it" for name in told.keys() - fresh.keys()]
    for name, summary in fresh.items():
        if name not in told:
            found.append(f"summary of {name} is missing")
            continue
        wrong = [key for key, value in summary.items() if not alike(told[name][key], value)]
        found += [f"summary of {name}: {key} does not follow from the records" for key in wrong]
    return found


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(a == b)
