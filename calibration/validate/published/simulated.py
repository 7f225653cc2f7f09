"""Throughputs of a load that was sent request by request, as the simulated server has them."""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from calibration.published.loads import Load
from simulator.costs.model_costs import ModelPair
from simulator.costs.room import room
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import tokens_per_round_iid
from simulator.serving.draw_tables import Laws, acceptance_of
from simulator.serving.draws import Acceptance
from simulator.serving.pass_tables import step_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import run
from simulator.serving.settings import Settings, settings_of
from simulator.workloads.requests import Requests, requests_of

Floats = NDArray[np.float64]
# Orders of chance of answers of many lengths, of which a row's figure is the mean: its own order is not published.
ORDERS = 5
BLOCK, MOST_BLOCKS = 16, 1 << 18
# Answers that are made ready for a window, by those that the closed form has of it; and one for each client besides.
SPARE = 1.05


def simulated(models: ModelPair, load: Load, clients: int, k: int, tau: float, lasting: float) -> float:
    """Return the tokens a second of some clients.

    Args:
        models: A pair, none of it sampled; its target alone where k is 0.
        load: How requests are sent, and counted.
        clients: Each waits for an answer before it asks again.
        k: Drafts a round.
        tau: Tokens that a round yields on average.
        lasting: Tokens a second that the closed form has of it, by which requests are made ready for a window.
    """
    count = load.requests(clients)
    if load.window_s is not None:
        count = round(SPARE * lasting * load.window_s / load.osl) + clients
    orders = [requests_of_load(load, count, order) for order in range(ORDERS if load.spread else 1)]
    settings = settings_for(models, load, clients, int(orders[0].output.max()), k)
    costs = step_costs(
        models if k else models.placed_target,
        k,
        tokens=load.max_num_batched_tokens,
        sequences=min(clients, load.max_num_seqs),
    )
    # What lies in front of a request keeps its client from its place, whatever runs meanwhile.
    front_s = float(models.placed_target.engine.in_front_s(clients)) * count / clients
    found = []
    for order, requests in enumerate(orders):
        served = run(settings, requests, yielding(k, tau), costs, fixed(k or -1), clients=clients, seed=order)
        slower = 1 + front_s / served.end_of_run_s
        end_s = served.end_s * slower
        begin_s, until_s = 0.0, float(end_s.max())
        if load.window_s is not None:
            begin_s = float(served.first_s.min()) * slower
            until_s = float(end_s[end_s >= load.window_s].min(initial=until_s))
        found.append(float(requests.output[end_s <= until_s].sum()) / (until_s - begin_s))
    return float(np.mean(found))


def requests_of_load(load: Load, count: int, order: int) -> Requests:
    """Return requests whose lengths are the middles of equal parts of their law, in an order of chance."""
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    lengths = np.exp(load.spread * np.random.default_rng(order).permutation(normal))
    scaled = load.osl * lengths / lengths.mean()
    for _ in range(8 * (load.most is not None)):
        scaled = np.minimum(scaled * load.osl / scaled.mean(), load.most or np.inf)
    return requests_of(np.full(count, round(load.isl)), np.maximum(np.rint(scaled), 1).astype(np.int64))


def settings_for(models: ModelPair, load: Load, clients: int, longest: int, k: int) -> Settings:
    """Return the scheduler's settings: as much KV as the devices have beside the models."""
    context = load.isl + load.osl / 2
    places = float(room(models if k else models.placed_target, context)) * context
    most = round(load.isl) + longest + k + 1
    blocks = MOST_BLOCKS if np.isinf(places) else min(int(places) // BLOCK, MOST_BLOCKS)
    if blocks * BLOCK < most:
        raise UserError(f"load: a request of {most:,} tokens does not fit into memory, expected one that does")
    return settings_of(
        num_blocks=blocks,
        max_model_len=most,
        max_num_batched_tokens=load.max_num_batched_tokens,
        max_num_seqs=min(clients, load.max_num_seqs),
        prefix_caching=False,
        k=k,
        lookahead=k,
    )


def yielding(k: int, tau: float) -> Acceptance:
    """Return rounds that yield so many tokens on average, spread evenly over positions."""
    grid = np.linspace(0.0, 1.0, 10_001)
    alpha = float(np.interp(tau, tokens_per_round_iid(grid, k), grid)) if k else 0.0
    drafts, place = np.arange(k + 1)[:, None], np.arange(1, max(k, 1) + 1)
    return acceptance_of([Laws(np.where(place <= drafts, alpha**place, 0.0)[None])])
