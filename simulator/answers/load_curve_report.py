"""Loads as people and programs read them: the answer first, a table of percentiles, the same as JSON or columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulator.costs.profile import USABLE_MEMORY
from simulator.costs.room import SHARES
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped
from simulator.serving.run import Outcome
from simulator.workloads.requests import Requests

from .basis import Basis
from .fleets import OF_EACH, as_columns, each_server, router_of, shares_in_words
from .latency import Limit, Told, ms, time_text
from .load_curve import PLAIN, Figures, Point
from .load_search import CARRIED, EARLIER, EVERYWHERE, LATER, NOWHERE, SHORT, UNKNOWN, Found, Turning, falls_behind
from .scene import CLIENTS, RATE, SPEED, UNITS, Scene, Traffic, in_full, loaded

KIND = "load_curve"
HEADS = {UNITS[RATE]: "req/s", UNITS[SPEED]: "speed"}
TOO_FEW = ", as far as so few --requests tell"
# What is told in milliseconds to people; seconds inside and in files.
NAMES = {"ttft": "first token", "tpot": "time a token", "e2e": "whole answer", "queueing": "waiting"}


def load_curve_json(
    scene: Scene, found: Found, parameters: Mapping[str, Any], basis: Basis, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return all figures, in seconds, under plain keys."""
    points = []
    for point in found.points:
        sides: dict[str, dict[str, Any]] = {}
        for arm, way in enumerate(scene.arms):
            told = {name: point.told(arm, name) for name in point.arms[arm] if not name.startswith(OF_EACH)}
            sides[way.name] = {name: number(t.value) for name, t in told.items()}
            sides[way.name] |= {
                f"{name}_ci95": [number(t.low), number(t.high)] for name, t in told.items() if is_open(t)
            }
            if servers := each_server(point.arms[arm]):
                sides[way.name] |= {"each_server": servers}
            for name in ("e2e", "tpot", "ttft") if arm else ():
                gain = point.gain(f"{name}_mean", arm)
                sides[way.name] |= {f"{name}_gain": number(gain.value)}
                sides[way.name] |= {f"{name}_gain_ci95": [number(gain.low), number(gain.high)]} if is_open(gain) else {}
        points.append({"load": point.load, **sides})
    drafted = [way.name for way in scene.arms[1:]]
    return envelope(KIND, 1, parameters) | {
        "headline": headline(scene, found, basis),
        "basis": basis._asdict(),
        "unit": scene.traffic.unit,
        "limits": {limit.measure: limit.most_s for limit in scene.limits},
        "points": points,
        "turning": {
            name: t._asdict() | {"ci95": t.ci95 and [number(end) for end in t.ci95]}
            for name, t in zip(drafted, found.turnings, strict=True)
        },
        "known_to": {
            name: [[number(g.value), number(g.low), number(g.high)] for g in gains]
            for name, gains in zip(drafted, found.gains, strict=True)
        },
        "share_within_limits": found.share if scene.limits else None,
        "capacity": {way.name: number(c) for way, c in zip(scene.arms, found.capacities, strict=False)},
        "servers": {way.name: n for way, n in zip(scene.arms, found.servers, strict=False)},
        "servers_tried": {way.name: tried for way, tried in zip(scene.arms, found.tried, strict=False)},
        "warnings": [*warnings, *memory_in_words(scene, found)],
    }


def number(value: float) -> float | None:
    """Return a number as JSON has it; None of what is none."""
    return float(value) if np.isfinite(value) else None


def is_open(told: Told) -> bool:
    """Whether a figure has an interval."""
    return bool(np.isfinite(told.low) and told.high > told.low)


