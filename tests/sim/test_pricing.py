"""What parameters allow, and where costs come from: burn units, a profile, or models, and what the user sets."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.parameters import BY_NAME, PARAMETERS, DeviceOptions, Load, Parameter, Point
from simulator.costs.priced import Pricing, load_pricing
from simulator.costs.profile import BurnUnits, Curve
from simulator.costs.profile_file import load_profile
from simulator.ground.artefacts import UserError

from .builders import burnt as burnt_profile
from .builders import device, pass_cost, written

NONE = DeviceOptions()
MODELS = DeviceOptions(profile="h100-sxm", target_model="llama-3.1-8b", draft_model="llama-3.2-1b")


@pytest.fixture
def burnt(tmp_path: Path) -> str:
    profile = burnt_profile(Curve(np.array([1000.0, 8000.0]), np.array([9e-11, 4e-11])))
    return str(written(tmp_path / "burnt.json", profile))


def test_without_a_profile_the_knobs_are_the_users_own() -> None:
    pricing = load_pricing(NONE)
    assert pricing == Pricing()
    assert pricing.defaults() == {}
    knobs = pricing.costs(Point())
    assert (knobs.work_flops, knobs.work_mem, knobs.draft_cost) == (50_000, 8, 0.1)
    assert (knobs.flop_scale_s, knobs.mem_scale_s) == pytest.approx((4e-10, 5e-4))


def test_burn_units_of_a_device_are_its_seconds_by_unit(burnt: str) -> None:
    # 600 FLOP of 2e-12 s are 1.2e-6 ms; a unit of memory moves 8000 bytes, of 4e-11 s where so many move.
    pricing = load_pricing(DeviceOptions(profile=burnt))
    expected = {"flop_scale_ms": 1.2e-6, "mem_scale_ms": 3.2e-4, "overlap_exponent": 3.0}
    assert pricing.defaults() == pytest.approx(expected | {"pass_overhead_ms": 6e-3, "round_overhead_ms": 0.2})
    cost = pricing.costs(Point(**pricing.defaults() | {"workflops": 1000, "workmem": 1})).round_cost(4)
    units = load_profile(burnt).units.cost
    assert cost.baseline_s == pytest.approx(float(units.pass_s(600_000, 8000, 1, 1)))
    assert cost.verify_s == pytest.approx(float(units.pass_s(5 * 600_000, 8000, 5, 1)))


def test_burn_units_of_a_device_need_the_work_of_a_pass(burnt: str) -> None:
    pricing = load_pricing(DeviceOptions(profile=burnt))
    for stated, missing in (({}, "--workflops"), ({"workflops": 5.0}, "--workmem"), ({"workmem": 5.0}, "--workflops")):
        with pytest.raises(UserError, match=f"not how many your target has; expected {missing}, or --target-model"):
            pricing.point(stated)
    assert pricing.point({"workflops": 5.0, "workmem": 2.0}).workmem == 2


def test_models_on_a_profile_have_its_overhead_and_the_asked_format() -> None:
    pricing = load_pricing(replace(MODELS, dtype="fp8", draft_dtype="int4", kv_dtype="fp8", tp=2))
    assert pricing.defaults() == {"round_overhead_ms": pytest.approx(0.6)}
    pair = pricing.costs(Point(**pricing.defaults(), batch=4, context=100))
    assert (pair.dtype, pair.draft_dtype, pair.kv_dtype) == ("fp8", "int4", "fp8")
    assert (pair.batch, pair.context, pair.devices, pair.placement) == (4, 100, 2, "same")
    assert (pair.target.name, pair.draft.name) == ("llama-3.1-8b", "llama-3.2-1b")
    assert pair.round_overhead_s == pytest.approx(6e-4)
    # The user's overhead of a round is taken as known.
    assert pair.round_overhead_error == load_profile("h100-sxm").round_overhead_error == 0.5
    assert pricing.costs(Point(round_overhead_ms=0.2)).round_overhead_error == 0
    # The draft takes no quantization of the target's, and a profile without bfloat16 its first.
    models = load_pricing(replace(MODELS, dtype="fp8")).models
    assert (models.dtype, models.draft_dtype) == ("fp8", "bfloat16")
    assert load_pricing(replace(MODELS, profile="t4")).models.dtype == "float16"


def test_parameters_that_count_are_those_of_models_or_those_of_burn_units() -> None:
    units, models = load_pricing(NONE).names, load_pricing(MODELS).names
    load = load_pricing(MODELS)._replace(load=Load()).names
    assert set(units) | set(models) | set(load) == {p.name for p in PARAMETERS}
    assert set(load) ^ set(models) == {"isl", "osl", "total", "context"}
    assert set(units) - set(models) >= {"workflops", "mem_scale_ms", "draft_cost", "pass_overhead_ms"}
    assert set(models) - set(units) == {"batch", "context"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"profile": None}, r"--target-model: llama-3\.1-8b without a device, expected --profile NAME beside it"),
    ({"draft_model": None}, r"--target-model: llama-3\.1-8b alone, nothing drafts for it; expected --method"),
    ({"target_model": None}, r"--draft-model: llama-3\.2-1b alone, expected --target-model beside it"),
    ({"target_model": "gpt-5"}, "gpt-5: no such file or folder, nor a model of `shapes list`"),
    ({"profile": "h300"}, "h300: no such file, nor a device that comes along"),
    ({"dtype": "fp3"}, "--dtype: 'fp3' is not known, expected one of 39"),
    ({"draft_dtype": "fp3"}, "--draft-dtype: 'fp3' is not known, expected one of 39"),
    ({"kv_dtype": "fp3"}, "--kv-dtype: 'fp3' is not known, expected one of 39, nearest: fp8"),
    ({"profile": "m3-max", "tp": 2}, "--tp: 2 devices, but the profile m3-max names no link, expected 1"),
    ({"tp": 3}, r"--tp: 3 devices cannot share the 32 heads of llama-3\.1-8b, expected a divisor of 32"),
    ({"tp": 64}, r"--tp: 64 devices cannot share the 32 heads of llama-3\.1-8b"),
    ({"tp": 4, "draft_model": "qwen2.5-0.5b"}, r"4 devices cannot share the 14 heads of qwen2\.5-0\.5b"),
    ({"overlap": True}, "--overlap: draft and target are on the same devices, expected --placement separate"),
    ({"target_model": None, "draft_model": None}, "--profile h100-sxm: has costs of models and none is named"),
]


def test_options_at_odds_are_refused_by_name(burnt: str) -> None:
    no_units = ({"profile": burnt}, "burnt, which has none: it was fitted to burn kernels alone")
    for changes, message in (*REFUSED, no_units):
        with pytest.raises(UserError, match=message):
            load_pricing(replace(MODELS, **changes))
    for key in ("dtype", "draft_dtype", "kv_dtype", "tp", "placement"):
        option = f"--{key.replace('_', '-')}"
        with pytest.raises(UserError, match=f"{option}: .* without a device"):
            load_pricing(DeviceOptions(**{key: "separate"}))
        with pytest.raises(UserError, match=f"{option}: .* without models"):
            load_pricing(DeviceOptions(**{key: "separate", "profile": burnt}))


def test_a_draft_apart_need_not_be_divided_and_may_run_beside_the_verification() -> None:
    options = replace(MODELS, tp=4, draft_model="qwen2.5-0.5b", placement="separate", overlap=True)
    models = load_pricing(options).models
    assert (models.devices, models.placement) == (4, "separate")


def test_fitted_burn_units_are_drawn_and_stated_ones_are_not() -> None:
    names = ("mem_scale[0]", "launch_s")
    covariance = np.array([[0.01, 0.002], [0.002, 0.04]])
    cost = pass_cost(1e-12, 1e-9, launch_s=1e-5, uncertain=names, covariance=covariance)
    units = BurnUnits(workflops_flop=1000, workmem_bytes=1_000_000, cost=cost)
    pricing = Pricing(profile=device(units=units))
    point = Point(**pricing.defaults())
    drawn = pricing.costs(point).sample(np.random.default_rng(0), 20_000)
    logs = np.log(np.stack([np.ravel(drawn.mem_scale_s) / 1e-3, np.ravel(drawn.pass_overhead_s) / 1e-5]))
    # Standard error of a sample covariance: sqrt((s_ij^2 + s_ii s_jj) / n).
    errors = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 20_000)
    assert (np.abs(np.cov(logs) - covariance) < 4 * errors).all()
    assert np.ndim(drawn.flop_scale_s) == 0
    stated = pricing.costs(replace(point, mem_scale_ms=2.0)).sample(np.random.default_rng(0), 100)
    assert np.ndim(stated.mem_scale_s) == 0
    assert np.ptp(np.ravel(stated.pass_overhead_s)) > 0
    assert drawn.round_cost(np.array([1, 2, 3])).verify_s.shape == (20_000, 3)


def allowed(p: Parameter, value: float) -> bool:
    """The bounds, said once more."""
    inside = (p.least < value if p.above else p.least <= value) and value <= p.most
    return inside and (not p.whole or value == int(value))


@pytest.mark.parametrize("p", PARAMETERS, ids=lambda p: p.name)
@given(st.floats() | st.integers(-(10**16), 10**16))
def test_a_value_is_taken_or_refused_by_option_value_and_what_is_allowed(p: Parameter, drawn: float) -> None:
    for value in (drawn, math.nan, p.default, p.least, p.least - 0.5, p.most, math.nextafter(p.most, math.inf)):
        if allowed(p, value):
            p.check(value)
            p.check([p.default, value])
        else:
            message = f"{p.flags[0]}: {float(value)!r}".removesuffix(".0")
            is_percent = p.most == 1 and 10 <= value <= 100
            message += (
                f" is not a fraction; {value / 100:g}?" if is_percent else f" is not allowed, expected {p.allowed}"
            )
            with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
                p.check([p.default, value])


def test_what_is_allowed_in_words() -> None:
    assert BY_NAME["draft_length"].allowed == "a whole number from 1 to 1024"
    assert BY_NAME["draft_cost"].allowed == "a number above 0, at most 1000"
    assert BY_NAME["alpha"].allowed == "a number from 0 to 1"
    assert BY_NAME["mem_scale_ms"].allowed == "a number from 0 to 1e+15"


def test_a_pass_that_takes_no_time_is_refused_at_any_of_the_points() -> None:
    for point in ({"workflops": 0, "workmem": 0}, {"workflops": 0, "workmem": [8, 1e-300]}):
        with pytest.raises(UserError, match="are both 0, expected one of them to be at least 1e-30 ms"):
            Point(**point)
    Point(workflops=0)


def test_a_draft_that_nobody_named_is_on_one_device_where_all_cannot_share_it() -> None:
    asked = DeviceOptions(profile="h200", target_model="llama-2-7b", method="draft_model")
    found = [load_pricing(replace(asked, tp=tp)).models for tp in (4, 8)]
    assert [(pair.draft.heads, pair.draft_devices) for pair in found] == [(12, 4), (12, 1)]
    apart = replace(asked, tp=1, draft_tp=2, placement="separate")
    assert load_pricing(apart).models.placed_draft.devices == 2
