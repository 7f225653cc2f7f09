"""How long draws take, said before: as many blocks as the engine draws, to a factor; what cannot end is refused."""

from pathlib import Path

import numpy as np
import pytest

from simulator.cli import running
from simulator.rounds import duration
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.duration import in_words, run_s, sweep_s
from simulator.rounds.engine import draw_blocks
from simulator.rounds.grid import Acceptance, Sweep

from .builders import grid

CASES = [(1, 0.5, 10**15), (4, 0.8, 512), (10, 0.05, 512), (16, 0.99, 10**6), (1024, 0.999, 512), (1024, 0.9, 10**6)]


@pytest.mark.parametrize(("k", "alpha", "total"), CASES)
def test_a_run_is_said_to_take_about_as_many_blocks_as_it_takes(
    k: int, alpha: float, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUCKET_S", "BINOMIAL_S"):
        monkeypatch.setattr(duration, name, 0.0)
    monkeypatch.setattr(duration, "BLOCK_S", 1.0)
    model = IidAcceptance(alpha)
    arguments = (model.law(k)[None], np.array([k]), np.array([total]), np.zeros(1))
    drawn = sum(1 for _ in draw_blocks(*arguments, np.random.default_rng(0), np.random.default_rng(1)))
    said = float(run_s(model.tokens_per_round(np.array(k)), k, total))
    assert drawn / 2.5 < said < drawn * 2.5


def test_a_sweep_takes_its_draws_and_its_points_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "cores", lambda: 2)
    monkeypatch.setattr(duration, "POINT_S", 0.0)
    monkeypatch.setattr(duration, "PRICED_S", 0.0)
    task = Sweep(
        grid=grid(draft_length="1:3", alpha="0.2,0.9", workmem="1:50"), acceptance=Acceptance(), replications=7
    )
    runs = [float(run_s(IidAcceptance(a).tokens_per_round(np.array(k)), k, 512)) for k in (1, 2, 3) for a in (0.2, 0.9)]
    assert sweep_s(task) == pytest.approx(7 * sum(runs) / 2)
    monkeypatch.setattr(duration, "POINT_S", 1.0)
    assert sweep_s(task) == pytest.approx((7 * sum(runs) + 300) / 2)


def test_long_runs_are_announced_and_endless_ones_refused(
    run, user_error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAID_S", 0.0)
    assert run("simulate").stderr == "32 runs of 512 tokens: about 1 second\n"
    assert run("sweep", "--draftN", "1:3").stderr == "3 points x 16 runs: about 1 second\n"
    assert run("sweep", "--draftN", "1:3", "--replications", 0).stderr == "3 points: about 1 second\n"
    monkeypatch.setattr(duration, "cores", lambda: 1)
    endless = ("--draftN", 1024, "--alpha", 0.1, "--total", "1e15", "--replications", 1_000_000)
    user_error(run("simulate", *endless), "--replications: 1,000,000 runs of", "2 days here, expected at most 24 hours")
    done = run("sweep", *endless, "--draft-cost", "0.1:900:0.1", "--out", "s.csv")
    user_error(done, "--replications: 9,000 points x 1,000,000 runs would take")
    # Of the default of 16 runs, the option with most values is what is too large.
    wide = ("--draftN", 1024, "--alpha", "0.1:0.2:0.000001", "--total", "5e14,1e15", "--out", "s.csv")
    user_error(run("sweep", *wide), "--alpha: 200,002 points x 16 runs would take")
    assert list(tmp_path.iterdir()) == []


def test_times_are_said_in_the_largest_unit_that_says_them() -> None:
    times = (0.3, 20, 119, 121, 7199, 7200, 3 * 86_400, 1e9)
    said = "1 second, 20 seconds, 119 seconds, 2 minutes, 120 minutes, 2 hours, 3 days, 32 years"
    assert ", ".join(map(in_words, times)) == said