def load_curve_columns(scene: Scene, found: Found) -> dict[str, Any]:
    """Return columns of a table, a row for each load and way of serving."""
    rows = [(point, arm) for point in found.points for arm in range(len(scene.arms))]
    columns: dict[str, Any] = {
        "load": np.array([point.load for point, _ in rows]),
        "serving": np.array([scene.arms[arm].name for _, arm in rows]),
    }
    for name in (name for name in rows[0][0].arms[0] if not name.startswith(OF_EACH)):
        told = [point.told(arm, name) for point, arm in rows]
        columns[unit_of(name)] = np.array([t.value for t in told])
        if any(is_open(t) for t in told):
            columns[f"{unit_of(name)}_low95"] = np.array([t.low for t in told])
            columns[f"{unit_of(name)}_high95"] = np.array([t.high for t in told])
    return columns


def unit_of(name: str) -> str:
    """Return the name of a figure with its unit."""
    measure, _, which = name.partition("_")
    return f"{measure}_{which}_s" if measure in (*NAMES, "gap", "handing") else name


def load_curve_text(scene: Scene, found: Found, heading: str, basis: Basis, warnings: Sequence[str] = ()) -> str:
    """Return the report for a terminal."""
    warnings = [*warnings, *memory_in_words(scene, found)]
    lines = [*(f"warning: {warning}" for warning in warnings), headline(scene, found, basis)]
    # Where nothing drafts, nothing is accepted.
    lines += basis.lines if len(scene.arms) > 1 else basis.lines[-1:]
    if len(scene.arms) > 2:
        unit = scene.traffic.unit
        lines += [f"{way.name} {in_words(found, arm, unit)}" for arm, way in enumerate(scene.arms[1:], 1)]
    last = found.points[-1]
    shares = [(way.name, figures) for way, figures in zip(scene.arms, last.arms, strict=True)]
    lines += [*limits_in_words(scene, found), *beyond_in_words(scene, found)]
    lines += shares_in_words(shares, loaded(last.load, scene.traffic.unit))
    return "\n\n".join([wrapped(lines), wrapped(heading.splitlines()), percentiles_table(scene, found)])


def headline(scene: Scene, found: Found, basis: Basis) -> str:
    """Return the answer as one line: where speculation pays, and by how much at the ends."""
    unit, points = scene.traffic.unit, found.points
    if len(scene.arms) == 1:
        tpot, ttft = (time_text(points[0].told(PLAIN, f"{name}_mean").value) for name in ("tpot", "ttft"))
        return f"{tpot} a token, the first after {ttft}, at {loaded(points[0].load, unit)}."
    said = [in_words(found, arm, unit) for arm in range(1, len(scene.arms))]
    condition = f"{basis.condition[0].upper()}{basis.condition[1:]}" if basis.condition else ""
    if len(said) == 1:
        return f"{condition}, it {said[0]}." if condition else f"It {said[0]}."
    ends = (points[0], points[-1]) if len(points) > 1 else points
    best = [best_at(scene, point) for point in ends]
    told = [*(in_full(point.load) for point in ends[:-1]), loaded(ends[-1].load, unit)]
    where = [f"{name} at {load}" for name, load in zip(best, told, strict=True)]
    if len(set(best)) == 1 < len(ends):
        where = [f"{best[0]} at {told[0]} and at {told[1]}"]
    return f"{condition}{': t' if condition else 'T'}he fastest is {', '.join(where)}."


def in_words(found: Found, arm: int, unit: str) -> str:
    """Say where one way of speculation pays, and by how much at the ends."""
    points = found.points
    ends = (points[0], points[-1]) if len(points) > 1 else points
    gains = [
        f"{as_fast(gain)} at {in_full(point.load)}" for point, gain in zip(ends, found.gains[arm - 1], strict=True)
    ]
    return f"{pays_in_words(found.turnings[arm - 1], unit)}: answers come {', '.join(gains)}"


def best_at(scene: Scene, point: Point) -> str:
    """Say which way is the fastest at a load."""
    arm = min(range(len(scene.arms)), key=lambda at: float(point.arms[at]["e2e_mean"][0]))
    return scene.arms[arm].name


