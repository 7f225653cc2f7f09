"""How well a gain under load is known: constants and acceptance, as the closed form draws them, and noise of runs."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.rounds.acceptance_law import AcceptanceModel

from .latency import Told
from .load_curve import PLAIN, Point
from .loads import forecast_load


class Served(NamedTuple):
    """What a closed form needs of a load: models, what they accept, K, tokens in and out, and of a step at most.

    servers: that decode, each of which has its part.
    """

    pair: ModelPair
    acceptance: AcceptanceModel
    draft_length: int
    isl: float
    osl: float
    chunk: int
    seed: int = 0
    servers: int = 1


def known(point: Point, name: str, arm: int, served: Served) -> Told:
    """Return a gain with the interval of what is not known of it.

    Relative ends are those of the closed form at as many clients as requests run on average without speculation; what
    runs are off by besides is independent of them.
    """
    gain = point.gain(name, arm)
    clients = max(round(float(point.arms[PLAIN]["running"][0]) / served.servers), 1)
    found = forecast_load(
        replace(served.pair, batch=clients),
        Load(chunk=served.chunk),
        max(int(served.isl), 1),
        max(int(served.osl), 2),
        served.acceptance,
        served.draft_length,
        np.arange(1, served.draft_length + 1),
        served.seed,
    )
    ends = found.speedup_ci95
    if ends is None or not found.speedup or not gain.value > 0:
        return gain
    apart = [np.log(end / found.speedup) for end in ends]
    noise = [np.log(max(end, 1e-9) / gain.value) if np.isfinite(end) else 0.0 for end in (gain.low, gain.high)]
    low, high = (float(np.hypot(a, n)) for a, n in zip(apart, noise, strict=True))
    return Told(gain.value, gain.value * float(np.exp(-low)), gain.value * float(np.exp(high)))
