"""A server at several loads, with speculation and without, on the same requests: what each comes to.

Runs of one load share their requests and the draws of what is accepted, whatever serves them: what two ways of serving
differ by carries no noise of these.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.serving.fleet import Replicas
from simulator.serving.run import Outcome, gap_edges_s, run
from simulator.serving.settings import Settings
from simulator.workloads.requests import Requests

from .fleets import shares_of
from .latency import (
    BATCHES,
    MEASURES,
    PERCENTILES,
    Limit,
    Seen,
    Told,
    mean,
    meets,
    of_batch,
    percentile,
    seen_of,
    with_interval,
)
from .scene import Scene, Traffic

# A figure of runs: of all their requests, then of each batch of these.
Figure = Floats
Figures = Mapping[str, Figure]
# Of each way of serving what it comes to, by loads in their order.
Looked = Sequence[Mapping[float, Figures]]
PLAIN = 0
# Requests of a run of several servers that are counted, at most, where one alone has fewer.
MOST_COUNTED = 20_000
# Times as long as early answers take half a run has to be; standard deviations that more requests are open by chance.
LASTING, CHANCE = 2.0, 3.0


class Task(NamedTuple):
    """One run: which way of serving, at which load, with which seed.

    servers: How many, 0: as the way has them. longer: times as many requests as the traffic has.
    """

    arm: int
    load: float
    seed: int
    servers: int = 0
    longer: int = 1

    @property
    def key(self) -> str:
        """What tells it from others."""
        more = f" {self.servers}" * (self.servers > 0) + f" x{self.longer}" * (self.longer > 1)
        return f"{self.arm} {self.load!r} {self.seed}{more}"


class Point(NamedTuple):
    """What ways of serving come to at one load; figures by name, see `figures_of`."""

    load: float
    arms: tuple[Figures, ...]

    def told(self, arm: int, name: str) -> Told:
        """Return a figure with its interval."""
        figure = self.arms[arm][name]
        return with_interval(float(figure[0]), figure[1:], most=1.0 if name == "attained" else np.inf)

    def gain(self, name: str, arm: int) -> Told:
        """Return how many times less of something requests take than in plain decoding, batch by batch side by side."""
        plain, drafted = self.arms[PLAIN][name], self.arms[arm][name]
        ratios = np.divide(plain, drafted, out=np.full(plain.shape, np.nan), where=drafted > 0)
        return with_interval(float(ratios[0]), ratios[1:])


Play = Callable[[Sequence[Task]], Iterable[Figures]]


def curve(
    ways: Sequence[int], loads: Sequence[float], seeds: Sequence[int], play: Play, longer: int = 1
) -> list[Point]:
    """Return what ways of serving come to at these loads.

    Args:
        ways: Numbers of those of a scene.
        loads: As the traffic counts them.
        seeds: Of the runs at each load.
        play: What runs tasks, see `played`: one after another or many at once, the answers in their order.
        longer: See `Task`.
    """
    found = iter(play([task._replace(longer=longer) for task in tasks_of(ways, loads, seeds)]))
    return [Point(load, tuple(joined([next(found) for _ in seeds]) for _ in ways)) for load in loads]


def tasks_of(ways: Sequence[int], loads: Iterable[float], seeds: Sequence[int]) -> Iterator[Task]:
    """Yield the runs that a curve is of."""
    return (Task(way, load, seed) for load in loads for way in ways for seed in seeds)


def joined(runs: Sequence[Figures]) -> dict[str, Figure]:
    """Return figures of several runs: their means, and the batches of all; of many runs, each as a batch of its own.

    Batches of one run hang together where a server is nearly full; runs do not.
    """
    found = {}
    for name in runs[0]:
        each = [run[name][:1] for run in runs]
        parts = each if len(runs) >= BATCHES else [run[name][1:] for run in runs]
        found[name] = np.concatenate([[np.mean(each)], *parts])
    return found


def play_one(scene: Scene, task: Task, is_off: Callable[[], bool] | None = None) -> dict[str, Figure]:
    """Run once; is_off: whether nobody wants it any more, asked now and then."""
    requests = traffic_of(scene, task).requests(task.load, task.seed)
    return figures_of(outcome_of(scene, task, requests, is_off=is_off), requests, scene, task)


def traffic_of(scene: Scene, task: Task) -> Traffic:
    """Return what clients send: to more servers more, so that each has about as many, up to a number."""
    count = scene.traffic.count * task.longer
    return replace(scene.traffic, count=max(count, min(count * task.servers, MOST_COUNTED)))


def replicas_of(scene: Scene, task: Task) -> Replicas:
    """Return the servers of a run."""
    replicas = scene.arms[task.arm].replicas
    return replicas._replace(servers=task.servers) if task.servers else replicas


def outcome_of(
    scene: Scene, task: Task, requests: Requests, *, is_logged: bool = False, is_off: Callable[[], bool] | None = None
) -> Outcome:
    """Return what a run comes to, request for request."""
    arm, clients, replicas = scene.arms[task.arm], scene.traffic.clients(task.load), replicas_of(scene, task)
    lengths, seats = (float(requests.prompt.mean()), float(requests.output.mean())), arm.settings.max_num_active_seqs
    front_s = arm.in_front_s(max(min(clients / replicas.servers, seats), 1), *lengths)
    outcome = run(
        as_large(arm.settings, requests),
        requests,
        arm.acceptance,
        arm.costs,
        arm.policy,
        clients=clients,
        seed=task.seed,
        warm=scene.warm(len(requests.prompt), task.load),
        replicas=replicas,
        front_s=front_s,
        is_logged=is_logged,
        is_off=is_off,
    )
    if not clients:
        front_s = arm.in_front_s(outcome.running_s / max(outcome.end_of_run_s, 1e-12) / replicas.servers, *lengths)
    # It was on its way for so long before it came to the scheduler.
    np.subtract(outcome.sent_s, front_s, out=outcome.sent_s)
    return outcome


def as_large(s: Settings, requests: Requests) -> Settings:
    """Return settings of tables that are no larger than these requests need; their plans are the same.

    Where each request has blocks of its own and two to spare, nobody waits for one and nothing is ever evicted.
    """
    count, beside = len(requests.prompt), 3 * (s.k + 1) + s.lookahead + 3 * s.block_size
    longest = int((requests.prompt + requests.output).max()) + beside
    tokens = sum(int(side.sum(dtype=np.int64)) for side in (requests.prompt, requests.output))
    blocks = (tokens + (count + 1) * beside) // s.block_size + s.watermark_blocks
    seats = min(s.max_num_seqs, count)
    return s._replace(
        max_num_seqs=seats,
        max_num_active_seqs=min(s.max_num_active_seqs, seats),
        max_model_len=min(s.max_model_len, longest),
        num_blocks=min(s.num_blocks, blocks),
    )


def figures_of(outcome: Outcome, requests: Requests, scene: Scene, task: Task) -> dict[str, Figure]:
    """Return the figures of a run, each of all requests behind the warm-up and then of their batches."""
    warm = scene.warm(len(requests.prompt), task.load)
    check_served(outcome, requests, warm, scene.traffic.longest)
    counts = counts_of(outcome, requests, warm, scene.arms[task.arm].settings.num_blocks)
    shares = shares_of(outcome, replicas_of(scene, task), warm)
    counts |= {name: np.array([value]) for name, value in shares.items()}
    # What only counts were of makes room.
    none = np.zeros(0)
    outcome = outcome._replace(rounds=none, drafted=none, accepted=none, preempted=none, cached=none)
    every = seen_of(outcome.sent_s, outcome.begun_s, outcome.first_s, outcome.end_s, requests.output)
    seen = every.behind(warm)
    parts = [seen, *batches_of(seen)]
    found: dict[str, Figure] = {}
    for measure in MEASURES:
        values = [getattr(part, f"{measure}_s") for part in parts]
        found[f"{measure}_mean"] = np.array([mean(v) for v in values])
        whole, batches = values[0], values[1:]
        found |= {
            f"{measure}_p{q}": np.array([percentile(whole, q), *(of_batch(v, q) for v in batches)]) for q in PERCENTILES
        }
    found["piled_up"] = np.array([piled_up(outcome.sent_s, outcome.end_s)])
    return found | rates_of(outcome, requests, every, scene.limits, warm) | counts


def check_served(outcome: Outcome, requests: Requests, warm: int, longest: int) -> None:
    """Refuse a run of whose requests none was served that counts."""
    if np.isnan(outcome.end_s[warm:]).all():
        shortest = int(requests.prompt[warm:].min())
        raise UserError(
            f"--max-model-len: {longest:,} tokens leave no place for an answer behind any prompt that counts, of which "
            f"the shortest has {shortest:,}; expected more than {shortest:,}, or shorter prompts (--isl)"
        )


def piled_up(sent_s: Floats, end_s: Floats) -> float:
    """Return the share of what is sent in the second half of a run by which more requests are open at its end.

    Of a server that keeps up as many are open at the end of sending as half-way, but for chance: of three standard
    deviations of independent requests the share is free. NaN: half a run is not much longer than answers take.
    """
    served = ~np.isnan(end_s)
    sent_s, end_s = sent_s[served], end_s[served]
    if not len(sent_s):
        return float("nan")
    first, last = float(sent_s.min()), float(sent_s.max())
    half = (first + last) / 2
    early = sent_s <= (first + half) / 2
    if not half - first >= LASTING * float((end_s - sent_s)[early].mean()):
        return float("nan")
    open_at_half, open_at_end = (int((sent_s <= at).sum() - (end_s <= at).sum()) for at in (half, last))
    chance = CHANCE * math.sqrt(open_at_half + open_at_end + 1)
    return max(open_at_end - open_at_half - chance, 0.0) / int((sent_s > half).sum())


def batches_of(seen: Seen) -> list[Seen]:
    """Return consecutive requests in batches of one size; none where there are too few."""
    size = len(seen.end_s) // BATCHES
    return [Seen(*(v[i * size : (i + 1) * size] for v in seen)) for i in range(BATCHES)] if size else []


def rates_of(
    outcome: Outcome, requests: Requests, every: Seen, limits: tuple[Limit, ...], warm: int
) -> dict[str, Figure]:
    """Return what is served a second, from the first sending that counts to the end of all.

    goodput: requests a second within all limits; attained: their share of all that count.
    """
    begin = float(np.nanmin(outcome.sent_s[warm:]))
    span = max(float(np.nanmax(outcome.end_s)) - begin, 1e-12)
    # Those of the warm-up end meanwhile too, and take their share of the time.
    within, is_good = outcome.end_s > begin, meets(every, limits)
    good = is_good[warm:]
    parts = np.array_split(good, BATCHES) if len(good) >= BATCHES else []
    return {
        "requests_per_s": np.array([within.sum() / span]),
        "output_tokens_per_s": np.array([requests.output[within].sum() / span]),
        "attained": np.array([good.mean(), *(part.mean() for part in parts)]),
        "goodput": np.array([(within & is_good).sum() / span]),
    }


def counts_of(outcome: Outcome, requests: Requests, warm: int, blocks: int) -> dict[str, Figure]:
    """Return counts of a run: what rounds give, what drafts come to, what memory is in use."""
    rounds, drafted, accepted = (getattr(outcome, name)[warm:].sum() for name in ("rounds", "drafted", "accepted"))
    span_s, servers = max(outcome.end_of_run_s, 1e-12), len(outcome.each)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "tokens_a_round": (requests.output[warm:] - 1)[~np.isnan(outcome.end_s[warm:])].sum() / rounds,
            "accepted_of_drafted": accepted / drafted,
            "preempted_a_request": outcome.preempted[warm:].mean(),
            "cached_tokens_a_request": outcome.cached[warm:].mean(),
            "running": outcome.running_s / span_s,
            "waiting": outcome.waiting_s / span_s,
            "kv_used": outcome.block_s / span_s / blocks / servers,
            "kv_used_most": outcome.most_blocks / blocks,
            "busy": outcome.busy_s / span_s / servers,
            "refused": np.isnan(outcome.end_s).sum(),
            "joules_a_token": outcome.joules / requests.output[~np.isnan(outcome.end_s)].sum(),
        }
    found |= {f"gap_p{q}": gap_percentile(outcome.gaps, q) for q in PERCENTILES}
    return {name: np.array([float(value)]) for name, value in found.items()}


def gap_percentile(counts: Floats, q: float) -> float:
    """Return a percentile of gaps between what leaves of one request, from their counts by bins; to 4 %."""
    whole = int(counts.sum())
    if not whole:
        return np.nan
    return float(gap_edges_s()[int(np.searchsorted(np.cumsum(counts), q / 100 * whole))])
