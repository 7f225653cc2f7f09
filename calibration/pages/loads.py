"""Loads as pages, of real servers and of simulated ones: times against load, gains, what failed, what was accepted."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from simulator.ground.fields import Field

from .page import BAD, GOOD, OPEN, Axis, Bar, Bars, Figure, Line, Part, Plot, Row, Table
from .rows import Rows, is_number
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

Ends = tuple[float, float]
# Of a point, what is no figure.
CI95, LOW, HIGH, SECONDS = "_ci95", "_low95", "_high95", "_s"
TIMES = ("ttft", "tpot", "e2e", "gap", "queueing", "handing")
MOST_ARMS, MOST_BARS = 6, 16
SHOWN = (
    ("tpot_p50", "Time a token, p50, ms", 1e3),
    ("tpot_p99", "Time a token, p99, ms", 1e3),
    ("ttft_p99", "First token, p99, ms", 1e3),
    ("output_tokens_per_s", "Completion tokens a second", 1.0),
)


class Seen(NamedTuple):
    """An arm at a load: its figures in seconds, those with intervals, and how many times as fast its answers are."""

    load: float
    arm: str
    told: Mapping[str, float]
    ends: Mapping[str, Ends]
    gain: float = math.nan
    gain_ends: Ends | None = None
    requests: int | None = None
    failed: int | None = None

    def at(self, name: str) -> float:
        """Return a figure, NaN where it is not known."""
        return self.told.get(name, math.nan)


def bare(name: str) -> str:
    """Return the name of a figure without its unit."""
    return name.removesuffix(SECONDS) if name.partition("_")[0] in TIMES else name


def figures_in(found: Field) -> tuple[dict[str, float], dict[str, Ends]]:
    """Return figures and intervals of an object that has both."""
    told, known = {}, {}
    for name, field in found.items():
        if name.endswith(CI95):
            if (both := ends(field)) is not None:
                known[bare(name.removesuffix(CI95))] = both
        elif isinstance(field.value, int | float) and not isinstance(field.value, bool):
            told[bare(name)] = value(field)
    return told, known


def server_told(document: Field) -> Told:
    """Read what `bench-server --json` printed."""
    seen, unit = [], words(document["unit"]) or words(document["parameters"]["load_kind"])
    for point in document["points"].elements():
        told, known = figures_in(point["figures"])
        gains = point["gains"]
        failed = sum(count.whole() for _, count in point["failed"].items())
        seen.append(
            Seen(
                value(point["load"]),
                point["arm"].text(),
                told | {"tokens_a_round": value(point["tokens_per_round"])},
                known,
                value(gains["e2e"]),
                ends(gains["e2e_ci95"]),
                point["requests"].whole(),
                failed,
            )
        )
    parts = [*load_parts(seen, unit), *accepted_parts(document["points"].elements()), client_part(document)]
    result = told_of(seen, unit, document, parts)
    warned = [] if document["is_whole"].flag(default=True) else ["The load was interrupted: not all blocks are whole."]
    return result._replace(warnings=[*warned, *failures(document["points"].elements())])


def failures(points: Sequence[Field]) -> Iterable[str]:
    """Yield what failed of each arm at each load."""
    for point in points:
        kinds = [f"{kind} {count.whole():,}" for kind, count in point["failed"].items() if count.whole()]
        if kinds:
            where = f"{words(point['arm'])} at {value(point['load']):,.6g}"
            yield f"{where}: of {point['requests'].whole():,} requests failed: {', '.join(kinds)}"


def curve_told(document: Field) -> Told:
    """Read what `simulate-serving --json` printed."""
    unit, seen = words(document["unit"]), []
    for point in document["points"].elements():
        for arm, figures in point.items():
            if arm == "load":
                continue
            told, known = figures_in(figures)
            own = told.pop("e2e_gain", math.nan)
            seen.append(Seen(value(point["load"]), arm, told, known, own, known.pop("e2e_gain", None)))
    seen.sort(key=lambda s: (s.load, s.arm != "plain", s.arm))
    turned = [f"{arm} {turning_in_words(turning, unit)}." for arm, turning in document["turning"].items()]
    parts = load_parts(seen, unit)
    if turned:
        parts.insert(0, Part("At which loads it pays", turned, capacity_tables(document, unit)))
    result = told_of(seen, unit, document, parts)
    sure = {turning["pays"].value for _, turning in document["turning"].items()}
    said = (
        {"everywhere": "pays", "nowhere": "does not pay"}.get(str(next(iter(sure), "")), "it depends")
        if len(sure) == 1
        else ""
    )
    condition = words(document["basis"]["condition"]) if document["basis"].is_given else ""
    mark = mark_of(said, conditional=bool(condition)) or OPEN
    return (
        result._replace(verdict=said + (", conditionally" if condition and said == "pays" else ""), mark=mark)
        if said
        else result
    )


def capacity_tables(document: Field, unit: str) -> list[Table]:
    """Return what servers carry within limits, and how many it takes."""
    carried, servers = (document[name].object() if document[name].is_given else {} for name in ("capacity", "servers"))
    if not carried:
        return []
    rows = [[name, number(value(document["capacity"][name]), ",.4g"), str(servers.get(name, ""))] for name in carried]
    limits = ", ".join(f"{name} {as_time(value(most))}" for name, most in document["limits"].items())
    share = document["share_within_limits"]
    within = f"{percent(value(share), 0)} of the requests within {limits}" if share.is_given else "Within limits"
    return [Table(within, ("way", f"carries, {unit}", "servers"), rows)]


def rows_told(rows: Rows, arms: str) -> Told:
    """Read a table of `bench-server --csv` or `simulate-serving --out`; arms: the column of them."""
    loads, seen = rows.numbers("load"), []
    columns = {
        name: rows.numbers(name)
        for name in rows.heads
        if name not in ("load", arms) and all(map(is_number, rows.texts[name]))
    }
    for i, load in enumerate(loads):
        told = {bare(n): c[i] for n, c in columns.items() if not n.endswith((LOW, HIGH)) and not math.isnan(c[i])}
        known = {
            bare(n.removesuffix(LOW)): (c[i], columns[n.removesuffix(LOW) + HIGH][i])
            for n, c in columns.items()
            if n.endswith(LOW) and n.removesuffix(LOW) + HIGH in columns and not math.isnan(c[i])
        }
        told.setdefault("tokens_a_round", told.get("tokens_per_round", math.nan))
        counts = {k: int(told[k]) for k in ("requests", "failed") if k in told}
        seen.append(
            Seen(load, rows.texts[arms][i], told, known, requests=counts.get("requests"), failed=counts.get("failed"))
        )
    first = next(iter(dict.fromkeys(s.arm for s in seen)))
    whole = {s.load: s.at("e2e_mean") for s in seen if s.arm == first}
    seen = [
        s if s.arm == first else s._replace(gain=whole.get(s.load, math.nan) / (s.at("e2e_mean") or math.nan))
        for s in seen
    ]
    parts = [*load_parts(seen, "load"), Part("All figures", [], [rows.table("Of each way at each load", 200)])]
    return told_of(seen, "load", None, parts)


def told_of(seen: Sequence[Seen], unit: str, document: Field | None, parts: Sequence[Part]) -> Told:
    """Return the answer with what stands out."""
    compared = [s for s in seen if not math.isnan(s.gain)]
    best = max(compared, key=lambda s: s.gain, default=None)
    if best is not None:
        otherwise = f"{best.arm}: answers come {gain(best.gain)} as fast at {at(best.load, unit)}, at most."
    else:
        otherwise = f"{as_time(seen[0].at('tpot_mean'))} a token at {at(seen[0].load, unit)}." if seen else "No load."
    answer = otherwise if document is None else headline(document, otherwise)
    verdict, mark = compared_in_words(compared) if compared else ("", "")
    return Told(answer=answer, mark=mark, verdict=verdict, figures=figures_of(seen, unit), parts=parts)


def compared_in_words(compared: Sequence[Seen]) -> tuple[str, str]:
    """Return whether answers come faster at all loads, and how that is marked."""
    both = [s.gain_ends or (s.gain, s.gain) for s in compared]
    verdict, mark = "it depends", OPEN
    if min(low for low, _ in both) > 1:
        verdict, mark = "faster", GOOD
    elif max(high for _, high in both) < 1:
        verdict, mark = "slower", BAD
    return (verdict, mark) if all(s.gain_ends for s in compared) else (f"{verdict}, without an interval", OPEN)


def at(load: float, unit: str) -> str:
    """Return a load in words."""
    return f"{load:,.6g} {unit.removesuffix('s') if load == 1 and unit == 'clients' else unit}"


def figures_of(seen: Sequence[Seen], unit: str) -> list[Figure]:
    """Return what stands out: gains at the first load and the last, and times there."""
    if not seen:
        return []
    compared = [s for s in seen if not math.isnan(s.gain)]
    found = [
        Figure(f"{s.arm}, {at(s.load, unit)}", f"{gain(s.gain)} as fast", span(s.gain_ends))
        for s in (compared if len(compared) < 3 else (compared[0], compared[-1]))
    ]
    last = compared[-1] if compared else seen[-1]
    plain = next((s for s in seen if s.load == last.load and s.arm != last.arm), None)
    for name, key in (("A token, p50", "tpot_p50"), ("First token, p99", "ttft_p99")):
        beside = f"{plain.arm} {as_time(plain.at(key))}" if plain else at(last.load, unit)
        found.append(Figure(f"{name}, {at(last.load, unit)}" if plain else name, as_time(last.at(key)), beside))
    return found


def load_parts(seen: Sequence[Seen], unit: str) -> list[Part]:
    """Return gains, times against load, and both as tables."""
    arms = list(dict.fromkeys(s.arm for s in seen))[:MOST_ARMS]
    pictures: list[Plot | Bars] = [*gain_bars(seen, unit)]
    many = len({s.load for s in seen}) > 1
    if many:
        pictures += [plot for key, name, scale in SHOWN for plot in curves(seen, arms, key, name, scale, unit)]
    else:
        pictures += [bars for key, name, scale in SHOWN[:3] for bars in levels(seen, key, name, scale)]
    return [Part("Times and rates", [], [*pictures, latencies(seen, unit), rates(seen, unit)])]


def gain_bars(seen: Sequence[Seen], unit: str) -> list[Bars]:
    """Return how many times as fast answers come."""
    compared = [s for s in seen if not math.isnan(s.gain)][:MOST_BARS]
    if not compared:
        return []
    bars = [Bar(f"{s.arm}, {at(s.load, unit)}", s.gain, s.gain_ends, written(s)) for s in compared]
    first = next((s.arm for s in seen if math.isnan(s.gain)), "plain")
    caption = f"Whole answers, times as fast as {first}"
    return [Bars(caption, bars, Axis("times as fast", unit="x"), 1.0)]


def written(seen: Seen) -> str:
    """Write a gain with its interval."""
    return gain(seen.gain) + (f" ({span(seen.gain_ends)})" if seen.gain_ends else "")


def curves(seen: Sequence[Seen], arms: Sequence[str], key: str, name: str, scale: float, unit: str) -> list[Plot]:
    """Return a figure against load, a line for each arm."""
    found = []
    for arm in arms:
        own = [s for s in seen if s.arm == arm and not math.isnan(s.at(key))]
        both = [s.ends.get(key, (math.nan, math.nan)) for s in own]
        lows, highs = ([scale * e[i] for e in both] for i in (0, 1))
        if own:
            found.append(Line(arm, [s.load for s in own], [scale * s.at(key) for s in own], lows, highs))
    if not found:
        return []
    xs = sorted({x for line in found for x in line.xs})
    ys = [y for line in found for y in line.ys]
    log = xs[0] > 0 and xs[-1] / xs[0] > 8
    says = "; ".join(
        f"{ln.name}: {ln.ys[0]:.4g} at {ln.xs[0]:,.6g}, {ln.ys[-1]:.4g} at {ln.xs[-1]:,.6g}" for ln in found
    )
    x = Axis(unit, log=log, at=xs if len(xs) < 8 else ())
    return [Plot(name, f"Lines. {says}", found, x, Axis("", log=min(ys) > 0 and max(ys) / min(ys) > 20))]


def levels(seen: Sequence[Seen], key: str, name: str, scale: float) -> list[Bars]:
    """Return a figure of each arm at the only load."""
    bars = []
    for s in seen:
        both = s.ends.get(key)
        known = None if both is None else (scale * both[0], scale * both[1])
        if not math.isnan(s.at(key)):
            bars.append(Bar(s.arm, scale * s.at(key), known, f"{scale * s.at(key):,.4g}"))
    return [Bars(name, bars, Axis(""))] if bars else []


def latencies(seen: Sequence[Seen], unit: str) -> Table:
    """Return latencies, in ms."""
    heads = ["first token p50", "p99", "a token p50", "p95", "p99", "gap p99", "answer p50", "p99"]
    keys = ["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p95", "tpot_p99", "gap_p99", "e2e_p50", "e2e_p99"]
    kept = [i for i, key in enumerate(keys) if any(not math.isnan(s.at(key)) for s in seen)]
    rows = [[f"{s.load:,.6g}", s.arm, *(in_ms(s.at(keys[i])) for i in kept)] for s in seen]
    return Table("Latencies, ms", [unit, "arm", *(heads[i] for i in kept)], rows, keys=2, left=(1,))


def rates(seen: Sequence[Seen], unit: str) -> Table:
    """Return what was done a second, what was accepted, and gains."""
    heads = ("requests", "failed", "a token, mean, ms", "95 %", "tokens/s", "95 %", "tokens a round", "as fast", "95 %")
    cells = [rate_row(s) for s in seen]
    kept = [i for i in range(len(heads)) if any(row[i] for row in cells)]
    rows = [[f"{s.load:,.6g}", s.arm, *(row[i] for i in kept)] for s, row in zip(seen, cells, strict=True)]
    return Table("Rates", [unit, "arm", *(heads[i] for i in kept)], rows, keys=2, left=(1,))


def rate_row(s: Seen) -> Row:
    """Return what an arm did at a load."""
    counts = ["" if count is None else f"{count:,}" for count in (s.requests, s.failed)]
    tpot, rate = s.ends.get("tpot_mean"), s.ends.get("output_tokens_per_s")
    token = [in_ms(s.at("tpot_mean")), "" if tpot is None else span((1e3 * tpot[0], 1e3 * tpot[1]), ".4g", "")]
    tokens = s.at("tokens_a_round")
    done = [
        number(s.at("output_tokens_per_s"), ",.1f"),
        span(rate, ",.1f", ""),
        "" if math.isnan(tokens) else f"{tokens:.3f}",
    ]
    return [*counts, *token, *done, "" if math.isnan(s.gain) else f"{s.gain:.3f}x", span(s.gain_ends, ".3f")]


def accepted_parts(points: Sequence[Field]) -> list[Part]:
    """Return what engines counted of drafts."""
    rows = []
    for point in points:
        found = point["acceptance"]
        if found.is_given:
            places = ", ".join(f"{value(rate):.3f}" for rate in found["survival"].elements())
            counts = [f"{value(found['rounds']):,.0f}", f"{value(found['tokens_per_round']):.3f}"]
            rate = percent(value(found["draft_acceptance_rate"]))
            rows.append(
                [f"{value(point['load']):,.6g}", words(point["arm"]), f"{found['k'].whole()}", *counts, rate, places]
            )
    heads = ("load", "arm", "K", "rounds", "tokens a round", "accepted of drafted", "P(A >= 1), P(A >= 2), ...")
    said = ["By the server's own counters, before and after the load."]
    return [Part("What was accepted", said, [Table("Acceptance", heads, rows, keys=2, left=(1, 6))])] if rows else []


def client_part(document: Field) -> Part:
    """Say what the figures mean, and what the client itself cost."""
    clients = [point["client"] for point in document["points"].elements()]
    known = [c for c in clients if c.is_given]
    said = lines(document["notes"])
    said += [words(document[name]) for name in ("intervals", "tokens_per_s") if document[name].is_given]
    if known:
        lag_s, late_s, cpu = (max(value(c[name]) for c in known) for name in ("lag_p99_s", "late_p99_s", "cpu"))
        said.append(
            f"The client: chunks lay unread for {as_time(lag_s)} at most (p99), requests were sent {as_time(late_s)} "
            f"after they were due (p99), {percent(cpu, 0)} of a core."
        )
    return Part("What is assumed", said)
