"""From probes to profiles: what passes its checks, what does not and why, and what is said of it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from calibration.fit.diagnostics import CheckedFit, diagnose
from calibration.fit.fit import Form, fit
from calibration.fit.from_probe import fit_probe, probe_profile
from calibration.fit.report import report_json, report_text
from calibration.sources.probe import from_probe, observations
from cuda_probe.probe.runner import Results
from simulator.costs.parameters import Point
from simulator.costs.priced import Pricing
from simulator.costs.profile import BURN_UNITS, KERNELS_MEASURED, constant
from simulator.costs.profile_file import load_profile

from .made_probe import BURN_COST, BURNS, CURVED_COST, PRODUCT_COST, PRODUCTS, UNITS, made_points, made_results, results

WHOLE = {"empty": {}, **PRODUCTS}
COMPUTING = {"empty": {}, "burn_flops": BURNS["burn_flops"]}
TWO_POINTS = {"skinny": {"tokens": (1, 2), "weight": ("4096x4096",)}}
COMPUTES_AT_ONCE = replace(PRODUCT_COST, flop_scale=constant(1e-17))


def only(probes, cost=PRODUCT_COST, noise: float = 0.005, seed: int = 0) -> CheckedFit:
    """Fit what a probe of these alone would have timed."""
    (found,) = fit_probe(results(made_points(probes, cost, noise, np.random.default_rng(seed)))).values()
    return found


@pytest.fixture(scope="module")
def whole() -> tuple[Results, dict[str, CheckedFit]]:
    """A whole probe and its fits."""
    probed = made_results(noise=0.003)
    return probed, fit_probe(probed)


def test_burns_and_products_are_fitted_apart_and_launches_belong_to_both() -> None:
    found = from_probe(made_results())
    assert set(found) == {BURN_UNITS, "bfloat16"}
    assert all(seen.labels[0] == "empty" for seen in found.values())
    assert len(found[BURN_UNITS]) == 1 + 8 + 16 + 10 + 10 + 1
    assert len(found["bfloat16"]) == 1 + 2 * 17 + 6
    assert from_probe(results(made_points({"empty": {}}, BURN_COST, 0.0, np.random.default_rng(0)))) == {}


def test_a_whole_probe_becomes_a_profile_of_the_truth(whole) -> None:
    probed, found = whole
    assert all(own.passed for own in found.values()), [own.reasons for own in found.values()]
    profile = probe_profile("made", probed, found)
    assert (profile.status, profile.device, profile.memory_bytes) == (KERNELS_MEASURED, "Made device", 80 * 2**30)
    units = profile.units
    assert (units.workflops_flop, units.workmem_bytes) == (UNITS.workflops_flop, UNITS.workmem_bytes)
    for name in ("flop_scale[0]", "mem_scale[0]", "launch_s"):
        assert units.cost.parameters()[name] == pytest.approx(BURN_COST.parameters()[name], rel=0.02)
        own = profile.passes["bfloat16"].parameters()[name]
        assert own == pytest.approx(PRODUCT_COST.parameters()[name], rel=0.02)
    assert any("bfloat16: 0." in note and "held out" in note for note in profile.notes)


@pytest.mark.parametrize("name", ["cuda:0", "cpu"])
def test_what_kernels_do_not_tell_is_assumed_as_of_presets_with_its_error_and_said(whole, name: str) -> None:
    probed, found = whole
    profile = probe_profile("made", replace(probed, device=probed.device | {"name": name}), found)
    preset = load_profile("h100-sxm")
    assert profile.round_overhead_s == preset.round_overhead_s
    assert profile.round_overhead_error == preset.round_overhead_error
    assert profile.launches_per_layer_error == 0.3
    assert profile.status == "kernels measured; launches a layer and round overhead assumed"
    count = 10 if name == "cuda:0" else 8
    said = f"{count} launches a layer, uncertain by 30 %, and 600 us a round besides, by 50 %, are assumed."
    assert any(said in note for note in profile.notes)


def test_a_round_in_burn_units_costs_what_the_probe_timed() -> None:
    probed = made_results(products=None, noise=0.002)
    pricing = Pricing(profile=probe_profile("made", probed, fit_probe(probed)))
    knobs = pricing.costs(Point(**pricing.defaults(), workflops=2_000, workmem=16, draft_cost=1.0))
    for k in (1, 4, 8):
        cost = knobs.round_cost(k)
        for phase, own_s in (("draft", cost.draft_s), ("verify", cost.verify_s), ("baseline", cost.baseline_s)):
            (timed,) = (p for p in probed.of(phase) if p.axes.get("draft_n", k) == k)
            assert float(own_s) == pytest.approx(timed.measurement.median_s, rel=0.01)


def test_full_overlap_is_no_reason_to_fail() -> None:
    own = only(WHOLE, replace(PRODUCT_COST, overlap_exponent=np.inf))
    assert own.passed, own.reasons


def test_sizes_at_which_products_compute_more_slowly_get_a_curve_of_their_own() -> None:
    own = only(WHOLE, CURVED_COST, 0.003)
    assert own.passed, own.reasons
    assert len(own.fit.form.flop_knots) > 1
    assert "flop_scale at 64 tokens" in report_text({"bfloat16": own})


@pytest.mark.parametrize(
    ("probes", "cost", "reason"),
    [
        (COMPUTING, BURN_COST, "no point depends on mem_scale[0]"),
        ({"empty": {}, "burn_memory": BURNS["burn_memory"]}, BURN_COST, "no point depends on flop_scale[0]"),
        ({"empty": {}, "skinny": {"tokens": (1, 2, 3, 4)}}, COMPUTES_AT_ONCE, "flop_scale is at most "),
        ({"matmul": {}}, replace(PRODUCT_COST, mem_scale=constant(1e-14)), "mem_scale is at most "),
        (TWO_POINTS, PRODUCT_COST, "2 points to fit, expected at least 4"),
        ({"empty": {}, "skinny": {"tokens": (1, 256)}}, PRODUCT_COST, "5 points for 4 parameters, expected at least 6"),
    ],
)
def test_points_that_do_not_tell_enough_fail_with_the_reason(probes, cost, reason: str) -> None:
    own = only(probes, cost)
    assert not own.passed
    assert any(said.startswith(reason) for said in own.reasons), own.reasons


def test_the_same_point_over_and_over_tells_nothing_apart() -> None:
    rng = np.random.default_rng(0)
    again = [p for _ in range(4) for p in made_points({"skinny": {"tokens": (8,)}}, PRODUCT_COST, 0.005, rng)]
    (own,) = fit_probe(results(again)).values()
    assert any(said.startswith("the points do not tell the parameters apart") for said in own.reasons)


def test_points_held_out_alone_can_fail_a_fit_and_the_worst_is_named() -> None:
    said = "; ".join(only(WHOLE, noise=0.3).reasons)
    assert "the median error of points held out is" in said
    assert "the median error of fitted points is" in said
    assert re.search("(skinny|matmul).*, held out, is", said)
    seen = observations(made_points(WHOLE, PRODUCT_COST, 0.003, np.random.default_rng(0)), UNITS)
    assert diagnose(fit(seen, Form())).passed
    odd = diagnose(fit(replace(seen, seconds=np.where(seen.held_out, 1.2, 1.0) * seen.seconds), Form()))
    assert odd.reasons == (f"the median error of points held out is {odd.held_out_median:.1%}, expected at most 10%",)
    assert odd.held_out_median == pytest.approx(0.2, abs=0.02)
    place = int(np.flatnonzero(seen.held_out)[4])
    seconds = seen.seconds.copy()
    seconds[place] *= 1.5
    (reason,) = diagnose(fit(replace(seen, seconds=seconds), Form())).reasons
    assert reason.startswith(f"the error of {seen.labels[place]}, held out, is")


def test_what_fails_is_left_out_of_the_profile_and_said() -> None:
    rng = np.random.default_rng(0)
    burns = made_points({"empty": {}, **BURNS}, BURN_COST, 0.003, rng)
    probed = results([*burns, *made_points(TWO_POINTS, PRODUCT_COST, 0.003, rng)])
    profile = probe_profile("made", probed, fit_probe(probed))
    assert profile.passes == {}
    assert profile.units is not None
    assert "bfloat16: left out, 3 points to fit, expected at least 4." in profile.notes


def test_the_report_holds_failed_fits_with_their_estimate() -> None:
    own = only(COMPUTING, BURN_COST)
    found = report_json({BURN_UNITS: own}, {})
    assert (found["kind"], found["passed"]) == ("calibration_report", False)
    told = found["fits"][BURN_UNITS]
    assert told["reasons"] == list(own.reasons)
    assert told["parameters"]["flop_scale[0]"]["value"] == pytest.approx(2.5e-14, rel=0.01)
    assert told["parameters"]["mem_scale[0]"]["relative_error"] is None
    assert told["undetermined"] == ["mem_scale[0]", "overlap_exponent"]
    assert len(told["points"]) == 9
    assert sum(p["held_out"] for p in told["points"]) == told["held_out_points"] == 2
    assert "FAILS: no point depends on mem_scale[0]" in report_text({BURN_UNITS: own})
