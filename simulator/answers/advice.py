"""What to do about a load: does speculation pay, how, on how many servers, until when, and what would settle more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from simulator.costs.engines.sglang import ADAPTIVE
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.costs.room import largest_batch
from simulator.costs.step import Floats
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.loads import served

from .comparison import Best, Comparison, Contender, best_of, compare, order
from .latency import Limit, Told
from .live_policies import Live, live_policy, tiers
from .load_curve import MOST_COUNTED, PLAIN, Point, curve
from .load_search import COMPARED, Turning, is_within, turning
from .load_uncertainty import Served, known
from .played import Player, playing
from .scene import CLIENTS, Scene, Traffic
from .schedule import LARGEST_BATCH, Range, schedule
from .ways import Server, accepting, drafted_way, plain_way, usual_context

# Methods that are served request by request: the best at as many clients as run; draws of what is not known.
SHORTLIST, DRAWS = 2, 400
# Servers that are looked at for one load.
MOST_SERVERS = 4096
# Sequences that run at once, and multiples of the load's tokens of one, at which draft lengths are told.
BATCHES, CONTEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 4, 16)
# Times as many requests as are asked for, where so few tell of no load that lasts.
LONGER = 4
# Requests a second and server, below which no number of servers is enough.
LEAST_LOAD = 1e-3


class Asked(NamedTuple):
    """What is asked: traffic and its load over all servers, how a server is set, whose engine, seed.

    share: of requests that have to be within the limits of a scene. spread: see `drafted_way`.
    """

    traffic: Traffic
    load: float
    server: Server
    limits: tuple[Limit, ...]
    share: float
    engine: str
    spread: float | None
    seed: int
    warmup: float


class Way(NamedTuple):
    """A way of speculation that is served.

    contender: its place among those compared. plan: draft lengths by batch size, of one that adapts.
    """

    contender: int
    policy: Live
    draft_length: int
    plan: tuple[Range, ...] = ()


class Question(NamedTuple):
    """What could be measured: of which method, None for the device; by how much knowing it betters the choice.

    changes: how often the choice would be another.
    """

    method: str | None
    gain: float
    changes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What was found.

    point: of all ways of serving, plain decoding first, at what comes to each of `spread_over` servers. servers: that
    each takes for the whole load; None: no number. gains: of each way of speculation. take: the way to take, 0: plain
    decoding. turning: of that, None where it is plain. best: method and draft length, [`BATCHES`, contexts], see
    `best_by`. questions: what could be measured. short: whether runs are too short to tell what a server carries.
    """

    scene: Scene
    comparison: Comparison
    ways: tuple[Way, ...]
    point: Point
    spread_over: int
    servers: tuple[int | None, ...]
    gains: tuple[Told, ...]
    take: int
    turning: Turning | None
    contexts: tuple[int, ...]
    best: tuple[tuple[tuple[str, int], ...], ...]
    questions: tuple[Question, ...]
    short: bool


def advise(contenders: tuple[Contender, ...], asked: Asked, update: Callable[[int], None]) -> Advice:
    """Find out what to do about a load.

    Args:
        contenders: Methods that the engine has, each with what it accepts.
        asked: The load, and how it is served.
        update: Called with 1 after each run.
    """
    traffic, server = asked.traffic, asked.server
    isl, osl = traffic.mean_prompt, traffic.mean_output
    context = min(usual_context(isl, osl), server.longest)
    target = contenders[0].pair
    nothing = plain_way(target.placed_target, server, context, accepting([IidAcceptance(0.0)], target, 1))
    alone = lasting(Scene(traffic=traffic, limits=asked.limits, warmup=asked.warmup, arms=(nothing,)), asked, update)
    with playing(alone, update, 1) as play:
        count, is_told = servers_for(alone, PLAIN, asked, play)
        load = share_of(asked, count or 1)
        (point,) = curve([PLAIN], [load], [asked.seed], play)
    clients = max(round(float(point.arms[PLAIN]["running"][0])), 1)
    comparison = compare(contenders)
    ways = shortlist(comparison, clients, asked.engine)
    arms = [nothing]
    for way in ways:
        of = contenders[way.contender]
        arms.append(drafted_way(way.policy, of.pair, server, [of.acceptance], isl, osl, asked.spread))
    scene = replace(alone, arms=tuple(arms))
    closed = [
        Served(of.pair, of.acceptance, way.draft_length, isl, osl, server.chunk, asked.seed)
        for way in ways
        for of in [contenders[way.contender]]
    ]
    with playing(scene, update, len(arms)) as play:
        (point,) = curve(range(len(arms)), [load], [asked.seed], play)
        counted = [(count, is_told), *(servers_for(scene, arm, asked, play) for arm in range(1, len(arms)))]
        servers = tuple(n for n, _ in counted)
        gains = tuple(known(point, COMPARED, arm, closed[arm - 1]) for arm in range(1, len(arms)))
        take = taken(point, servers)
        last = None
        if take:
            told = partial(known, name=COMPARED, arm=1, served=closed[take - 1])
            # An answer in ten seconds: a plain interpreter serves a thousand requests in one.
            last = turning(scene, [point], take, [asked.seed], play, told, lengths=(1,))
    contexts = tuple(c for times in CONTEXTS if (c := int(times * context)) <= server.longest)
    return Advice(
        scene=scene,
        comparison=comparison,
        ways=ways,
        point=point,
        spread_over=count or 1,
        servers=servers,
        gains=gains,
        take=take,
        turning=last,
        contexts=contexts,
        best=best_by(contenders, contexts),
        questions=questions(contenders, ways, clients, max(int(isl), 1), max(int(osl), 2), asked),
        short=not all(told for _, told in counted),
    )


