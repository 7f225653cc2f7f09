"""Hardware profiles: what the loader refuses, what a pass costs, samples of the uncertain, those that come along.

Long because every field of the file is taken away, spoiled and read back.
"""

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.engine import HOST, LOAD, LONGER, ROUND, SHOTS, Engine
from simulator.costs.formats import FORMATS
from simulator.costs.profile import (
    DATASHEET,
    MEASURED,
    STATUSES,
    BurnUnits,
    Curve,
    Decoding,
    Link,
    PassCost,
    Power,
    Profile,
    Source,
    constant,
)
from simulator.costs.profile_file import KIND, SCHEMA_VERSION, load_profile, presets, profile_json
from simulator.costs.ranges import TimedRange
from simulator.costs.shapes import read_shape
from simulator.costs.step import step_s
from simulator.ground.artefacts import UserError, to_json

from .builders import device, pass_cost

DTYPES = ("float32", "float16", "bfloat16", "fp8", "int8", "int4")
CURVE = Curve(np.array([1.0, 64.0]), np.array([4e-14, 2e-15]))
COST = pass_cost(CURVE, 4e-13, launch_s=2e-6, fixed_s=1e-4, overlap_exponent=4.0)
COST = replace(COST, uncertain=("flop_scale[1]", "launch_s"), covariance=np.array([[0.01, 0.002], [0.002, 0.04]]))
FULL = device(
    {"bfloat16": COST},
    units=BurnUnits(workflops_flop=6, workmem_bytes=8, cost=pass_cost(1e-9, 1e-9)),
    launches_per_layer=9.5,
    launches_per_layer_error=0.2,
    engine=Engine(
        layer_launches={"experts": 24.0, "latent": 8.0},
        expert_overlap=0.3,
        graph_tokens=(8.0, 64.0),
        host_s=0.02,
        host_sequence_s=2e-5,
        host_launch_s=1e-6,
        host_layer_s=8e-4,
        load_layer_s=2e-5,
        load_layer_sequence_s=3e-7,
        front_s=0.025,
        front_client_s=3e-4,
        first_passes=0.5,
        host_error=0.5,
        graphs="piecewise",
        round_sequence_s=1e-4,
        logit_bytes=8.0,
        tree_round_s=1e-3,
        draft_round_s=5e-4,
        search_s=1e-4,
        draft_flops=4.0,
        attention_flops=2.0,
    ),
    round_overhead_s=1e-3,
    round_overhead_error=0.1,
    memory_bytes=2**34,
    link=Link(bytes_per_s=3e11, latency_s=1e-5, mesh=True, error=0.1, devices=8),
    power=Power(idle_w=20, load_w=300),
    sources=(Source(what="all", title="A sheet", url="https://example.org"),),
    timed={"batch": TimedRange(least=1, most=8)},
    notes=("A note.",),
)
MISSING = object()


def written(path: Path, profile: Profile | dict[str, Any]) -> Path:
    payload = profile_json(profile) if isinstance(profile, Profile) else profile
    path.write_text(to_json({"kind": KIND, "schema_version": SCHEMA_VERSION} | payload))
    return path


def changed(where: str, value: object) -> dict[str, Any]:
    """The full profile with one value put in the place that `where` names, as an error would name it."""
    payload = deepcopy(profile_json(FULL))
    *way, last = (int(step) if step.isdigit() else step for step in re.findall(r"\w+", where))
    found: Any = payload
    for step in way:
        found = found[step]
    if value is MISSING:
        del found[last]
    else:
        found[last] = value
    return payload


PASS = "passes.bfloat16"


