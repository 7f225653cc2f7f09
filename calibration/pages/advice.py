"""Advice as a page: each way of serving, draft lengths by load, what to type, what to measure first."""

import math

from simulator.ground.fields import Field

from .page import GOOD, Axis, Bar, Bars, Code, Figure, Part, Row, Table
from .told import (
    Told,
    as_time,
    ends,
    gain,
    headline,
    in_ms,
    lines,
    mark_of,
    number,
    percent,
    span,
    turning_in_words,
    value,
    words,
)

PLAIN = "plain"
LENGTHS = (
    "The fastest in decoding at one number of sequences and tokens of each, by the closed form; "
    "a dash: it does not fit into memory."
)
MEASURING = (
    "By how much the choice would be better if it were known, on average over what is possible, and how often it would "
    "be another."
)


def advice_told(document: Field) -> Told:
    """Read what `advise --json` printed."""
    verdict, take, serving = document["verdict"].text(), document["take"].text(), document["serving"]
    condition = words(document["basis"]["condition"]) if document["basis"].is_given else ""
    return Told(
        answer=headline(document, f"Speculation {verdict}: {take}"),
        mark=mark_of(verdict, conditional=bool(condition)),
        verdict=verdict + (", conditionally" if condition and verdict == "pays" else ""),
        figures=figures_of(serving, take),
        parts=[
            engine_part(document["engine"], take),
            serving_part(document, take),
            lengths_part(document["lengths"]),
            *measuring_parts(document["worth_measuring"]),
            *slow_parts(document["slow"]),
            *left_out_parts(document["not_compared"]),
        ],
    )


def figures_of(serving: Field, take: str) -> list[Figure]:
    """Return what stands out of the way that is taken, beside plain decoding."""
    own, plain = serving[take], serving[PLAIN]
    drafts = take != PLAIN
    found = (
        [Figure("Whole answers", f"{gain(value(own['gain']))} as fast", span(ends(own["gain_ci95"])))] if drafts else []
    )
    for name, key in (("A token, p50", "tpot_p50"), ("First token, p99", "ttft_p99")):
        beside = f"plain {as_time(value(plain[key]))}" if drafts else ""
        found.append(Figure(name, as_time(value(own[key])), beside))
    return [*found, Figure("Servers", servers(own), f"plain {servers(plain)}" if drafts else "")]


def servers(way: Field) -> str:
    """Return how many servers a way takes."""
    return f"{way['servers'].whole():,}" if way["servers"].is_given else "none keeps up"


def serving_part(document: Field, take: str) -> Part:
    """Return the ways of serving side by side."""
    serving = document["serving"]
    ways = sorted(serving.items(), key=lambda way: (way[0] != PLAIN, -value(way[1]["gain"])))
    drawn = [
        Bar(name, value(way["gain"]), ends(way["gain_ci95"]), written_gain(way))
        for name, way in ways
        if way["gain"].is_given
    ]
    picture = Bars("Whole answers, times as fast as plain decoding", drawn, Axis("times as fast", unit="x"), 1.0)
    rows = [way_row(name, way) for name, way in ways]
    heads = ("way", "servers", "first token p50, ms", "p99", "a token p50, ms", "p99", "answers as fast", "95 %")
    marks = [GOOD if name == take else "" for name, _ in ways]
    table = Table(
        "Times of one server; the way to take is marked", (*heads, "tokens a round", "tokens/s"), rows, marks=marks
    )
    return Part("Each way of serving", served_in_words(document, take), [picture, table] if drawn else [table])


def written_gain(way: Field) -> str:
    """Write a gain with its interval."""
    both = ends(way["gain_ci95"])
    return gain(value(way["gain"])) + (f" ({span(both)})" if both else "")


