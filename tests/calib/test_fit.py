"""Fits of probes whose truth is known: recovered within their errors, robust, blind to points that are held out."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from calibration.fit.fit import Fit, Form, best_fit, fit, run_s
from calibration.sources.probe import Observations, observations
from simulator.costs.profile import Curve, PassCost, constant

from .made_probe import (
    AXES,
    BURN_COST,
    BURNS,
    CURVED_COST,
    PRODUCT_COST,
    PRODUCTS,
    UNITS,
    made_point,
    made_points,
    true_s,
)

KNOTS = (1.0, 8.0, 64.0)
CURVED = Form(flop_knots=KNOTS)
CANDIDATES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)


def made(cost: PassCost, noise: float, seed: int | list[int] = 0, probes=PRODUCTS, **more) -> Observations:
    return observations(made_points({"empty": {}, **probes}, cost, noise, np.random.default_rng(seed), **more), UNITS)


def truth(rng: np.random.Generator, *, curved: bool) -> PassCost:
    """Draw a device. Of a curve every knot shows: its arithmetic takes 0.6 to 2 times as long as the memory."""
    mem_scale = float(np.exp(rng.uniform(np.log(2e-13), np.log(2e-12))))
    flop_scale = constant(float(np.exp(rng.uniform(np.log(1e-15), np.log(1e-14)))))
    if curved:
        # A product over t tokens does t FLOP a byte of its weights, in bfloat16.
        flop_scale = Curve(np.array(KNOTS), mem_scale / np.array(KNOTS) * rng.uniform(0.6, 2, 3))
    launch_s = float(np.exp(rng.uniform(np.log(1e-6), np.log(2e-5))))
    return PassCost(
        flop_scale=flop_scale,
        mem_scale=constant(mem_scale),
        launch_s=launch_s,
        overlap_exponent=1 / rng.uniform(0.1, 1),
    )


def off_in_errors(found: Fit, cost: PassCost) -> np.ndarray:
    """Return how far each free parameter is from the truth, in its own standard errors; an exponent by 1/m."""
    values, true = found.cost.parameters(), cost.parameters()
    ratios = {name: true[name] / values[name] for name in found.relative_errors}
    ratios |= {name: 1 / ratio for name, ratio in ratios.items() if name == "overlap_exponent"}
    return np.array([abs(1 - ratios[name]) / error for name, error in found.relative_errors.items()])


@pytest.mark.statistical
def test_every_free_parameter_is_within_three_standard_errors_in_95_of_100_cases() -> None:
    off = np.zeros(100)
    for case in range(len(off)):  # half of them curves, two noises
        rng = np.random.default_rng([case, 7])
        cost, form = truth(rng, curved=case % 2 == 1), CURVED if case % 2 else Form()
        noise = (0.003, 0.02)[case // 2 % 2]
        off[case] = off_in_errors(fit(made(cost, noise, [case, 8]), form), cost).max()
    assert np.mean(off <= 3) >= 0.95
    # Negative controls: errors understated four times, and a truth that is 5 percent off.
    assert np.mean(off <= 3 / 4) < 0.6
    for case in range(5):
        found = fit(made(PRODUCT_COST, 0.003, [case, 9]), Form())
        assert off_in_errors(found, PRODUCT_COST.scaled({"mem_scale": 1.05})).max() > 3


def test_no_overlap_and_full_overlap_are_found() -> None:
    for exponent, seed in product((1.0, np.inf), range(5)):
        cost = replace(PRODUCT_COST, overlap_exponent=exponent)
        found = fit(made(cost, 0.003, seed), Form())
        # At the bound it is certain; where it is free, the truth is within its error.
        if "overlap_exponent" in found.at_bounds:
            assert found.cost.overlap_exponent == exponent
        else:
            m = float(found.cost.overlap_exponent)
            assert abs(1 / m - 1 / exponent) <= 3 * found.relative_errors["overlap_exponent"] / m
        values = found.cost.parameters()
        for name in ("flop_scale[0]", "mem_scale[0]", "launch_s"):
            assert values[name] == pytest.approx(cost.parameters()[name], rel=3 * found.relative_errors[name])


def test_without_noise_the_truth_comes_back() -> None:
    for cost, form, probes in (
        (BURN_COST, Form(), BURNS),
        (PRODUCT_COST, Form(), PRODUCTS),
        (CURVED_COST, CURVED, PRODUCTS),
        (replace(PRODUCT_COST, launch_s=3e-6, fixed_s=0.0), Form(), PRODUCTS),
    ):
        found = fit(made(cost, 0.0, probes=probes), form)
        assert found.converged
        assert found.cost.parameters() == pytest.approx(cost.parameters(), rel=1e-3)
        assert np.abs(found.residuals).max() < 1e-4


def test_a_launch_that_takes_no_time_is_taken_out() -> None:
    cost = replace(PRODUCT_COST, launch_s=0.0)
    found = fit(observations(made_points(PRODUCTS, cost, 0.003, np.random.default_rng(1)), UNITS), Form())
    values, errors = found.cost.parameters(), found.relative_errors
    assert values["launch_s"] == 0 or values["launch_s"] <= 3 * errors["launch_s"] * values["launch_s"]
    assert values["mem_scale[0]"] == pytest.approx(cost.parameters()["mem_scale[0]"], rel=0.01)


@pytest.mark.statistical
def test_the_curve_is_found_and_what_hides_behind_the_memory_is_not_made_up() -> None:
    seen = made(CURVED_COST, 0.003)
    found = best_fit(seen, CANDIDATES)
    assert len(found.form.flop_knots) >= 3
    assert np.abs(run_s(found.cost, seen) / run_s(CURVED_COST, seen) - 1).max() < 0.08
    # The negative control: one value for all sizes is far off.
    assert np.abs(run_s(fit(seen, Form()).cost, seen) / run_s(CURVED_COST, seen) - 1).max() > 0.15
    # It is monotone whatever the points say.
    rising = replace(CURVED_COST, flop_scale=Curve(np.array(KNOTS), CURVED_COST.flop_scale.seconds[::-1] / 30))
    assert np.all(np.diff(fit(made(rising, 0.003), CURVED).cost.flop_scale.seconds) <= 0)
    # Small passes a tenth as long as the memory takes: nothing shows how slow they compute.
    hidden = Curve(np.array(KNOTS), CURVED_COST.flop_scale.seconds * [0.1, 0.1, 1.0])
    for seed in range(2):
        own = best_fit(made(replace(CURVED_COST, flop_scale=hidden), 0.003, seed), CANDIDATES)
        assert max(own.relative_errors[name] for name in own.form.flop_names) <= 0.35


def test_one_value_is_preferred_where_there_is_no_curve() -> None:
    chosen = [best_fit(made(PRODUCT_COST, 0.005, seed), CANDIDATES[::2]).form.flop_knots for seed in range(4)]
    assert chosen.count((1.0,)) >= 3


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_one_point_half_off_moves_no_time_by_2_percent_and_the_exponent_by_5(factor: float) -> None:
    seen = made(PRODUCT_COST, 0.003)
    before = fit(seen, Form()).cost.parameters()
    for place in np.flatnonzero(~seen.held_out)[::6]:
        seconds = seen.seconds.copy()
        seconds[place] *= factor
        after = fit(replace(seen, seconds=seconds), Form())
        for name, value in after.cost.parameters().items():
            tolerance = 0.05 if name == "overlap_exponent" else 0.02
            assert value == pytest.approx(before[name], rel=tolerance, abs=1e-12), seen.labels[place]
        assert after.residuals[place] == pytest.approx(factor - 1, abs=0.05)


def test_points_that_are_held_out_never_reach_the_fit() -> None:
    seen = made(PRODUCT_COST, 0.01)
    assert 0.2 < seen.held_out.mean() < 0.4
    odd = np.where(seen.held_out, seen.seconds * np.random.default_rng(0).uniform(0.1, 10, len(seen)), seen.seconds)
    before, after = (fit(s, Form()) for s in (seen, replace(seen, seconds=odd)))
    assert after.cost.parameters() == before.cost.parameters()
    assert (after.relative_errors, after.bic) == (before.relative_errors, before.bic)
    assert np.array_equal(after.residuals[~seen.held_out], before.residuals[~seen.held_out])
    assert not np.isclose(after.residuals[seen.held_out], before.residuals[seen.held_out]).any()
    # The negative control: a fitted point does reach it.
    odd = np.where(~seen.held_out, seen.seconds * 1.3, seen.seconds)
    assert fit(replace(seen, seconds=odd), Form()).cost.parameters() != before.cost.parameters()


def test_units_of_time_scale_all_seconds_and_the_order_of_points_does_not_matter() -> None:
    seen = made(PRODUCT_COST, 0.01)
    before = fit(seen, Form())
    for factor in (0.1, 7.0):
        after = fit(replace(seen, seconds=factor * seen.seconds, error_s=factor * seen.error_s), Form())
        for name, value in before.cost.parameters().items():
            expected = value if name == "overlap_exponent" else factor * value
            assert after.cost.parameters()[name] == pytest.approx(expected, rel=1e-3)
        assert after.relative_errors == pytest.approx(before.relative_errors, rel=0.01)
    mixed = np.random.default_rng(0).permutation(len(seen))
    arrays = {n: getattr(seen, n)[mixed] for n in seen.__slots__ if n != "labels"}
    after = fit(Observations(labels=tuple(seen.labels[i] for i in mixed), **arrays), Form())
    assert after.cost.parameters() == pytest.approx(before.cost.parameters(), rel=1e-4)
    assert after.residuals == pytest.approx(before.residuals[mixed], abs=1e-5)


@pytest.mark.statistical
def test_noise_that_points_do_not_admit_is_found_in_what_is_left() -> None:
    fits = [fit(made(PRODUCT_COST, 0.04, [case, 3], stated=0.004), Form()) for case in range(20)]
    assert np.mean([off_in_errors(found, PRODUCT_COST).max() <= 3 for found in fits]) >= 0.9
    assert np.mean([found.discrepancy for found in fits]) == pytest.approx(0.04, rel=0.25)


def test_a_run_of_drafts_is_so_many_passes_and_every_third_point_of_a_series_is_held_out() -> None:
    rng = np.random.default_rng(0)
    found = made_points({"draft": {}, "verify": {}, "baseline": {}}, BURN_COST, 0.0, rng)
    seen = observations(found, UNITS)
    lengths = [p.axes["draft_n"] for p in found if p.probe == "draft"]
    drafts = slice(0, len(lengths))
    assert seen.passes[drafts].tolist() == lengths
    assert len(set(seen.flops[drafts].tolist())) == len(set(seen.bytes[drafts].tolist())) == 1
    verify = slice(len(lengths), 2 * len(lengths))
    assert seen.tokens[verify].tolist() == [k + 1 for k in lengths]
    assert seen.passes[verify].tolist() == [1] * len(lengths)
    assert np.flatnonzero(seen.held_out[drafts]).tolist() == [2, 5, 8]
    assert not seen.held_out[-1]
    assert run_s(BURN_COST, seen) == pytest.approx(seen.seconds)
    assert seen.labels[0] == "draft, draft_n 1, work_flops 2000, work_mem 16"
    # A short series is fitted whole.
    points = made_points({"skinny": {"tokens": (1, 2, 4)}}, PRODUCT_COST, 0.0, rng)
    assert not observations(points, UNITS).held_out.any()


def test_a_made_point_is_as_long_as_the_formula_says() -> None:
    axes = {"weight": "4096x4096", "dtype": "bfloat16", "tokens": 8}
    flops, moved = 2 * 8 * 4096**2, 2 * (8 * 4096 + 4096**2) + 4 * 8 * 4096
    joined = ((flops * 2e-15) ** 3 + (moved * 4e-13) ** 3) ** (1 / 3)
    assert true_s("skinny", axes, PRODUCT_COST) == pytest.approx(joined + 5e-6)
    assert made_point("skinny", axes, 1.0, 0.1).flop == flops
    assert set(AXES["dtype"]) == {"bfloat16"}