def lasting(scene: Scene, asked: Asked, update: Callable[[int], None]) -> Scene:
    """Return a scene with as many more requests as it takes for plain decoding to tell whether a server keeps up."""
    most = min(LONGER * scene.traffic.count, MOST_COUNTED)
    while scene.traffic.kind != CLIENTS and scene.traffic.recorded is None and scene.traffic.count < most:
        with playing(scene, update, 1) as play:
            (point,) = curve([PLAIN], [asked.load], [asked.seed], play)
        if not np.isnan(point.arms[PLAIN]["piled_up"][0]):
            break
        scene = replace(scene, traffic=replace(scene.traffic, count=min(2 * scene.traffic.count, most)))
    return scene


def share_of(asked: Asked, count: int) -> float:
    """Return what comes to each of so many servers; clients are whole, and the fullest decides."""
    share = asked.load / count
    return float(np.ceil(share)) if asked.traffic.kind == CLIENTS else share


def servers_for(scene: Scene, arm: int, asked: Asked, play: Player) -> tuple[int | None, bool]:
    """Return how many servers a way of serving takes, each of as much of the load, and whether runs tell that.

    None: no number does. Where a run of one less is too short to tell what is carried, fewer may be enough.
    """
    unknown = set[int]()

    def holds(count: int) -> bool:
        (figures,) = curve([arm], [share_of(asked, count)], [asked.seed], play)[0].arms
        if scene.traffic.kind != CLIENTS and np.isnan(figures["piled_up"][0]):
            unknown.add(count)
        return is_within(scene, figures, asked.share)

    if scene.traffic.kind == CLIENTS and not scene.limits:
        return 1, True
    high = 1
    while not holds(high):
        if high >= MOST_SERVERS or asked.load / high < LEAST_LOAD or share_of(asked, high) == share_of(asked, 2 * high):
            return None, high not in unknown
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, high - 1 not in unknown


def taken(point: Point, servers: Sequence[int | None]) -> int:
    """Return the way to take: of the fewest servers, and of these the one whose answers come first."""
    most = MOST_SERVERS + 1
    return min(range(len(point.arms)), key=lambda arm: (servers[arm] or most, float(point.arms[arm][COMPARED][0])))


def shortlist(comparison: Comparison, clients: int, engine: str) -> tuple[Way, ...]:
    """Return the ways that are served: the best methods at a batch size, at one length and as the engine adapts."""
    at = min(clients, len(comparison.batches))
    found = list[Way]()
    for contender in order(comparison, at)[:SHORTLIST]:
        of = comparison.contenders[contender]
        k = comparison.at(contender, at)[0]
        if not k:
            continue
        found.append(Way(contender, live_policy(f"static:k={k}"), k))
        plan = schedule(of.pair, of.acceptance, of.longest, overlap=False, load=of.load)
        adapts = ADAPTS[engine](plan, of.pair) if len({r.draft_length for r in plan}) > 1 and engine in ADAPTS else None
        if adapts is not None:
            found.append(Way(contender, adapts, k, plan))
    return tuple(found)


def by_ranges(plan: Sequence[Range], _: ModelPair) -> Live:
    """Return vLLM's schedule as a policy."""
    return live_policy(f"vllm-by-batch:ranges={[[r.first, r.last, r.draft_length] for r in plan]}")


