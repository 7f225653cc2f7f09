"""Loads that are looked for: where speculation stops paying, what a server carries, how many servers it takes."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from .latency import Told
from .load_curve import PLAIN, Figures, Point, Task, curve, joined, tasks_of
from .played import Player
from .scene import CLIENTS, Scene

# How narrow a search gets, as a ratio of loads; how often a load is doubled to find one that is too much.
NARROW, DOUBLINGS, DOUBLINGS_BEYOND = 1.02, 20, 10
# A server on which such a share of what is sent piles up does not keep up.
FALLS_BEHIND = 0.02
# Servers that are tried side by side, at most.
MOST_SERVERS = 64
# A gain's end that is no more than nothing.
LEAST = 1e-9
# What is compared: the time of whole answers.
COMPARED = "e2e_mean"
LATER, EARLIER, EVERYWHERE, NOWHERE, UNKNOWN = "above", "below", "everywhere", "nowhere", "unknown"
# Times as many requests as are asked for, where so few tell of no load that goes on.
LONGER = (1, 4)
# All that a server carries; all that runs of so few requests tell of.
CARRIED, SHORT = "carried", "short"


class Turning(NamedTuple):
    """Where speculation stops paying, or starts to.

    pays: `EARLIER`, at loads below; `LATER`, above; `EVERYWHERE` or `NOWHERE` of those looked at; `UNKNOWN`: runs of
    none tell. low, high: the last
    load of the one kind and the first of the other, by the middles of intervals. again: whether it is otherwise at some
    load beyond. ci95: where it may lie, as well as gains are known; NaN: at or beyond the last load there; None: nobody
    knows how well. ends: why no load beyond `high` was looked at, where servers or runs end there: `CARRIED`, `SHORT`.
    """

    pays: str
    low: float
    high: float
    again: bool = False
    ci95: tuple[float, float] | None = None
    ends: str = ""


class Found(NamedTuple):
    """What was found of a scene.

    points: At each load. turnings: where each way of speculation stops paying. gains: of whole answers at the first
    load and the last, as well as they are known, of each of these ways. capacities: the most that each way of serving
    carries within the limits; empty without limits. share: of requests that have to be within them. wanted: a load that
    servers are counted for. servers: so many of each way of serving; None: no number is enough. tried: whether as many
    were tried behind a router, or the load of one was divided into the other.
    """

    points: tuple[Point, ...]
    turnings: tuple[Turning, ...] = ()
    capacities: tuple[float, ...] = ()
    share: float = 0.9
    wanted: float | None = None
    gains: tuple[tuple[Told, ...], ...] = ()
    servers: tuple[int | None, ...] = ()
    tried: tuple[bool, ...] = ()


def turning(
    scene: Scene,
    points: Sequence[Point],
    arm: int,
    seeds: Sequence[int],
    play: Player,
    known: Callable[[Point], Told],
    lengths: Sequence[int] = LONGER,
) -> Turning:
    """Return where speculation stops paying, by the time of whole answers, between the loads of a curve and closer.

    Of one load: at that load and beyond, as far as a server keeps up. known: The gain at a point of plain decoding and
    this way, with its interval. lengths: of runs that are tried, as multiples.
    """
    both = (PLAIN, arm)
    points = [Point(point.load, (point.arms[PLAIN], point.arms[arm])) for point in points]
    points = [lasting(scene, both, p.load, seeds, play, lengths) if is_short(scene, p) else p for p in points]
    told = [point for point in points if ends_at(scene, point) is None]
    if not told:
        load = points[0].load
        return Turning(UNKNOWN, load, points[-1].load, ends=ends_at(scene, points[0]) or "")
    stopped = next((point for point in points if point.load > told[-1].load), None)
    if len(points) == 1:
        told, stopped = beyond(scene, both, told[0], seeds, play, lengths)
    why = (ends_at(scene, stopped) if stopped else None) or ""
    signs = [point.gain(COMPARED, 1).value > 1 for point in told]
    change = next((i for i in range(1, len(signs)) if signs[i] != signs[i - 1]), None)
    points = told
    if change is None:
        last = points[-1].load
        if stopped and len(signs) and why == CARRIED:
            last = narrowed(
                last,
                stopped.load,
                lambda load: ends_at(scene, lasting(scene, both, load, seeds, play, lengths)) is None,
                whole=scene.traffic.kind == CLIENTS,
            )[0]
        return Turning(EVERYWHERE if signs[0] else NOWHERE, points[0].load, last, ends=why)
    is_before = signs[change - 1]

    def is_same(load: float) -> bool:
        points.append(curve(both, [load], seeds, play)[0])
        return (points[-1].gain(COMPARED, 1).value > 1) == is_before

    ends, whole = (points[change - 1].load, points[change].load), scene.traffic.kind == CLIENTS
    low, high = narrowed(*ends, is_same, whole=whole, ahead=lambda loads: play.ahead(tasks_of(both, loads, seeds)))
    ci95 = unsure(points, low, high, known, is_before)
    return Turning(EARLIER if is_before else LATER, low, high, is_before in signs[change:], ci95)


def unsure(
    points: Sequence[Point], low: float, high: float, known: Callable[[Point], Told], is_before: bool
) -> tuple[float, float] | None:
    """Return where a turning may lie that was found between two loads; is_before: whether speculation pays below."""
    rising = sorted(points, key=lambda point: point.load)
    first = crossing([p for p in rising if p.load <= low][::-1], known, is_before)
    last = crossing([p for p in rising if p.load >= high], known, not is_before)
    return None if first is None or last is None else (first, last)


def crossing(points: Sequence[Point], known: Callable[[Point], Told], pays: bool) -> float | None:
    """Return from which load on it is sure that speculation pays, or that it does not.

    Intervals of gains hold 1 up to there, and no further; between two loads their ends are lines in logarithms.

    Args:
        points: From where gains are 1 outwards.
        known: The gain there, with its interval.
        pays: Whether gains are above 1 further out.
    """

    @cache
    def margin(at: int) -> float:
        told = known(points[at])
        return math.log(max(told.low, LEAST)) if pays else -math.log(max(told.high, LEAST))

    low, high = 0, len(points)
    while low < high:
        middle = (low + high) // 2
        if math.isnan(margin(middle)):
            return None
        low, high = (low, middle) if margin(middle) > 0 else (middle + 1, high)
    if low == len(points):
        return math.nan
    if low == 0:
        return points[0].load
    one, other = points[low - 1].load, points[low].load
    return float(one * (other / one) ** (margin(low - 1) / (margin(low - 1) - margin(low))))


def beyond(
    scene: Scene, both: Sequence[int], first: Point, seeds: Sequence[int], play: Player, lengths: Sequence[int]
) -> tuple[list[Point], Point | None]:
    """Return points at doubled loads, until speculation pays otherwise than at first, and one that tells no more."""
    found = [first]
    for _ in range(DOUBLINGS_BEYOND):
        load = 2 * found[-1].load
        if load > scene.traffic.most_told:
            return found, Point(load, ())
        point = lasting(scene, both, load, seeds, play, lengths)
        if ends_at(scene, point) is not None:
            return found, point
        found.append(point)
        if (point.gain(COMPARED, 1).value > 1) != (first.gain(COMPARED, 1).value > 1):
            break
    return found, None


def lasting(
    scene: Scene,
    ways: Sequence[int],
    load: float,
    seeds: Sequence[int],
    play: Player,
    lengths: Sequence[int] = LONGER,
) -> Point:
    """Return what ways of serving come to at a load, in runs as long as it takes to tell of one that goes on."""
    for longer in lengths:
        (point,) = curve(ways, [load], seeds, play, longer)
        if not is_short(scene, point):
            break
    return point


def is_short(scene: Scene, point: Point) -> bool:
    """Whether more requests would tell more: of a recording there are no more, and of clients few come back."""
    return scene.traffic.recorded is None and scene.traffic.kind != CLIENTS and ends_at(scene, point) == SHORT


def ends_at(scene: Scene, point: Point) -> str | None:
    """Return why a load tells nothing of one that goes on: no way of serving keeps up, or runs are too short."""
    if point.load > scene.traffic.most_told:
        return SHORT
    if scene.traffic.kind == CLIENTS or any(is_carried(scene, figures) for figures in point.arms):
        return None
    return CARRIED if all(falls_behind(figures) for figures in point.arms) else SHORT


def falls_behind(figures: Figures) -> bool:
    """Whether requests pile up while more come."""
    return bool(figures["piled_up"][0] > FALLS_BEHIND)


def is_carried(scene: Scene, figures: Figures) -> bool:
    """Whether a server keeps up with a load that goes on; clients wait for it. A short run tells of no such load."""
    return scene.traffic.kind == CLIENTS or bool(figures["piled_up"][0] <= FALLS_BEHIND)


def narrowed(
    low: float,
    high: float,
    holds: Callable[[float], bool],
    *,
    whole: bool,
    ahead: Callable[[Iterable[float]], None] = lambda _: None,
) -> tuple[float, float]:
    """Halve, in logarithms, what lies between a load where something holds and one where it does not.

    ahead: Is told of the loads that may be asked for next, before one is.
    """
    while (middle := between(low, high, whole=whole)) is not None:
        ahead(to_come(low, high, whole=whole))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high


def between(low: float, high: float, *, whole: bool) -> float | None:
    """Return the load in the middle; None where two are close enough."""
    if high <= NARROW * low or (whole and high - low <= 1):
        return None
    middle = float(np.sqrt(low * high))
    return float(np.clip(round(middle), low + 1, high - 1)) if whole else middle


def to_come(low: float, high: float, *, whole: bool) -> Iterator[float]:
    """Yield the loads that halving may look at: the next, those behind either answer, and so on."""
    ends = deque([(low, high)])
    while ends:
        low, high = ends.popleft()
        if (middle := between(low, high, whole=whole)) is not None:
            yield middle
            ends += [(low, middle), (middle, high)]


def capacity(scene: Scene, arm: int, start: float, share: float, seeds: Sequence[int], play: Player) -> float:
    """Return the largest load at which so large a share of the requests is within all limits; 0: none, inf: any.

    It is looked for up to what runs tell of, `Traffic.most_told`.

    Args:
        scene: What is compared.
        arm: Which way of serving.
        start: A load to begin at.
        share: From 0 to 1.
        seeds: Of runs.
        play: What runs them.
    """
    alone = (arm,)

    def holds(load: float) -> bool:
        (figures,) = lasting(scene, alone, load, seeds, play).arms
        return is_within(scene, figures, share)

    whole, most = scene.traffic.kind == CLIENTS, scene.traffic.most_told
    near = min(start, most)
    grows = holds(near)
    for _ in range(DOUBLINGS):
        far = near * (2 if grows else 0.5)
        far = min(max(float(round(far)), 1.0), most) if whole else far
        if far == near:
            return near if grows else 0.0
        if holds(far) != grows:
            low, high = (near, far) if grows else (far, near)
            return narrowed(
                low, high, holds, whole=whole, ahead=lambda loads: play.ahead(tasks_of(alone, loads, seeds))
            )[0]
        near = far
    return np.inf if grows else 0.0


def is_within(scene: Scene, figures: Figures, share: float) -> bool:
    """Whether so large a share of the requests is within all limits, and a server goes on like that."""
    return float(figures["attained"][0]) >= share and is_carried(scene, figures)


def servers_for(
    scene: Scene, arm: int, carried: float, wanted: float, share: float, seeds: Sequence[int], play: Player
) -> tuple[int | None, bool]:
    """Return how many servers a load takes, and whether they were tried behind their router.

    A router fills them unevenly, and many together carry what chance would make too much for one: from where a load
    is divided evenly, one more or one less is tried.

    Args:
        scene: What is compared.
        arm: Which way of serving.
        carried: What one server carries.
        wanted: The load.
        share: Of requests within limits, as for one server.
        seeds: Of runs.
        play: What runs them.
    """
    if not 0 < carried < np.inf:
        return (1 if carried else None), True
    even = int(np.ceil(wanted / carried))
    if scene.traffic.recorded is not None or even > MOST_SERVERS:
        return even, even == 1

    def of(servers: int) -> Figures:
        runs = list(play([Task(arm, wanted, seed, servers) for seed in seeds]))
        return joined(runs)

    count, figures = even, of(even)
    if np.isnan(figures["piled_up"][0]) and scene.traffic.kind != CLIENTS:
        return even, False
    if not is_within(scene, figures, share):
        while not is_within(scene, figures, share):
            count += 1
            if count > 2 * even + 2:
                return even, False
            figures = of(count)
        return count, True
    while count > 1 and wanted <= (count - 1) * scene.traffic.most_told and is_within(scene, of(count - 1), share):
        count -= 1
    return count, True
