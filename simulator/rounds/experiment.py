"""Replications of one setting, and their summary: means, speedup and its interval."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.costs.step import Costs, Floats, RoundCost
from simulator.ground.statistics import student95
from simulator.ground.streams import stream

from .acceptance_law import AcceptanceModel
from .analytic import ClosedForm, expected
from .engine import Counts, Ints, draw_blocks, draw_counts, elapsed_s, unroll
from .guesses import shares_of

if TYPE_CHECKING:
    from simulator.ground.chrome_trace import ChromeTrace

    from .arms import Played

Progress = Callable[[int], None]
# Runs drawn together, at first and at most; fewer where laws are wide.
FIRST_RUNS, MOST_RUNS, MOST_BUCKETS = 32, 1 << 12, 1 << 20


class Setting(NamedTuple):
    """One point to simulate.

    total: tokens both arms produce. draft_length: K. costs: scalars. acceptance: what a round accepts.
    overlap: for how many outcomes the next draft is made while the target verifies; 0: none.
    """

    total: int
    draft_length: int
    costs: Costs
    acceptance: AcceptanceModel
    overlap: int = 0

    @property
    def cost(self) -> RoundCost:
        return self.costs.round_cost(self.draft_length)

    @property
    def hit_rate(self) -> float:
        """P(the draft made ahead can be used, given that the round accepted all K)."""
        return shares_of(self.acceptance, self.draft_length, self.overlap)[0]

    @property
    def other_rate(self) -> float:
        """P(the draft made ahead can be used, given that the round did not)."""
        return shares_of(self.acceptance, self.draft_length, self.overlap)[1]

    @property
    def closed_form(self) -> ClosedForm:
        """The long-run expectation for this point."""
        return expected(self.costs, self.acceptance, np.asarray(self.draft_length), overlap=self.overlap)


def replicate(setting: Setting, replications: int, seed: int, progress: Progress = lambda runs: None) -> Counts:
    """Simulate the setting `replications` times; arrays of shape [replications].

    Runs are drawn many at once, all of a batch whatever is asked for: more replications leave the first as they were.
    `progress` is called with how many were done.
    """
    (law, *single), parts, done = drawn_from(setting), [], 0
    other = setting.other_rate
    for number, runs in enumerate(batches(replications, setting.draft_length + 1)):
        laws, (k, total, hit_rate) = np.broadcast_to(law, (runs, law.shape[1])), (np.repeat(v, runs) for v in single)
        streams = stream(seed, number, "acceptance"), stream(seed, number, "hits")
        parts.append(draw_counts(laws, k, total, hit_rate, *streams, np.full(runs, other)))
        progress(min(runs, replications - done))
        done += runs
    joined = {name: np.concatenate([getattr(part, name) for part in parts])[:replications] for name in Counts._fields}
    return Counts(**joined)


def batches(replications: int, width: int) -> Iterator[int]:
    """Yield how many runs are drawn together, until there are enough: the first alone, as events play it."""
    done, most = 0, max(1, min(MOST_RUNS, MOST_BUCKETS // width))
    while done < replications:
        runs = 1 if done == 0 else min(most, max(FIRST_RUNS, done) - done % FIRST_RUNS)
        yield runs
        done += runs


def drawn_from(setting: Setting) -> tuple[Floats, Ints, Ints, Floats]:
    """Return laws, draft lengths, totals and hit rates of a single run, as the engine takes them."""
    law = setting.acceptance.law(setting.draft_length)[None]
    return law, np.array([setting.draft_length]), np.array([setting.total]), np.array([setting.hit_rate])


def play_events(setting: Setting, seed: int, trace: "ChromeTrace") -> "Played":
    """Play replication 0 event by event into the trace: the same rounds as `replicate` draws, one by one."""
    from .arms import PhaseTimes, play

    streams = stream(seed, 0, "acceptance"), stream(seed, 0, "hits")
    blocks = draw_blocks(*drawn_from(setting), *streams, np.array([setting.other_rate]))
    rounds = unroll(blocks, setting.draft_length, stream(seed, 0, "order"))
    cost = setting.cost
    times = PhaseTimes(**{f.name: float(getattr(cost, f.name)) for f in fields(PhaseTimes)})
    return play(times, setting.total, rounds, trace, overlap=bool(setting.overlap))


def interval95(times_s: Floats, baseline_s: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval of baseline over mean time: Student's t on the mean time, then inverted.

    The baseline does not vary, so this is Fieller's interval of the ratio. Where the mean cannot be told
    from 0, the upper end is infinite.

    Args:
        times_s: Times of the replications, shape [..., replications], at least two.
        baseline_s: Shape [...].
    """
    n = times_s.shape[-1]
    mean = times_s.mean(-1)
    half = student95(n - 1) * times_s.std(-1, ddof=1) / np.sqrt(n)
    low = baseline_s / (mean + half)
    high = np.divide(baseline_s, mean - half, out=np.full(mean.shape, np.inf), where=mean > half)
    return low, high