def as_fast(gain: Told) -> str:
    """Return how many times as fast answers come."""
    span = f" ({gain.low:.2f}x to {gain.high:.2f}x)" if is_open(gain) else ""
    return f"{gain.value:.2f}x as fast{span}"


def pays_in_words(turning: Turning, unit: str) -> str:
    """Say at which loads speculation pays."""
    low, high = (in_full(load, 3) for load in (turning.low, turning.high))
    stops, starts = (f"{text}{known_in_words(turning)}" for text in (f"stops paying by {high}", f"pays from {high}"))
    span = f"from {low} to {high} {unit}" if low != high else f"at {loaded(turning.low, unit, 3)}"
    end = {
        CARRIED: ", all that a server carries",
        SHORT: TOO_FEW,
    }.get(turning.ends, ", all that was looked at")
    nothing = "no server keeps up" if turning.ends == CARRIED else "so few --requests tell nothing"
    return {
        EVERYWHERE: f"pays {span}{end}",
        NOWHERE: f"does not pay {span}{end}",
        UNKNOWN: f"is not known to pay {span}: {nothing}",
        EARLIER: f"pays up to {loaded(turning.low, unit, 3)} and {stops}" + ", though not for good" * turning.again,
        LATER: f"does not pay up to {loaded(turning.low, unit, 3)} and {starts}"
        + ", though not always" * turning.again,
    }[turning.pays]


def known_in_words(turning: Turning) -> str:
    """Say where a turning may lie."""
    if turning.ci95 is None:
        return ""
    low, high = turning.ci95
    if np.isnan(low) and np.isnan(high):
        return " (not known how well)"
    first, last = "less" if np.isnan(low) else in_full(low, 3), "more" if np.isnan(high) else in_full(high, 3)
    return f" (95 %: {first} to {last})"


def limits_in_words(scene: Scene, found: Found) -> list[str]:
    """Say what servers carry within limits, and how many are needed."""
    if not found.capacities:
        return []
    unit = scene.traffic.unit
    said = ", ".join(
        f"{way.name} {carried(c, scene.traffic)}" for way, c in zip(scene.arms, found.capacities, strict=True)
    )
    lines = [f"{limit_text(scene.limits)} for {found.share:.0%} of the requests: {said}"]
    if found.wanted is not None:
        needs = ", ".join(
            f"{way.name} {n:,} server{'s' * (n != 1)}" if n is not None else f"{way.name} no number of servers"
            for way, n in zip(scene.arms, found.servers, strict=True)
        )
        how = f"behind a {router_of(scene.arms[PLAIN].replicas)} router"
        if not all(found.tried):
            how = "were the load divided evenly"
        lines.append(f"for {loaded(found.wanted, unit)}: {needs}, {how}")
    return lines


def carried(load: float, traffic: Traffic) -> str:
    """Return the most that is carried in words."""
    if load == 0 or load == np.inf:
        return "at no load" if load == 0 else "at any load"
    return f"up to {loaded(load, traffic.unit, 3)}" + TOO_FEW * (load >= traffic.most_told)


def limit_text(limits: Sequence[Limit]) -> str:
    """Return limits in words."""
    return " and ".join(f"{NAMES[limit.measure]} within {time_text(limit.most_s)}" for limit in limits)


def beyond_in_words(scene: Scene, found: Found) -> list[str]:
    """Say from which load on a server no longer keeps up, where it does not."""
    if scene.traffic.kind == CLIENTS:
        return []
    lines = []
    for arm, way in enumerate(scene.arms):
        over = [point.load for point in found.points if falls_behind(point.arms[arm])]
        if over:
            load = loaded(over[0], scene.traffic.unit)
            lines.append(f"{way.name} falls behind from {load} on: times grow with the number of requests")
    short = [point.load for point in found.points if any(np.isnan(arm["piled_up"][0]) for arm in point.arms)]
    if short:
        count, at = scene.traffic.count, loaded(short[0], scene.traffic.unit)
        few = f"{count:,} requests at {at} are" if count > 1 else f"1 request at {at} is"
        lines.append(f"{few} sent in hardly more time than answers take: more --requests tell of a load that lasts")
    return lines