def by_last(plan: Sequence[Range], _: ModelPair) -> Live | None:
    """Return TensorRT-LLM's schedule as a policy; None of one that drafts longer in a larger batch."""
    lengths = [r.draft_length for r in plan]
    if lengths != sorted(lengths, reverse=True):
        return None
    return live_policy(f"trt-llm:schedule={{{','.join(f'{r.last}:{r.draft_length}' for r in plan if r.draft_length)}}}")


def by_first(plan: Sequence[Range], pair: ModelPair) -> Live | None:
    """Return SGLang's adaptive steps with one candidate a tier as a policy; None where it does not adapt."""
    if pair.tree is not None or pair.method.engines.sglang not in ADAPTIVE:
        return None
    return tiers([(r.first, r.draft_length) for r in plan])


ADAPTS: dict[str, Callable[[Sequence[Range], ModelPair], Live | None]]
ADAPTS = {"vllm": by_ranges, "trtllm": by_last, "sglang": by_first}


def best_by(contenders: Sequence[Contender], contexts: Sequence[int]) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return the best method and draft length, [batch sizes, contexts]; 0 where nothing pays, -1 where none fits."""
    batches = np.array(BATCHES)
    columns = []
    for context in contexts:
        at = [replace(of, pair=replace(of.pair, context=context)) for of in contenders]
        most = [largest_batch(of.pair) or LARGEST_BATCH for of in at]
        columns.append([best_of(of, batches, last, None) for of, last in zip(at, most, strict=True)])
    return tuple(
        tuple(cell(contenders, [best for best in column], row) for column in columns) for row in range(len(batches))
    )


def cell(contenders: Sequence[Contender], best: Sequence[Best], row: int) -> tuple[str, int]:
    """Return the best method at a batch size, and its draft length."""
    gains = np.array([of.speedup[row] for of in best])
    if np.isnan(gains).all():
        return "", -1
    at = int(np.nanargmax(gains))
    return (contenders[at].name, int(best[at].draft_length[row])) if gains[at] > 1 else ("", 0)


def questions(
    contenders: Sequence[Contender], ways: Sequence[Way], clients: int, isl: int, osl: int, asked: Asked
) -> tuple[Question, ...]:
    """Return what could be measured, what betters the choice most first (its expected value of perfect information).

    What a choice gains that is made knowing one thing, over the one that is best on average: by the closed form, of
    plain decoding and each way at its draft length, whatever else is as expected.
    """
    load, fixed = Load(chunk=asked.server.chunk), {w.contender: w for w in ways}
    if not fixed:
        return ()
    of_device, found = list[Floats](), list[Question]()
    middle = {at: gain_of(contenders[at], way.draft_length, clients, load, isl, osl) for at, way in fixed.items()}
    for at, way in fixed.items():
        of, lengths = contenders[at], np.array([way.draft_length])
        drawn = of.acceptance.sample_tokens_per_round(lengths, stream(asked.seed, at, "advice"), DRAWS)
        gains = gain_of(of, way.draft_length, clients, load, isl, osl, tokens=drawn[:, 0])
        others = [np.full(DRAWS, gain[0]) for other, gain in middle.items() if other != at]
        found.append(Question(of.name, *value_of([gains, *others])))
        sampled = of.pair.sample(stream(asked.seed, 0, "advice"), DRAWS)
        of_device.append(gain_of(replace(of, pair=sampled), way.draft_length, clients, load, isl, osl))
    found.append(Question(None, *value_of(of_device)))
    return tuple(sorted(found, key=lambda question: -question.gain))


def gain_of(
    of: Contender, k: int, clients: int, load: Load, isl: int, osl: int, tokens: Floats | None = None
) -> Floats:
    """Return by how much one way of speculation speeds a load up, of draws of costs or of tokens a round."""
    mean = of.acceptance.tokens_per_round(np.array([k]))[0] if tokens is None else tokens
    pair = replace(of.pair, batch=clients)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.asarray(served(pair, load, isl, osl, k, mean).speedup), nan=0.0).ravel()


def value_of(gains: Sequence[Floats]) -> tuple[float, float]:
    """Return what knowing a draw adds to the best choice, relative, and how often the choice is another by it.

    gains: Of ways of speculation over plain decoding, [draws] each.
    """
    every = np.stack([np.ones(len(gains[0])), *gains])
    means = every.mean(1)
    kept = int(means.argmax())
    return float(every.max(0).mean() / means[kept] - 1), float((every.argmax(0) != kept).mean())