def way_row(name: str, way: Field) -> Row:
    """Return a way of serving as a row."""
    times = [in_ms(value(way[key])) for key in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99")]
    more = [gain(value(way["gain"])) if way["gain"].is_given else "", span(ends(way["gain_ci95"]))]
    tokens = value(way["tokens_a_round"])
    last = [number(tokens, ".2f"), number(value(way["output_tokens_per_s"]), ",.0f")]
    return [name, servers(way), *times, *more, *last]


def served_in_words(document: Field, take: str) -> list[str]:
    """Say what was served, and until which load it pays."""
    unit, load = words(document["unit"]), value(document["load_a_server"])
    at = "" if math.isnan(load) else f" at {load:,.6g} {unit}".rstrip() + " a server"
    said = [f"{document['requests'].whole():,} requests a run{at}, step for step as the engine schedules."]
    if document["turning"].is_given:
        said.append(f"{take} {turning_in_words(document['turning'], unit)}.")
    if document["too_short_to_tell"].flag(default=False):
        said.append("Runs are too short to count servers: more requests (--requests) may show that fewer do.")
    return said


def engine_part(engine: Field, take: str) -> Part:
    """Return what to type."""
    typed, name = lines(engine["lines"]), words(engine["name"])
    if take == PLAIN or not typed:
        return Part(f"What to type for {name}", ["Plain decoding: no option of speculation."])
    return Part(f"What to type for {name}", lines(engine["notes"]), [Code(typed)])


def lengths_part(found: Field) -> Part:
    """Return the best method and draft length by sequences at once and tokens of each."""
    cells: dict[tuple[int, int], str] = {}
    for one in found.elements():
        k, place = one["draft_length"], (one["batch"].whole(), one["context"].whole())
        off = "off" if k.is_given and not k.whole() else "-"
        cells[place] = f"{words(one['method'])} K={k.whole()}" if k.is_given and k.whole() else off
    contexts = sorted({context for _, context in cells})
    rows = [
        [f"{batch:,}", *(cells.get((batch, context), "-") for context in contexts)]
        for batch in sorted({batch for batch, _ in cells})
    ]
    heads = ("at once", *(f"{context:,} tokens" for context in contexts))
    return Part(
        "Method and draft length by load", [LENGTHS], [Table("Sequences that run at once, tokens of each", heads, rows)]
    )


def measuring_parts(found: Field) -> list[Part]:
    """Return what would be worth measuring."""
    if not found.is_given:
        return []
    rows = [
        [
            f"what {words(one['method'])} accepts on your texts" if one["method"].is_given else "times of your device",
            percent(value(one["gain"])),
            percent(value(one["changes"]), 0),
        ]
        for one in found.elements()
    ]
    table = Table("The most first", ("measurement", "betters the choice by", "changes it in"), rows)
    return [Part("What would be worth measuring", [MEASURING], [table])]


def slow_parts(slow: Field) -> list[Part]:
    """Return what takes the time of a round, cause by cause."""
    if not slow.is_given:
        return []
    round_ms, plain_ms, tokens = (value(slow[name]) for name in ("round_ms", "plain_ms", "tokens"))
    from_tokens = round_ms / plain_ms if plain_ms else math.nan
    said = (
        f"With K = {slow['draft_length'].whole()} and {slow['batch'].whole():,} at once a round takes "
        f"{number(round_ms, '.3g')} ms and a plain token {number(plain_ms, '.3g')} ms: it pays from "
        f"{number(from_tokens, '.2f')} tokens a round on, and writes {number(tokens, '.2f')}."
    )
    causes = [cause.elements() for cause in slow["causes"].elements()]
    for cause, at in zip(causes, slow["causes"].elements(), strict=True):
        if len(cause) != 2:
            at.refuse("a cause and its milliseconds")
    bars = [Bar(name.text(), value(took), None, f"{number(value(took), '.3g')} ms") for name, took in causes]
    picture = Bars(
        "What a round takes more than a plain token, ms",
        bars,
        Axis("ms a round"),
    )
    return [Part("What a round spends its time on", [said], [picture])]


def left_out_parts(skipped: Field) -> list[Part]:
    """Return what was not compared, and why."""
    if not skipped.is_given or not skipped.object():
        return []
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(words(why), []).append(name)
    rows = [[", ".join(names), why] for why, names in reasons.items()]
    return [
        Part("What was not compared", [], [Table("Methods that are left out", ("methods", "why"), rows, left=(0, 1))])
    ]
