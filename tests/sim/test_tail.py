"""The tail beyond the measured draft length: exact on its own law, against rivals on published curves, its interval."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.drafters.methods import method_named
from simulator.ground.histogram import AcceptanceHistogram, alpha_iid, tokens_per_round_iid
from simulator.rounds.acceptance_law import HistogramAcceptance
from simulator.rounds.pairs import Curve, curves
from simulator.rounds.tail import Weibull, beyond, extended, fit, with_tail

FROM, TO = 4, 8


def weibull(q: float, b: float, k: int) -> np.ndarray:
    return Weibull(np.array(q), np.array(b)).survival(np.arange(1, k + 1))


def histogram(survival, rounds: float = 1e4, **more) -> AcceptanceHistogram:
    places = np.concatenate(([1.0], survival, [0.0]))
    return AcceptanceHistogram(tuple((-np.diff(places) * rounds).clip(0)), **more)


@given(st.floats(0.05, 0.99), st.floats(0.3, 2.5), st.integers(2, 9))
def test_a_fit_finds_the_law_that_it_is_given(q: float, b: float, k: int) -> None:
    survival = weibull(q, b, k)
    seen = survival[(survival > 1e-8) & (survival < 1 - 1e-8)]
    law = fit(survival)
    if len(seen) > 1:
        assert float(law.q) == pytest.approx(q, rel=1e-6)
        assert float(law.b) == pytest.approx(b, rel=1e-5)
    model = extended(histogram(survival), k + 6)
    assert model.survival[:k] == pytest.approx(survival, abs=1e-12)  # what was measured stays
    if len(seen) == k:
        assert model.survival == pytest.approx(weibull(q, b, k + 6), abs=1e-9)


def test_one_place_goes_on_as_one_alpha_and_certainty_stays_certain() -> None:
    assert extended(histogram([0.7]), 4).survival == pytest.approx(0.7 ** np.arange(1, 5))
    assert extended(histogram([1.0, 1.0]), 4).survival == pytest.approx(np.ones(4))
    assert extended(histogram([0.0, 0.0]), 4).survival == pytest.approx(np.zeros(4))
    # Beyond a place that hardly any round reached, nothing is more likely than that place.
    assert (np.diff(extended(histogram([0.9, 0.1]), 8).survival) <= 0).all()


def at(curve: Curve, k: int) -> float:
    return curve.tokens_at(k)


def one_alpha(curve: Curve) -> float:
    return float(tokens_per_round_iid(alpha_iid(at(curve, FROM), FROM), TO))


def conditionals(curve: Curve) -> np.ndarray:
    survival = np.diff([1, *(at(curve, k) for k in range(1, FROM + 1))])
    return np.clip(survival / np.concatenate(([1.0], survival[:-1])), 1e-3, 1)


def behind(curve: Curve, rates: np.ndarray) -> float:
    last = at(curve, FROM) - at(curve, FROM - 1)
    return at(curve, FROM) + last * float(np.cumprod(rates).sum())


def last_held(curve: Curve) -> float:
    return behind(curve, np.full(TO - FROM, conditionals(curve)[-1]))


def geometric(curve: Curve) -> float:
    slope, level = np.polyfit(np.arange(1, FROM + 1), np.log(conditionals(curve)), 1)
    return behind(curve, np.exp(level + slope * np.arange(FROM + 1, TO + 1)).clip(max=1))


def ours(curve: Curve) -> float:
    model = with_tail(curve.up_to(FROM).acceptance, TO)
    return float(model.tokens_per_round(np.array([TO]))[0])


def of_places(curve: Curve) -> float:
    counted = HistogramAcceptance((histogram(np.cumprod(conditionals(curve))),))
    return float(with_tail(counted, TO).tokens_per_round(np.array([TO]))[0])


LAWS: dict[str, Callable[[Curve], float]] = {
    "one alpha": one_alpha,
    "last conditional held": last_held,
    "geometric decay": geometric,
}
OURS = {"Weibull of places": of_places, "Weibull": ours}


def reaching() -> list[Curve]:
    """Return the published curves of chains that tell of K = 1 to 4, or of 4 places, and of K = 8."""
    return [
        c
        for c in curves()
        if {*range(1, FROM + 1), TO} <= {*c.known} and not method_named(c.method).is_block and c.pair[:2] != "t5"
    ]


def test_eight_drafts_are_forecast_from_four_of_all_published_curves() -> None:
    sizes = {name: np.abs([law(c) / at(c, TO) - 1 for c in reaching()]) for name, law in (LAWS | OURS).items()}
    assert len(reaching()) >= 14
    for name in OURS:
        assert np.median(sizes[name]) <= 0.03
        assert (sizes[name] <= 0.05).mean() >= 0.9
        # The rivals are worse, in the middle and at their worst: what the bar is held by is the law.
        for rival in LAWS:
            assert np.median(sizes[rival]) > 2 * np.median(sizes[name])
            assert sizes[rival].max() > 2 * sizes[name].max()


def test_nine_of_ten_published_figures_lie_in_the_interval_of_the_tail() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for curve in reaching():
        # As sure as can be of what was measured: what is left is the tail's own.
        sure = HistogramAcceptance(tuple(histogram(law, 1e9) for law in curve.up_to(FROM).laws))
        drawn = with_tail(sure, TO).sample_tokens_per_round(np.array([FROM, TO]), rng, 500)
        assert np.ptp(drawn[:, 0]) < 1e-3  # none within what was measured
        low, high = np.quantile(drawn[:, 1], (0.025, 0.975))
        inside.append(low <= at(curve, TO) <= high)
    assert np.mean(inside) >= 0.9


def test_a_tail_is_drawn_from_each_draw_of_what_was_measured() -> None:
    few, many = (with_tail(HistogramAcceptance((histogram([0.7, 0.45, 0.3], n),)), 6) for n in (30, 1e6))
    spreads = [
        np.std(model.sample_tokens_per_round(np.array([6]), np.random.default_rng(0), 400)) for model in (few, many)
    ]
    assert spreads[0] > 3 * spreads[1] > 0
    law = with_tail(HistogramAcceptance((histogram([0.7, 0.45, 0.3], 1.0, is_law=True),)), 6)
    assert np.std(law.sample_tokens_per_round(np.array([6]), np.random.default_rng(0), 400)) > 0


def test_cut_within_what_was_measured_nothing_is_extrapolated() -> None:
    long = extended(histogram([0.8, 0.6]), 5)
    assert (long.measured_to, long.cut(4).measured_to, long.cut(2).measured_to) == (2, 2, 0)
    assert beyond(np.array([0.8, 0.6]), 5).shape == (3,)


EXAMPLE = Path(__file__).parents[2] / "examples/accept_hist_k4.json"
HIST = ("--hist", str(EXAMPLE))
TREE = ("--topk", "2", "--nodes", "4")


def test_a_longer_draft_is_forecast_only_where_that_is_asked_for(run) -> None:
    refused = run("simulate", *HIST, "--draftN", "6")
    assert refused.returncode == 2
    assert f"--draftN: 6 is above k = 4 of {EXAMPLE}, expected 1 to 4, or --extrapolate" in refused.stderr
    found = json.loads(run("simulate", *HIST, "--draftN", "6", "--extrapolate", "--json").stdout)
    assert found["basis"]["condition"].startswith("if acceptance goes on falling as to K = 4")
    assert found["basis"]["caveat"].startswith("beyond K = 4 extrapolated, P(A >= j) = 0.7")
    within = json.loads(run("simulate", *HIST, "--draftN", "3", "--extrapolate", "--json").stdout)
    assert "falling" not in within["basis"]["condition"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--alpha", "0.7"), "--extrapolate: an alpha has no last K, expected --hist FILE or --acceptance PAIR"),
        (
            (*HIST, "--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "eagle3", *TREE),
            "--extrapolate: trees grow from what was measured, expected no --topk",
        ),
        ((*HIST, "--no-measured"), "--extrapolate: one alpha goes on as it is, expected no --no-measured"),
        (
            (*HIST, "--profile", "h100-sxm", "--target-model", "llama-3.1-8b", "--method", "dflash"),
            "--extrapolate: dflash drafts all tokens in one pass, nothing is known beyond K = 4",
        ),
    ],
)
def test_what_has_no_tail_is_refused(run, words, line) -> None:
    result = run("simulate", *words, "--extrapolate")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert line in result.stderr