def places(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every place of a payload and what stands there."""
    if where:
        yield where, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, f"{where}[{i}]")


def refusal(tmp_path: Path, payload: dict[str, Any]) -> str:
    path = written(tmp_path / "p.json", payload)
    with pytest.raises(UserError) as refused:
        load_profile(path)
    return str(refused.value).removeprefix(f"{path}: ")


# What a profile may leave out: what it does not know, and what older files do not say.
OPTIONAL = {
    *("units", "decoding", "link", "power", "memory_bytes", "launches_per_layer_error", "link.mesh", "link.error"),
    "link.devices",
    *(f"{cost}.uncertainty" for cost in (PASS, "units.cost")),
    *("timed", "timed.batch", "engine", "engine.layer_launches", "engine.expert_overlap", "engine.graph_tokens"),
    *(f"engine.{name}" for name in (*HOST, *LOAD, *SHOTS, "host_error", "logit_bytes", "first_passes")),
    *("engine.graphs", *(f"engine.{name}" for name in (*ROUND, *LONGER))),
    *("engine.layer_launches.experts", "engine.layer_launches.latent"),
}


def test_what_is_no_value_of_its_kind_is_refused_in_every_place(tmp_path: Path) -> None:
    """A list for a number, a number for text, text for an object or a list; and null or nothing where all is needed."""
    for where, value in places(profile_json(FULL)):
        odd = 3 if isinstance(value, str | dict | list) and value != "inf" else ["odd"]
        if where.endswith("_scale_s") and isinstance(value, dict):
            odd = "odd"  # a curve may be a number
        if not (where.endswith("uncertainty") and value is None):
            assert refusal(tmp_path, changed(where, odd)).startswith(f"{where} is {odd!r}, expected "), where
        if where not in OPTIONAL and not where.endswith("]"):
            assert refusal(tmp_path, changed(where, None)).startswith(f"{where} is None, expected "), where
            if where != PASS:  # one number format less is a profile too
                assert refusal(tmp_path, changed(where, MISSING)).startswith(f"{where} is missing, expected "), where


REFUSED = [
    ("name", "", "text"),
    ("status", "guessed", "'datasheet, uncalibrated' or 'measured'"),
    ("launches_per_layer", -1, "a number from 0 to 1000000"),
    (f"{PASS}.mem_scale_s", 1e300, "at most 1000000"),
    ("round_overhead_error", True, "a number from 0 to 10"),
    ("launches_per_layer_error", 11, "a number from 0 to 10"),
    ("engine.layer_launches.latent", -1, "a number from 0 to 1000000"),
    ("engine.expert_overlap", 1.1, "a number from 0 to 1"),
    ("engine.graph_tokens", [64, 8], "rising sizes"),
    ("engine.graphs", "whole", "'full' or 'piecewise' or 'eager'"),
    ("engine.host_error", 11, "a number from 0 to 10"),
    ("engine.host_s", -0.1, "a number from 0 to 1000000"),
    ("engine.first_passes", 1e7, "a number from 0 to 1000000"),
    ("engine.one_shot_tokens", 1e13, "a number from 0 to 1e+12"),
    ("link.error", 400, "a number from 0 to 10"),
    ("memory_bytes", 0, f"a whole number from 1 to {10**21}"),
    ("memory_bytes", 0.5, f"a whole number from 1 to {10**21}"),
    ("memory_bytes", 10**400, f"a whole number from 1 to {10**21}"),
    ("link.bytes_per_s", 0, "a number above 0"),
    ("link.latency_s", -1e-6, "a number from 0 to 1000000"),
    ("link.mesh", 1, "true or false"),
    ("link.devices", 1, "a whole number from 2 to 1000000"),
    ("power.load_w", 19, "a number from 20 to 1e+09"),
    ("units.workflops_flop", 0, f"a whole number from 1 to {10**21}"),
    ("units.cost.mem_scale_s", 0, "a number above 0"),
    (f"{PASS}.mem_scale_s", -4e-13, "a number above 0"),
    (f"{PASS}.flop_scale_s.tokens", [64, 1], "rising sizes"),
    (f"{PASS}.flop_scale_s.tokens", [1, 1], "rising sizes"),
    (f"{PASS}.flop_scale_s.tokens", [], "rising sizes"),
    (f"{PASS}.flop_scale_s.tokens[0]", 0, "a number above 0"),
    (f"{PASS}.flop_scale_s.seconds", [1e-15], "as many as tokens, 2"),
    (f"{PASS}.fixed_s", -1, "a number from 0 to 1000000"),
    (f"{PASS}.launch_s", 1e300, "a number from 0 to 1000000"),
    (f"{PASS}.mem_scale_s", 1e7, "a number above 0, at most 1000000"),
    (f"{PASS}.uncertainty.covariance[0][0]", 1e300, "a number from -"),
    ("power.load_w", 1e300, "a number from 20 to 1e+09"),
    ("launches_per_layer", 1e18, "a number from 0 to 1000000"),
    ("memory_bytes", 1e300, f"a whole number from 1 to {10**21}"),
    (f"{PASS}.overlap_exponent", 0.5, "a number of at least 1"),
    (f"{PASS}.overlap_exponent", "infinite", "a number of at least 1"),
    (f"{PASS}.uncertainty.parameters[0]", "flop_scale", "neither 0 nor infinite, each once"),
    (f"{PASS}.uncertainty.parameters[1]", "flop_scale[1]", "neither 0 nor infinite, each once"),
    (f"{PASS}.uncertainty.covariance", [[0.01]], "2 x 2 numbers"),
    (f"{PASS}.uncertainty.covariance", [[1, 0.1], [0.2, 1]], "symmetric"),
    (f"{PASS}.uncertainty.covariance", [[1, 2], [2, 1]], "without negative eigenvalues"),
]


def test_a_value_that_is_not_allowed_is_refused_by_file_field_and_value(tmp_path: Path) -> None:
    assert profile_json(load_profile(written(tmp_path / "p.json", FULL))) == profile_json(FULL)
    for where, value, allowed in REFUSED:
        message = refusal(tmp_path, changed(where, value))
        if "parameters[" in where:
            where = re.sub(r"\[\d\]$", "", where)  # of two equal names the first is named
        assert message.startswith(where)
        assert allowed in message
        assert repr(value)[:77] in message
    for name, value in (("launch_s", 0.0), ("overlap_exponent", "inf")):
        payload = changed(f"{PASS}.{name}", value)
        payload["passes"]["bfloat16"]["uncertainty"]["parameters"][1] = name
        assert re.search(f"parameters.* is '{name}'", refusal(tmp_path, payload))


def test_a_pair_of_no_draft_lengths_or_of_errors_beyond_all_sense_is_refused(tmp_path: Path) -> None:
    seconds = {"baseline_s": 1e-2, "baseline_error": 0.1, "draft_step_s": 1e-3, "draft_step_error": 0.1}
    pair = Decoding(target="t", draft="d", dtype="bfloat16", batch=1, verify=COST, draft_lengths=(1, 4), **seconds)
    payload = profile_json(replace(FULL, decoding=pair))
    assert load_profile(written(tmp_path / "p.json", payload)).decoding.draft_lengths == (1, 4)
    for name, value, allowed in (
        ("draft_lengths", [], "a list of at least one"),
        ("baseline_error", 400, "a number from 0 to 10"),
        ("draft_step_error", 10.5, "a number from 0 to 10"),
    ):
        wrong = payload | {"decoding": payload["decoding"] | {name: value}}
        assert refusal(tmp_path, wrong) == f"decoding.{name} is {value}, expected {allowed}"


def test_relative_errors_are_a_covariance_and_what_older_files_do_not_say_is_certain(tmp_path: Path) -> None:
    for stated in ({"launch_s": 0.3, "flop_scale[1]": 0.1}, {"flop_scale[1]": 0.1, "launch_s": 0.3}):
        payload = changed(f"{PASS}.uncertainty", {"relative_errors": stated}) | {"schema_version": 2}
        cost = load_profile(written(tmp_path / "p.json", payload)).passes["bfloat16"]
        assert (cost.uncertain, cost.covariance.tolist()) == (COST.uncertain, [[0.01, 0], [0, 0.09]])
    for name, value, message in (("mem_scale[1]", 0.1, "is not a key, expected flop_"), ("launch_s", 11, "is 11, exp")):
        payload = changed(f"{PASS}.uncertainty", {"relative_errors": {name: value}})
        assert f"relative_errors.{name} {message}" in refusal(tmp_path, payload)
    payload = changed("launches_per_layer_error", MISSING)
    for name in ("mesh", "error", "devices"):
        del payload["link"][name]
    read = load_profile(written(tmp_path / "p.json", payload))
    assert read.launches_per_layer_error == 0
    assert read.link == Link(bytes_per_s=3e11, latency_s=1e-5)


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"kind": "gpu_probe"}, "kind is 'gpu_probe', expected 'hardware_profile'"),
        ({"kind": "calibration_report"}, "report of a fit that failed its checks"),
        ({"schema_version": 3}, "schema_version is 3, supported: 1, 2"),
        ({"passes": {}, "units": None}, "at least one number format, burn units or a decoding pair"),
        ({"passes": {"bf16": profile_json(FULL)["passes"]["bfloat16"]}}, "passes.bf16"),
    ):
        assert message in refusal(tmp_path, profile_json(FULL) | change)
    (tmp_path / "p.json").write_text(to_json(profile_json(FULL)))
    with pytest.raises(UserError, match="kind is missing, expected 'hardware_profile'"):
        load_profile(tmp_path / "p.json")


def test_a_file_goes_before_a_name_and_an_unknown_name_lists_the_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_profile("t4").name == "t4"
    written(Path("t4"), FULL)
    assert load_profile("t4").name == "one"
    with pytest.raises(UserError, match=r"h300: no such file, nor .*nearest: h200, .*profiles list"):
        load_profile("h300")
    with pytest.raises(UserError, match="--dtype: 'fp8' is not in the profile one, which has bfloat16"):
        FULL.cost("fp8")
    assert FULL.cost("bfloat16") is COST


positive = st.floats(1e-18, 1e3)
errors = st.floats(0, 10)
texts = st.text(min_size=1, max_size=20)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    if draw(st.booleans()):
        return constant(draw(positive))
    knots = sorted(draw(st.sets(st.floats(1, 1e12), min_size=2, max_size=4)))
    return Curve(np.array(knots), np.array([draw(positive) for _ in knots]))


@st.composite
def costs(draw: st.DrawFn) -> PassCost:
    scalars = {name: draw(st.just(0.0) | positive) for name in ("launch_s", "fixed_s")}
    exponent = draw(st.just(math.inf) | st.floats(1, 50))
    cost = PassCost(flop_scale=draw(curves()), mem_scale=draw(curves()), overlap_exponent=exponent, **scalars)
    known = [name for name, value in cost.parameters().items() if 0 < value < math.inf]
    names = tuple(draw(st.lists(st.sampled_from(known), unique=True)))
    if not names:
        return cost
    root = np.random.default_rng(draw(st.integers(0, 999))).normal(0, 0.2, (len(names), len(names)))
    return replace(cost, uncertain=names, covariance=root @ root.T)


sizes = st.integers(1, 10**15)
drawn_profiles = st.builds(
    Profile,
    name=texts,
    device=texts,
    status=st.sampled_from(STATUSES),
    passes=st.dictionaries(st.sampled_from(DTYPES), costs(), min_size=1, max_size=3),
    units=st.none() | st.builds(BurnUnits, workflops_flop=sizes, workmem_bytes=sizes, cost=costs()),
    launches_per_layer=positive,
    engine=st.none() | st.builds(Engine, expert_overlap=st.floats(0, 1), host_s=positive),
    round_overhead_s=positive,
    round_overhead_error=errors,
    memory_bytes=st.none() | sizes,
    link=st.none()
    | st.builds(
        Link,
        bytes_per_s=positive,
        latency_s=positive,
        mesh=st.booleans(),
        error=errors,
        devices=st.none() | st.integers(2, 99),
    ),
    power=st.none() | st.builds(Power, idle_w=st.floats(0, 100), load_w=st.floats(100, 1000)),
    sources=st.lists(st.builds(Source, what=texts, title=texts, url=texts), max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
)


@given(profile=drawn_profiles)
def test_a_profile_survives_its_file(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> None:
    read = load_profile(written(tmp_path_factory.mktemp("profile") / "p.json", profile))
    assert profile_json(read) == profile_json(profile)
    for name in ("link", "power", "sources", "notes", "engine"):
        assert getattr(read, name) == getattr(profile, name)


def test_a_curve_is_straight_between_logarithms_and_level_beyond_its_knots() -> None:
    curve = Curve(np.array([1.0, 4.0, 400.0]), np.array([8.0, 2.0, 0.02]))
    # Half way from 1 to 4 in logarithms is 2, from 8 to 2 it is 4; 40 is half way from 4 to 400, 0.2 from 2 to 0.02.
    assert curve.at([0.1, 1, 2, 4, 40, 400, 1e9]) == pytest.approx([8, 8, 4, 2, 0.2, 0.02, 0.02])
    # A quarter of the way: 4 * 100 ** 0.25 and 2 / 100 ** 0.25.
    assert curve.at(4 * 100**0.25) == pytest.approx(2 / 100**0.25)
    # Of samples, they are in front.
    curve = Curve(np.array([1.0, 4.0]), np.array([[8.0, 2.0], [18.0, 2.0], [1.0, 1.0]]))
    assert curve.at(np.array([[1.0, 2.0]])) == pytest.approx(np.array([[[8.0, 4.0]], [[18.0, 6.0]], [[1.0, 1.0]]]))
    assert curve.at(2.0) == pytest.approx([4.0, 6.0, 1.0])
    level = Curve(np.ones(1), np.array([[3.0], [5.0]]))
    assert level.at(np.ones((2, 2))).shape == (2, 2, 2)
    assert level.at(7.0) == pytest.approx([3.0, 5.0])


work = st.floats(0, 1e15)


@given(flops=work, bytes_=work, tokens=st.integers(1, 10**6), launches=st.integers(0, 1000), m=st.floats(1, 99))
def test_a_pass_of_constants_costs_what_the_cost_function_says(
    flops: float, bytes_: float, tokens: int, launches: int, m: float
) -> None:
    constants = {"launch_s": 2e-6, "fixed_s": 1e-4, "overlap_exponent": m}
    expected = step_s(flops, bytes_, flop_scale=3e-15, mem_scale=4e-13, launches=launches, **constants)
    cost_s = pass_cost(3e-15, 4e-13, **constants).pass_s(flops, bytes_, tokens, launches)
    assert cost_s == pytest.approx(expected, rel=1e-12)


def test_a_pass_takes_compute_by_tokens_and_memory_by_bytes() -> None:
    tokens, bytes_ = (Curve(np.array(n), np.array(s)) for n, s in (([1.0, 4], [8.0, 2]), ([10.0, 40], [0.8, 0.2])))
    cost = pass_cost(tokens, bytes_)
    # 3 FLOP at 8, 4 and 2 s; 20 B at 0.4 s: the longer of the two.
    assert cost.pass_s(3, 20, np.array([1, 2, 4]), 0) == pytest.approx([24, 12, 8])
    assert cost.pass_s(1, np.array([10, 20, 40]), 4, 0) == pytest.approx([8, 8, 8])


def test_samples_of_a_pass_are_the_passes_of_each_sample() -> None:
    rows = {"flop_scale": [1, 2.0, 3], "flop_scale[1]": [1, 1, 0.5], "launch_s": [1, 3, 1.0]}
    factors = {name: np.array(row) for name, row in rows.items()}
    flops, bytes_, tokens = np.array([1e12, 1e9]), np.array([1e9, 2e10]), np.array([64, 2])
    together = COST.scaled(factors).pass_s(flops, bytes_, tokens, 300)
    assert together.shape == (3, 2)
    for i in range(3):
        alone = COST.scaled({name: float(values[i]) for name, values in factors.items()})
        assert together[i] == pytest.approx(alone.pass_s(flops, bytes_, tokens, 300), rel=1e-12)
    # An overlap exponent is never scaled below 1.
    assert COST.scaled({"overlap_exponent": np.array([0.1, 0.5])}).overlap_exponent == pytest.approx([1, 2])


SAMPLES = 20_000
SHAKEN = replace(
    COST,
    overlap_exponent=9.0,
    uncertain=("mem_scale[0]", "flop_scale[0]", "flop_scale[1]", "overlap_exponent"),
    covariance=np.array(
        [[0.01, 0.006, 0, 0], [0.006, 0.02, -0.01, 0], [0, -0.01, 0.03, 0.004], [0, 0, 0.004, 0.005]], np.float64
    ),
)


def drawn_logs(seed: int) -> np.ndarray:
    """Logarithms of sampled parameters over what they are, [samples, parameters], in the order of the covariance."""
    cost = SHAKEN.sample(np.random.default_rng(seed), SAMPLES)
    columns = [cost.mem_scale.seconds[:, 0], *cost.flop_scale.seconds.T, np.asarray(cost.overlap_exponent)]
    return np.log(np.stack(columns, 1) / [SHAKEN.parameters()[name] for name in SHAKEN.uncertain])


def errors_off(logs: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """How many standard errors each entry of the samples' covariance is from the stated one (Wishart)."""
    spread = np.diag(covariance)
    return (np.cov(logs.T) - covariance) / np.sqrt((np.outer(spread, spread) + covariance**2) / SAMPLES)


@pytest.mark.statistical
def test_samples_have_the_stated_covariance_about_what_is_stated() -> None:
    logs = drawn_logs(1)
    # 4 means and 10 covariances: beyond 4.5 standard errors once in 10,000 runs.
    assert np.abs(logs.mean(0) / np.sqrt(np.diag(SHAKEN.covariance) / SAMPLES)).max() < 4.5
    assert np.abs(errors_off(logs, SHAKEN.covariance)).max() < 4.5
    # Negative control: a covariance that is 10 % off or in another order would be noticed.
    assert np.abs(errors_off(logs, SHAKEN.covariance * 1.1)).max() > 4.5
    order = [0, 2, 1, 3]
    assert np.abs(errors_off(logs, SHAKEN.covariance[np.ix_(order, order)])).max() > 4.5


def test_samples_repeat_and_leave_alone_what_is_certain() -> None:
    one, other = (SHAKEN.sample(np.random.default_rng(3), 50) for _ in range(2))
    assert np.array_equal(one.flop_scale.seconds, other.flop_scale.seconds)
    assert np.all(np.asarray(one.launch_s) == 2e-6)
    certain = pass_cost(1e-15, 1e-12)
    assert certain.sample(np.random.default_rng(3), 50) is certain


# Of the presets, what their notes assume.
REACHED_COMPUTE, REACHED_BANDWIDTH, REACHED_LINK = 0.7, 0.8, 0.8
MEASURED_CPU = "epyc-2-core"
DATASHEETS = [name for name in presets() if name != MEASURED_CPU]
EXPECTED = {
    *("t4", "l4", "a100-40gb", "a100-80gb", "a100-80gb-pcie", "h100-sxm", "h100-pcie", "h200", "b200"),
    *("rtx-3090", "rtx-4090", "rtx-5090", "mi300x", "m3-max", "cpu-2-core"),
    *("a10", "l40s", "rtx-4060", "rtx-4070", "rtx-5080", "rtx-pro-6000", "b300", "gb200", "gb300", "h200-sglang"),
    *("mi355x", "m4-max", "tpu-v5e", "tpu-v6e", "tpu-v7", "a30", "a40", "mi250"),
}


def test_the_measured_preset_is_what_was_measured() -> None:
    assert set(presets()) == EXPECTED | {MEASURED_CPU}
    profile = load_profile(MEASURED_CPU)
    folder = Path(__file__).parents[2] / "calibration" / "measured" / MEASURED_CPU
    passes, burn = (load_profile(folder / f"{name}.json") for name in ("device_passes", "device"))
    assert profile.status == MEASURED
    shared = ("flop_scale_s", "mem_scale_s", "launch_s", "overlap_exponent", "uncertainty")
    preset, measured = (profile_json(p)["passes"]["bfloat16"] for p in (profile, passes))
    assert all(preset[key] == measured[key] for key in shared)
    assert profile_json(profile)["units"] == profile_json(burn)["units"]
    assert profile.timed == passes.timed
    assert (profile.timed["batch"].most, profile.timed["context"].most) == (4, 256)


@pytest.mark.parametrize("name", DATASHEETS)
def test_a_preset_says_what_it_is(name: str) -> None:
    profile = load_profile(name)
    assert (profile.name, profile.status) == (name, DATASHEET)
    # Of these no public sheet states the watts of the device alone.
    assert (profile.power is None) == (name in ("m4-max", "tpu-v5e", "tpu-v6e", "tpu-v7"))
    assert profile.memory_bytes
    assert all(source.url.startswith("https://") for source in profile.sources)
    assumed = [note for note in profile.notes if note.startswith("Assumed")]
    assert assumed[:3] == [note for note in load_profile("h100-sxm").notes if note.startswith("Assumed")][:3]
    for cost in profile.passes.values():
        assert len(cost.uncertain) == len(cost.parameters()) == 5
        assert np.sqrt(np.diag(cost.covariance)) == pytest.approx([0.15, 0.1, 0.5, 0.5, 0.3])
        assert np.count_nonzero(cost.covariance) == 5
    # Fewer bits are never slower.
    rate = {dtype: 1 / cost.flop_scale.seconds[0] for dtype, cost in profile.passes.items()}
    sixteen = next(rate[dtype] for dtype in ("float16", "bfloat16", "float32") if dtype in rate)
    assert rate.get("bfloat16", sixteen) == sixteen >= rate.get("float32", 0)
    assert rate["int4"] == sixteen
    assert rate["int8"] >= sixteen
    assert rate.get("fp8", sixteen) >= sixteen
    assert all(rate[dtype] >= rate["fp8"] for dtype in rate if dtype.startswith(("nvfp4", "mxfp")))


@pytest.mark.parametrize("name", sorted(EXPECTED - {"cpu-2-core"}))
def test_a_preset_has_a_source_for_each_figure_and_follows_it(name: str) -> None:
    profile = load_profile(name)
    stated = {}
    for source in profile.sources:
        what, figure = re.fullmatch(r"([\w ]+): ([\d.]+) \w.*", source.what).groups()
        assert what not in stated
        stated[what] = float(figure)
    rates = {dtype: stated.pop(dtype) for dtype in FORMATS if dtype in stated}
    for dtype, cost in profile.passes.items():
        # Formats without a figure are weight-only and compute in float16.
        peak = rates.get(dtype) or rates.get("float16") or rates["bfloat16"]
        assert 1e-12 / cost.flop_scale.seconds[0] == pytest.approx(REACHED_COMPUTE * peak, rel=1e-5)
        reached = REACHED_BANDWIDTH * stated["memory bandwidth"]
        assert 1e-9 / cost.mem_scale.seconds[0] == pytest.approx(reached, rel=1e-5)
    assert set(rates) <= set(profile.passes)
    assert profile.memory_bytes == stated["memory"] * 2**30
    assert (profile.power and profile.power.load_w) == stated.get("load")
    if profile.link is None:
        assert "link" not in stated
    else:
        assert profile.link.bytes_per_s / 1e9 == pytest.approx(REACHED_LINK * stated["link"], rel=1e-9)
        assert profile.link.error == 0.3
        assert any("a link reaches 80 % of its peak" in n and "uncertain by 30 %" in n for n in profile.notes)
        # Of these only AMD's have no switch: 7 links, one to each other device.
        assert profile.link.mesh == name.startswith("mi3")
    assert set(stated) <= {"memory bandwidth", "memory", "load", "link"}


def decode_s(name: str, model: str, launches: bool) -> float:
    """Seconds of one decoding step in bfloat16, batch 1 at 1024 tokens of context."""
    profile, shape = load_profile(name), read_shape(model)
    cost = profile.cost("bfloat16")
    cost = cost if launches else cost.scaled({"launch_s": 0.0, "fixed_s": 0.0})
    kernels = profile.launches_per_layer * shape.layers
    flops, bytes_ = shape.flops(1, 1, 1024), shape.bytes_moved(1, 1, 1024, "bfloat16")
    return float(cost.pass_s(flops, bytes_, 1, kernels))


def test_h200_decodes_faster_than_h100_by_nearly_its_bandwidth() -> None:
    bandwidth = 4.8 / 3.35
    cases = (("llama-3.1-8b", True), ("llama-3.1-70b", True), ("llama-3.1-8b", False))
    ratios = [decode_s("h100-sxm", *case) / decode_s("h200", *case) for case in cases]
    # Launches and what a pass costs besides take the same time on both, and weigh less the larger the model.
    assert 1.3 < ratios[0] < ratios[1] < bandwidth
    assert ratios[2] == pytest.approx(bandwidth, rel=1e-4)
    # 5.9 ms a step are published of vLLM on one H100 SXM, fitted with what its steps cost besides.
    assert 5.0e-3 < decode_s("h100-sxm", "llama-3.1-8b", True) < 8.0e-3