def noise_interval(setting: Setting, times_s: Floats, baseline_s: float) -> tuple[float, float] | None:
    """Return the interval of the speedup, or None where the runs do not tell: one run, or all alike by chance."""
    if len(times_s) < 2:
        return None
    certain = bool(setting.acceptance.law(setting.draft_length).max() == 1)
    if not certain and np.ptp(times_s) == 0:
        return None
    low, high = interval95(times_s, np.asarray(baseline_s))
    return (float(low), float(high)) if np.isfinite(high) else None


class Summary(NamedTuple):
    """Means over the replications; times in ms because people read them.

    speedup is baseline over mean speculative time; simulation_noise_ci95: its interval by the spread of the runs alone,
    None where these do not tell.
    rounds, drafted, accepted and cut_tokens are per run; tokens = rounds + accepted - cut_tokens.
    """

    baseline_ms_per_token: float
    speculative_ms_per_token: float
    speedup: float
    simulation_noise_ci95: tuple[float, float] | None
    draft_ms_per_round: float
    verify_ms_per_round: float
    draft_ms_per_token: float
    verify_ms_per_token: float
    rounds: float
    drafted: float
    accepted: float
    cut_tokens: float
    tokens: int
    tokens_per_round: float
    draft_acceptance_rate: float
    closed_form_speedup: float
    closed_form_speculative_ms_per_token: float
    closed_form_tokens_per_round: float


def summarise(setting: Setting, runs: Counts) -> Summary:
    """Summarise the replications of one setting."""
    cost, form, tokens = setting.cost, setting.closed_form, setting.total
    times_s = elapsed_s(cost, runs)
    rounds, spent_s = float(runs.rounds.mean()), float(times_s.mean())
    drafted = rounds * float(cost.tokens_drafted)
    draft_ms, verify_ms = float(cost.draft_s) * 1e3, float(cost.verify_s) * 1e3
    baseline_s = tokens * float(cost.baseline_s)
    return Summary(
        baseline_ms_per_token=baseline_s / tokens * 1e3,
        speculative_ms_per_token=spent_s / tokens * 1e3,
        speedup=baseline_s / spent_s,
        simulation_noise_ci95=noise_interval(setting, times_s, baseline_s),
        draft_ms_per_round=draft_ms,
        verify_ms_per_round=verify_ms,
        draft_ms_per_token=draft_ms * rounds / tokens,
        verify_ms_per_token=verify_ms * rounds / tokens,
        rounds=rounds,
        drafted=drafted,
        accepted=float(runs.accepted.mean()),
        cut_tokens=float(runs.cut.mean()),
        tokens=tokens,
        tokens_per_round=1 + float(runs.accepted.sum() / runs.rounds.sum()),
        draft_acceptance_rate=float(runs.accepted.mean()) / drafted,
        closed_form_speedup=float(form.speedup),
        closed_form_speculative_ms_per_token=float(form.round_s / form.tokens_per_round) * 1e3,
        closed_form_tokens_per_round=float(form.tokens_per_round),
    )
