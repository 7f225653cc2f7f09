"""A server step for step against closed forms: what queueing theory says of it, and our own; broken rules are told."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.ground import compiled
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.request_laws import laws_of
from simulator.serving import steps
from simulator.serving.draw_tables import acceptance_of
from simulator.serving.pass_tables import linear_costs, step_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import Outcome, run
from simulator.serving.settings import settings_of
from simulator.serving.steady import steady
from simulator.workloads.requests import Requests, requests_of

ALPHA, K = 0.7, 3
CLOSE: dict[str, Any] = {"async_scheduling": False, "prefix_caching": False, "num_blocks": 1 << 14}


def mean_of_batches(values: Any, batches: int = 12) -> tuple[float, float]:
    """Return a mean with its standard error, from the means of as many consecutive parts."""
    means = np.array([part.mean() for part in np.array_split(values, batches)])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(batches))


def served(requests: Requests, costs: Any, k: int = 0, *, clients: int = 0, seed: int = 0, **settings: Any) -> Outcome:
    acceptance = acceptance_of([laws_of(IidAcceptance(ALPHA), max(k, 1))])
    s = settings_of(**{"k": k, "max_model_len": 4096, **CLOSE, **settings})
    return run(s, requests, acceptance, costs, fixed(k or -1), clients=clients, seed=seed)


STEP_S, MEAN_STEPS, RATE = 0.01, 12, 40.0


def there(seats: int, burst: int = 1) -> Any:
    """Return how many requests are there at times far apart, of steps that take as long whatever they hold."""
    rng = np.random.default_rng(4)
    count = 1000
    sent = np.repeat(np.cumsum(rng.exponential(burst / RATE, count // burst)), burst)
    steps_each = rng.geometric(1 / MEAN_STEPS, count)
    costs = linear_costs(STEP_S, 0.0, tokens=8192)
    outcome = served(requests_of(np.ones(count), steps_each, arrival_s=sent), costs, max_num_seqs=seats)
    at = np.arange(1.0, float(sent[-1]), 4 * MEAN_STEPS * STEP_S)
    return (np.searchsorted(outcome.sent_s, at) - np.searchsorted(np.sort(outcome.end_s), at)).astype(float)


def is_poisson(counts: Any, mean: float) -> bool:
    """Whether mean and variance of counts are those of a Poisson law, within 4 standard errors."""
    n = len(counts)
    off = abs(counts.mean() - mean) / np.sqrt(mean / n), abs(counts.var(ddof=1) / mean - 1) / np.sqrt(2 / n)
    return max(off) < 4


@pytest.mark.statistical
def test_where_seats_never_lack_as_many_are_there_as_the_law_of_poisson_has() -> None:
    """M/G/infinity: rate times the mean time there, which begins half a step before the first step, on average."""
    mean = RATE * (MEAN_STEPS + 0.5) * STEP_S
    assert is_poisson(there(64), mean)
    # Seats lack, and requests come ten at a time.
    assert not is_poisson(there(5), mean)
    assert not is_poisson(there(64, burst=10), mean)


class Answers:
    """Answers at a load of the engine, and alone by other seeds: their mean time and its error."""

    def __init__(self, k: int, load: float, seed: int, count: int, step_s: float = 4e-3, token_s: float = 5e-4) -> None:
        costs, prompt, output, few = linear_costs(step_s, token_s, tokens=8192), 8, 60, 160
        alone = served(requests_of(np.full(few, prompt), np.full(few, output)), costs, k, clients=1, seed=seed + 1000)
        self.alone_s = float((alone.end_s - alone.sent_s).mean())
        # What a request adds to steps.
        self.own_s = token_s * (prompt + (1 + k) * float(alone.rounds.mean()))
        self.rate = load / self.own_s
        sent = np.cumsum(np.random.default_rng(seed).exponential(1 / self.rate, count))
        requests = requests_of(np.full(count, prompt), np.full(count, output), arrival_s=sent)
        outcome = served(requests, costs, k, seed=seed, max_num_seqs=1024)
        self.mean_s, self.error_s = mean_of_batches((outcome.end_s - outcome.sent_s)[count // 10 :])

    def off_kong(self, alone_s: float | None = None) -> float:
        """Return how far they are from L = C1 / (1 - RPS * C2) (Kong et al., arXiv 2605.15051).

        C2: what a request adds to steps; C1: what it takes alone, C2 among it. While it is there others add RPS * L *
        C2.
        """
        return abs(self.mean_s - (alone_s or self.alone_s) / (1 - self.rate * self.own_s))


@pytest.mark.statistical
@pytest.mark.parametrize("k", [0, K])
def test_answers_take_as_long_as_kong_has_it(k: int) -> None:
    """Within 3 standard errors, of less than 6 %."""
    of = Answers(k, 0.3, 7, 500)
    assert of.off_kong() < 3 * of.error_s < 0.18 * of.mean_s
    # Neither what it adds itself is left out, nor what others do.
    assert of.off_kong(of.alone_s - of.own_s) > 3 * of.error_s
    assert of.mean_s - of.alone_s > 3 * of.error_s


@pytest.mark.whole
@pytest.mark.statistical
@pytest.mark.skipif(not compiled.IS_COMPILED, reason="needs numba")
@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("seed", [1, 2])
def test_answers_take_as_long_as_kong_has_it_closely(k: int, load: float, seed: int) -> None:
    """Within 2 % and 3 standard errors of less, where steps are short: a request waits for one to end besides."""
    of = Answers(k, load, seed, 100_000, step_s=1e-2, token_s=4e-4)
    assert of.error_s < 0.02 * of.mean_s
    assert of.off_kong() < 3 * of.error_s + 0.02 * of.mean_s


@lru_cache(maxsize=1)
def pair() -> ModelPair:
    found = load_pricing(DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", method="eagle3")).models
    assert found is not None
    return replace(found, profile=replace(found.profile, engine=None))


class Regime:
    """A closed load, by the core and in closed form: time a token, time to the first, tokens a second."""

    def __init__(self, clients: int, isl: int, osl: int, chunk: int, k: int, seats: int, each: int) -> None:
        self.clients, self.isl, self.osl, self.chunk, self.k, self.seats = clients, isl, osl, chunk, k, seats
        self.models = pair() if k else pair().placed_target
        self.count = each * clients

    def played(self) -> Any:
        """Serve it; the first two requests of each client, and the last, do not count."""
        clients, chunk, k = self.clients, self.chunk, self.k
        rng = np.random.default_rng(0)
        output = np.rint(self.osl * rng.uniform(0.8, 1.2, self.count)).astype(int)
        costs = step_costs(self.models, k, tokens=chunk + clients * (k + 1), sequences=clients)
        room: dict[str, Any] = {"max_num_batched_tokens": chunk, "max_num_seqs": min(self.seats, clients)}
        room |= {"async_scheduling": True, "num_blocks": 1 << 15}
        outcome = served(requests_of(np.full(self.count, self.isl), output), costs, k, clients=clients, **room)
        within = slice(2 * clients, self.count - 2 * clients)
        sent, first, end = (v[within] for v in (outcome.sent_s, outcome.first_s, outcome.end_s))
        tokens = output[within]
        rate = clients * tokens.mean() / (end - sent).mean()
        return np.array([((end - first) / (tokens - 1)).mean(), (first - sent).mean(), rate])

    def closed(self) -> Any:
        """Return what the closed form has of it."""
        drafts = {"draft_length": self.k, "tokens_per_round": (1 - ALPHA ** (self.k + 1)) / (1 - ALPHA)}
        load = self.clients, self.isl, self.osl
        found = steady(self.models, *load, chunk=self.chunk, most_running=self.seats, **(drafts if self.k else {}))
        return np.array([float(v) for v in (found.tpot_s, found.ttft_s, found.output_tokens_per_s)])


# Clients, tokens in and out, of a step, K, seats, requests of each client: alone; prompts beside decoding; few seats;
# many; with drafts; prompts that take several steps.
REGIMES = [
    (1, 512, 64, 8192, 0, 256, 6),
    (4, 1024, 64, 8192, 0, 256, 10),
    (24, 512, 40, 8192, 0, 8, 8),
    (48, 128, 32, 2048, 0, 256, 6),
    (4, 1024, 64, 8192, K, 256, 20),
    (16, 1024, 48, 8192, K, 256, 8),
    (16, 2048, 40, 1024, K, 256, 8),
]


@pytest.mark.parametrize("regime", REGIMES, ids=str)
def test_the_closed_form_of_a_load_is_what_comes_of_it_step_for_step(regime: tuple[int, ...]) -> None:
    """Time a token and tokens a second within 6 %, time to the first token within 12 %."""
    of = Regime(*regime)
    assert (abs(np.log(of.closed() / of.played())) < (0.06, 0.12, 0.06)).all()


def rounds_of(tokens: int) -> tuple[float, float]:
    """Return mean and variance of the rounds that so many tokens take, of which the last is cut: by enumeration."""
    law = np.append(ALPHA ** np.arange(K) * (1 - ALPHA), ALPHA**K)
    left, chances, most = np.eye(tokens + 1)[tokens], list[float](), np.arange(1, tokens + 1)
    while left.sum() > 1e-12:
        after = np.zeros(tokens + 1)
        for accepted, chance in enumerate(law):
            np.add.at(after, np.maximum(most - accepted - 1, 0), chance * left[1:])
        chances.append(float(after[0]))
        after[0], left = 0.0, after
    at, weights = np.arange(1, len(chances) + 1), np.array(chances)
    mean = float(at @ weights)
    return mean, float((at - mean) ** 2 @ weights)


def is_drawn(outcome: Outcome, tokens: int) -> bool:
    """Whether requests take as many rounds as enumeration has it, on average and apart, within 4 standard errors."""
    (mean, variance), n, rounds = rounds_of(tokens), len(outcome.rounds), np.asarray(outcome.rounds, float)
    off = abs(rounds.mean() - mean) / np.sqrt(variance / n), abs(rounds.var() / variance - 1) / np.sqrt(3 / n)
    return max(off) < 4


RULES_CHANGE = pytest.mark.skipif(compiled.IS_COMPILED, reason="rules are exchanged in plain Python")


@pytest.mark.statistical
@RULES_CHANGE
def test_rounds_of_requests_are_as_far_apart_as_their_law_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, costs = requests_of(np.full(400, 5), np.full(400, 33)), linear_costs(STEP_S, 0.0, tokens=8192)
    assert is_drawn(served(requests, costs, K), 32)

    def mean_of(acceptance: Any, seed: int, request: int, category: int, round_: int, *_: int) -> int:
        each = sum(ALPHA**j for j in range(1, K + 1))
        return int((round_ + 1) * each) - int(round_ * each)

    # The mean of all rounds in place of a draw of each: as many tokens, and no tails.
    monkeypatch.setattr(steps, "accepted", mean_of)
    alike = served(requests, costs, K)
    assert alike.rounds.mean() == pytest.approx(rounds_of(32)[0], rel=0.06)
    assert not is_drawn(alike, 32)


@pytest.mark.statistical
@RULES_CHANGE
def test_drafts_that_are_not_charged_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    charged = steps.add

    def free(costs: Any, totals: Any, new: int, context: int, drafts: int, *of: Any) -> None:
        charged(costs, totals, new - drafts, context, 0, *of)

    monkeypatch.setattr(steps, "add", free)
    regime = Regime(24, 128, 32, 2048, 16, 256, 6)
    assert abs(np.log(regime.closed() / regime.played())[0]) > 0.06
    answers = Answers(K, 0.3, 7, 500)
    assert answers.off_kong() > 3 * answers.error_s
