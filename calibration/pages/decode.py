"""Real decoding as a page: how much faster each method was, where its rounds' time goes, what it does to the output."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acceptance.results.journal import read_records
from acceptance.results.records import RECORD
from acceptance.results.report import (
    HEADINGS,
    ROUND_HEADINGS,
    by_speed,
    heading,
    notes,
    quality_rows,
    round_row,
    row_of,
    score_rows,
    shows_speed,
    source_rows,
)
from acceptance.results.report import headline as answer_of
from acceptance.results.settings import BASELINE
from acceptance.results.summary import summarise
from acceptance.results.validate import line_problems
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field

from .page import BAD, GOOD, OPEN, Axis, Bar, Bars, Figure, Part, Table
from .told import Told, gain, headline, lines, span

Summary = Mapping[str, Any]


def records_as_json(path: Path) -> dict[str, Any]:
    """Return the records of `bench-decode --out` as its `--json` prints them, with the summaries that follow.

    Raises:
        UserError: They are no records, or not as they are written.
    """
    records, _ = read_records(path)
    for number, record in enumerate(records, 1):
        for problem in line_problems(record, first=number == 1):
            raise UserError(f"{path}: line {number}: {problem}")
    seed = Field(records[0], path, "line 1")["parameters"]["seed"].whole()
    return records[0] | {"summaries": summarise([r for r in records if r["kind"] == RECORD], seed), "notes": []}


def decode_told(document: Field) -> Told:
    """Read what `bench-decode --json` printed.

    Raises:
        UserError: It is not as that writes it.
    """
    summaries = [one.object() for one in document["summaries"].elements()]
    for at, summary in enumerate(summaries):
        for problem in line_problems(summary, first=False):
            raise UserError(f"{document.path}: summaries[{at}]: {problem}")
    fast = [s for s in by_speed(summaries) if s["algorithm"] != BASELINE and shows_speed(s)]
    tables = [Table("Methods, the fastest first", HEADINGS, [row_of(s) for s in by_speed(summaries)], left=(0, 1))]
    for title, found in (("What lossy methods change", quality_rows(summaries)), ("Texts", score_rows(summaries))):
        tables += [Table(title, found[0], found[1:], left=range(len(found[0])))] if found else []
    rounds = [Table("Milliseconds a round", ROUND_HEADINGS, [round_row(s) for s in by_speed(summaries)])]
    before = source_rows(document["parameters"].object(), summaries)
    rounds += [Table("Before the rounds", before[0], before[1:])] if before else []
    verdict, mark = verdict_of(fast)
    said = [heading(asked, summaries)] if (asked := asked_in(document["parameters"])) else []
    return Told(
        answer=headline(document, answer_of(summaries)),
        mark=mark,
        verdict=verdict,
        figures=figures_of(fast, summaries),
        parts=[
            Part("How much faster", said, [*speed_bars(fast), *tables]),
            Part("Where the time of a round goes", [], rounds),
            Part("What the columns mean", [*notes(summaries), *lines(document["notes"])]),
        ],
    )


def asked_in(field: Field) -> dict[str, Any]:
    """Return the parameters that are told of, checked; empty where some are missing."""
    numbers = ("temperature", "prompt_count", "runs", "max_new_tokens", "batch_size")
    if not {*numbers, "device", "dtype"} <= field.object().keys():
        return {}
    for name in numbers:
        field[name].number()
    field["inflate_target"].number(default=1.0)
    for name in ("device", "dtype"):
        field[name].text()
    return field.object()


def verdict_of(fast: Sequence[Summary]) -> tuple[str, str]:
    """Return whether the fastest is faster than plain decoding, and how that is marked."""
    if not fast:
        return "nothing to compare", OPEN
    value, both = fast[0]["speedup"]["value"], fast[0]["speedup"]["ci95"]
    if both is None:
        return ("faster, perhaps", OPEN) if value > 1 else ("no gain", BAD)
    return ("faster", GOOD) if both[0] > 1 else ("cannot tell", OPEN) if both[1] > 1 else ("no gain", BAD)


def figures_of(fast: Sequence[Summary], summaries: Sequence[Summary]) -> list[Figure]:
    """Return what stands out."""
    found = []
    if fast:
        first, tau = fast[0], fast[0]["tokens_per_round"]
        both = first["speedup"]["ci95"]
        found.append(Figure(f"Fastest: {first['method']}", f"{gain(first['speedup']['value'])} as fast", span(both)))
        if tau:
            found.append(Figure("Tokens a round", f"{tau['value']:.2f}", span(tau["ci95"], unit="")))
    plain = next((s for s in summaries if s["algorithm"] == BASELINE and s["tokens_per_s"]), None)
    if plain:
        found.append(Figure("Plain decoding", f"{plain['tokens_per_s']:,.1f} tokens/s", f"{plain['prompts']} prompts"))
    return found


def speed_bars(fast: Sequence[Summary]) -> list[Bars]:
    """Return speedups below one another, the fastest first."""
    bars = []
    for s in fast:
        both = s["speedup"]["ci95"]
        said = gain(s["speedup"]["value"]) + (f" ({span(both)})" if both else "")
        bars.append(
            Bar(
                s["method"] + ("" if s["is_exact"] else ", lossy"),
                s["speedup"]["value"],
                both and (both[0], both[1]),
                said,
            )
        )
    bars = [bar for bar in bars if math.isfinite(bar.value)]
    return [Bars("Times as fast as plain decoding", bars, Axis("times as fast", unit="x"), 1.0)] if bars else []