def memory_in_words(scene: Scene, found: Found) -> list[str]:
    """Say from which load on KV takes what servers of less of the memory would not have."""
    full = [
        point.load
        for point in found.points
        if any(float(a["kv_used_most"][0]) > way.less_room for way, a in zip(scene.arms, point.arms, strict=True))
    ]
    if not full:
        return []
    said = f"from {loaded(full[0], scene.traffic.unit)} on KV takes more room than {SHARES[0]:.0%} of the memory leave"
    return [
        f"{said}, {USABLE_MEMORY:.0%} are counted on, and nobody says which share the engine uses "
        "(--gpu-memory-utilization, --mem-fraction-static)"
    ]


def percentiles_table(scene: Scene, found: Found) -> str:
    """Return P50 and P99 of every way of serving at every load: two side by side, more one below another."""
    if len(scene.arms) > 2:
        return rows_table(scene, found)
    names, drafted = ["plain", "drafts"][: len(scene.arms)], len(scene.arms) > 1
    last = ("within", "limits") if scene.limits else ("tokens", "a second")
    blanks = [("", "")] * drafted
    heads = [("", ""), ("first token", "p50/p99, ms"), *blanks, ("a token", "p50/p99, ms"), *blanks]
    heads += [*[("whole", "answers")] * drafted, last, *blanks]
    below = [HEADS.get(scene.traffic.unit, scene.traffic.unit), *names, *names, *["faster by"] * drafted, *names]
    rows = [[head[0] for head in heads], [head[1] for head in heads], below]
    for point in found.points:
        row = [in_full(point.load), *spans(point, "ttft"), *spans(point, "tpot")]
        row += [f"{point.gain('e2e_mean', 1).value:.2f}x"] if drafted else []
        rows.append([*row, *(last_of(scene, arm) for arm in point.arms)])
    return table(rows)


def rows_table(scene: Scene, found: Found) -> str:
    """Return the same with a row for each way of serving."""
    last = ("within", "limits") if scene.limits else ("tokens", "a second")
    rows = [
        ["", "", "first token", "a token", "answers", last[0]],
        [HEADS.get(scene.traffic.unit, scene.traffic.unit), "", "p50/p99, ms", "p50/p99, ms", "faster by", last[1]],
    ]
    for point in found.points:
        for at, way in enumerate(scene.arms):
            gain = f"{point.gain('e2e_mean', at).value:.2f}x" if at else ""
            told = [spans(point, name)[at] for name in ("ttft", "tpot")]
            rows.append([in_full(point.load) if not at else "", way.name, *told, gain, last_of(scene, point.arms[at])])
    return table(rows)


def spans(point: Point, measure: str) -> list[str]:
    """Return P50 and P99 of every way of serving."""
    return ["/".join(ms(float(arm[f"{measure}_p{q}"][0])) for q in (50, 99)) for arm in point.arms]


def last_of(scene: Scene, figures: Figures) -> str:
    """Return the share of requests within limits; without limits, tokens a second."""
    return f"{figures['attained'][0]:.0%}" if scene.limits else f"{figures['output_tokens_per_s'][0]:,.0f}"


def request_columns(scene: Scene, requests: Requests, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return columns of a table, a row for each request and way of serving; times in seconds of the run."""
    count = len(requests.prompt)
    columns: dict[str, Any] = {
        "serving": np.repeat([way.name for way in scene.arms], count),
        "request": np.tile(np.arange(count), len(outcomes)),
    }
    columns |= {f"{name}_tokens": np.tile(getattr(requests, name), len(outcomes)) for name in ("prompt", "output")}
    times = ("sent_s", "begun_s", "first_s", "end_s", "rounds", "drafted", "accepted", "preempted", "cached")
    columns |= {name: np.concatenate([getattr(outcome, name) for outcome in outcomes]) for name in times}
    return columns | as_columns(outcomes)
