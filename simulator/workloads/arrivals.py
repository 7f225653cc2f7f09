"""When requests are sent. Of one state of a generator, times at another rate are the same times on another scale."""

import numpy as np

from simulator.ground.artefacts import UserError

from .requests import Array, Requests


def arrival_times(rng: np.random.Generator, count: int, rate: float, burstiness: float = 1.0) -> Array:
    """Return times of sending in seconds: gaps of a gamma law, as `vllm bench serve` draws them.

    Args:
        rng: What is drawn from.
        count: How many.
        rate: Requests a second in the mean; infinite: all at once.
        burstiness: Shape of the law, whose gaps have the coefficient of variation 1/sqrt(burstiness): 1 is a Poisson
            process, less comes in bursts, more is evener, infinity is constant.

    Unlike that command this stretches no series to end at `count / rate`: its sum is as random as its gaps.
    """
    if not rate > 0:
        raise UserError(f"rate: {rate!r} is not allowed, expected requests a second above 0")
    if not burstiness > 0:
        raise UserError(f"burstiness: {burstiness!r} is not allowed, expected a number above 0")
    if rate == np.inf:
        return np.zeros(count)
    if burstiness == np.inf:
        return np.arange(1, count + 1) / rate
    gaps = rng.standard_gamma(burstiness, count)
    np.cumsum(gaps, out=gaps)
    return np.divide(gaps, burstiness * rate, out=gaps)


def replayed(requests: Requests, speed: float) -> Requests:
    """Return recorded requests sent so many times as fast; what clients think between turns is as much shorter."""
    if not 0 < speed < np.inf:
        raise UserError(f"speed: {speed!r} is not allowed, expected a number above 0, such as 2 for twice as fast")
    return requests._replace(arrival_s=requests.arrival_s / speed, think_s=requests.think_s / speed)


def sent_anew(requests: Requests, arrival_s: Array) -> Requests:
    """Return requests sent at other times, in their order; of a session, its first."""
    times = np.zeros_like(requests.arrival_s)
    first = requests.after < 0
    times[first] = arrival_s[: int(first.sum())]
    return requests._replace(arrival_s=times)
