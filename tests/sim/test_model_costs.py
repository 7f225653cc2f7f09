"""Costs of two models on a device: rooflines worked by hand, tensor parallelism, memory, arrays and samples."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.model_costs import PARTS, SEPARATE, USABLE_MEMORY, ModelPair, Placed, largest_batch
from simulator.costs.profile import DATASHEET, MEASURED, Curve, Link, PassCost, Power, Profile, constant
from simulator.costs.shapes import read_shape
from simulator.costs.step import RoundCost
from simulator.ground.artefacts import UserError

FLOP_S, BYTE_S, LAUNCH_S, FIXED_S = 2e-15, 5e-13, 3e-6, 2e-5
PLAIN = PassCost(flop_scale=constant(FLOP_S), mem_scale=constant(BYTE_S), launch_s=LAUNCH_S, fixed_s=FIXED_S)
DEVICE = Profile(
    name="one",
    device="A device",
    status=MEASURED,
    passes={"bfloat16": PLAIN, "fp8": replace(PLAIN, flop_scale=constant(FLOP_S / 2)), "float32": PLAIN},
    launches_per_layer=4,
    memory_bytes=24 * 2**30,
    link=Link(bytes_per_s=1e11, latency_s=1e-5),
    power=Power(idle_w=50, load_w=400),
)
LLAMA = read_shape("llama-2-7b")
PAIR = ModelPair(
    profile=DEVICE,
    target=LLAMA,
    draft=read_shape("llama-68m"),
    dtype="bfloat16",
    draft_dtype="bfloat16",
    round_overhead_s=1e-3,
)
TIMES = tuple(f.name for f in fields(RoundCost) if f.name != "draft_length")

# Llama 2 7B by hand: 32 layers, hidden 4096, as many key and value heads as query heads, inner size 11008, 32000 words.
MULTIPLIED = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
NORMS = 32 * 2 * 4096 + 4096
# What goes in and out of a product of one token: QKV, output, gate and up, down, head; and its row of the embedding.
ACTIVATIONS = 32 * (4096 + 12288 + 8192 + 4096 + 22016 + 11008 + 4096) + 4096 + 32000 + 4096


def flops_by_hand(batch: int, new: int, context: int) -> float:
    pairs = sum(context + i for i in range(1, new + 1))
    return batch * (2 * MULTIPLIED * new + 4 * 32 * 4096 * pairs)


def bytes_by_hand(batch: int, new: int, context: int) -> float:
    return 2 * (MULTIPLIED + NORMS + batch * new * ACTIVATIONS + batch * (context + new) * 32 * 2 * 4096)


def placed(devices: int = 1, name: str = "llama-2-7b", profile: Profile = DEVICE) -> Placed:
    return Placed(shape=read_shape(name), dtype="bfloat16", kv_dtype=None, devices=devices, profile=profile)


@pytest.mark.parametrize(
    ("batch", "new", "context", "binds"),
    [(1, 1, 511, "memory"), (1, 5, 511, "memory"), (8, 1, 4000, "memory"), (512, 5, 16, "compute")],
)
def test_a_pass_is_the_roofline_worked_by_hand(batch: int, new: int, context: int, binds: str) -> None:
    parts = placed().parts(batch, new, context)
    compute_s = flops_by_hand(batch, new, context) * FLOP_S
    memory_s = bytes_by_hand(batch, new, context) * BYTE_S
    launch_s = 32 * 4 * LAUNCH_S
    assert parts.compute_s == pytest.approx(compute_s, rel=1e-12)
    assert parts.memory_s == pytest.approx(memory_s, rel=1e-12)
    assert (parts.launch_s, parts.fixed_s) == (pytest.approx(launch_s, rel=1e-12), FIXED_S)
    assert parts.link_s == 0
    assert parts.total_s == pytest.approx(max(compute_s, memory_s) + launch_s + FIXED_S, rel=1e-12)
    assert parts.binds == binds


def test_launches_what_is_fixed_or_the_link_bind_where_they_are_longest() -> None:
    for changes, binds in (({"launch_s": 1e-3}, "launch"), ({"fixed_s": 1.0}, "fixed")):
        slow = replace(DEVICE, passes={"bfloat16": replace(PLAIN, **changes)})
        assert placed(profile=slow).parts(1, 1, 511).binds == binds
    far = replace(DEVICE, link=Link(bytes_per_s=1e6, latency_s=1e-3))
    assert placed(2, profile=far).parts(1, 1, 511).binds == "link"


def test_the_overlap_exponent_and_curves_join_as_in_the_cost_function() -> None:
    # The seconds a FLOP of 5 x 8 tokens lie half way, in logarithms, between those of 10 and of 160.
    curve = Curve(np.array([10.0, 160.0]), np.array([4e-14, 1e-14]))
    device = replace(DEVICE, passes={"bfloat16": replace(PLAIN, flop_scale=curve, overlap_exponent=2)})
    parts = placed(profile=device).parts(8, 5, 100)
    assert parts.compute_s == pytest.approx(flops_by_hand(8, 5, 100) * 2e-14, rel=1e-12)
    total_s = np.hypot(parts.compute_s, parts.memory_s) + 32 * 4 * LAUNCH_S + FIXED_S
    assert parts.total_s == pytest.approx(total_s, rel=1e-12)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_divide_the_work_and_add_two_ring_all_reduces_a_layer(devices: int) -> None:
    one, many = placed().parts(8, 5, 1000), placed(devices).parts(8, 5, 1000)
    assert many.compute_s == pytest.approx(one.compute_s / devices, rel=1e-12)
    assert many.memory_s == pytest.approx(one.memory_s / devices, rel=1e-12)
    assert many.launch_s == one.launch_s
    # Hidden states of 40 tokens in 16 bits: every device sends 2 (n - 1) chunks of an n-th of them.
    reduce_s = 1e-5 + 2 * (devices - 1) * (40 * 4096 * 2 / devices) / 1e11
    assert many.link_s == pytest.approx(32 * 2 * reduce_s, rel=1e-12)
    longer_s = max(many.compute_s, many.memory_s)
    assert many.total_s == pytest.approx(longer_s + many.launch_s + many.fixed_s + many.link_s, rel=1e-12)


def test_devices_without_a_link_are_refused() -> None:
    with pytest.raises(UserError, match=r"--tp: 2 devices, but the profile one names no link, expected 1"):
        placed(2, profile=replace(DEVICE, link=None)).parts(1, 1, 1)


# gemma-2b: 18 layers, one key and value head of 256. deepseek-v2-lite: 27 layers, one latent vector of 512 + 64.
@pytest.mark.parametrize(("name", "a_token"), [("gemma-2b", 18 * 2 * 256 * 2), ("deepseek-v2-lite", 27 * 576 * 2)])
def test_a_single_key_and_value_head_is_held_and_read_by_every_device(name: str, a_token: int) -> None:
    one, four = placed(1, name), placed(4, name)
    for model in (one, four):
        more = model.memory_bytes(3, 1001) - model.memory_bytes(3, 1)
        assert more == pytest.approx(3 * 1000 * a_token, rel=1e-9)
        longer_s = model.parts(3, 1, 1001).memory_s - model.parts(3, 1, 1).memory_s
        assert longer_s == pytest.approx(3 * 1000 * a_token * BYTE_S, rel=1e-6)
    weights = four.memory_bytes(3, 1001) - 3 * 1001 * a_token
    assert weights == pytest.approx(read_shape(name).weight_bytes("bfloat16") / 4, rel=1e-9)


def test_grouped_heads_are_divided_as_far_as_they_go() -> None:
    # Llama 3.1 8B: 8 key and value heads of 128 in 32 layers.
    a_token = 32 * 2 * 8 * 128 * 2
    for devices, shares in ((1, 1), (4, 4), (8, 8), (16, 8), (32, 8)):
        model = placed(devices, "llama-3.1-8b")
        more = model.memory_bytes(2, 4097) - model.memory_bytes(2, 1)
        assert more == pytest.approx(2 * 4096 * a_token / shares, rel=1e-9)


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "weight", "outer", "kv"),
    [
        ("bfloat16", None, 2, 2, 2),
        ("float32", None, 4, 4, 4),
        ("fp8", None, 1, 2, 2),
        ("fp8", "fp8", 1, 2, 1),
    ],
)
def test_memory_is_weights_and_cache_in_their_formats(
    dtype: str, kv_dtype: str | None, weight: float, outer: float, kv: float
) -> None:
    model = replace(placed(), dtype=dtype, kv_dtype=kv_dtype)
    head = 32000 * 4096
    weights = (MULTIPLIED - head) * weight + (2 * head + NORMS) * outer
    assert model.memory_bytes(3, 700) == pytest.approx(weights + 3 * 700 * 32 * 2 * 4096 * kv, rel=1e-12)


def bytes_of(name: str, batch: int, context: int) -> float:
    shape = read_shape(name)
    return shape.weight_bytes("bfloat16") + batch * context * shape.kv_bytes_per_token("bfloat16")


@given(st.integers(1, 40_000), st.floats(1, 60), st.sampled_from([1, 2]), st.sampled_from(["same", "separate"]))
def test_the_largest_batch_is_the_last_that_fits(context: int, gib: float, devices: int, placement: str) -> None:
    memory = int(gib * 2**30)
    pair = replace(PAIR, profile=replace(DEVICE, memory_bytes=memory), context=context, devices=devices)
    pair = replace(pair, placement=placement)

    def fits(batch: int) -> bool:
        target = bytes_of("llama-2-7b", batch, context) / devices
        if placement == SEPARATE:
            return max(target, bytes_of("llama-68m", batch, context)) <= USABLE_MEMORY * memory
        return target + bytes_of("llama-68m", batch, context) / devices <= USABLE_MEMORY * memory

    found = largest_batch(pair)
    assert found is not None
    assert found == 0 or fits(found)
    assert not fits(found + 1)


def test_an_empty_context_still_bounds_the_batch() -> None:
    # Of a sequence that starts, one token at least is held.
    assert largest_batch(replace(PAIR, context=0)) == largest_batch(replace(PAIR, context=1))


def test_the_largest_batch_is_not_known_without_the_memory() -> None:
    assert largest_batch(replace(PAIR, profile=replace(DEVICE, memory_bytes=None))) is None


def test_a_draft_apart_leaves_the_target_its_memory_and_runs_on_one_device() -> None:
    same, apart = replace(PAIR, devices=4), replace(PAIR, devices=4, placement=SEPARATE)
    assert (same.placed_draft.devices, apart.placed_draft.devices) == (4, 1)
    assert same.memory_bytes == pytest.approx((bytes_of("llama-2-7b", 1, 1024) + bytes_of("llama-68m", 1, 1024)) / 4)
    assert apart.memory_bytes == pytest.approx(bytes_of("llama-2-7b", 1, 1024) / 4)
    cost = apart.round_cost(3)
    assert cost.baseline_s == same.round_cost(3).baseline_s
    assert cost.draft_step_s == placed(1, "llama-68m").parts(1, 1, 1024).total_s
    assert same.round_cost(3).draft_step_s == placed(4, "llama-68m").parts(1, 1, 1024).total_s


def test_a_draft_apart_that_fills_its_own_device_bounds_the_batch() -> None:
    # The target is on 8 devices, a draft of the same size on a single one.
    pair = replace(PAIR, draft=LLAMA, devices=8, placement=SEPARATE)
    assert largest_batch(pair) == largest_batch(replace(PAIR, target=PAIR.draft, draft=LLAMA, placement=SEPARATE))
    assert pair.memory_bytes == pytest.approx(bytes_of("llama-2-7b", 1, 1024))


def test_a_round_is_its_passes() -> None:
    cost = replace(PAIR, batch=4, context=511).round_cost(3)
    target, draft = placed(), placed(1, "llama-68m")
    assert cost.baseline_s == target.parts(4, 1, 511).total_s
    assert cost.verify_s == target.parts(4, 4, 511).total_s
    assert cost.draft_step_s == draft.parts(4, 1, 511).total_s
    assert cost.draft_s == 3 * cost.draft_step_s
    assert cost.overhead_s == 1e-3


@pytest.mark.parametrize("target", ["llama-2-7b", "mixtral-8x7b", "gemma-3-1b", "deepseek-v2-lite"])
def test_a_grid_of_lengths_batches_and_contexts_is_its_points(target: str) -> None:
    pair = replace(PAIR, target=read_shape(target))
    lengths, batches, contexts = np.array([1, 4, 9]), np.array([1, 7]), np.array([0, 100, 5000])
    grid = np.ix_(lengths, batches, contexts)
    found = replace(pair, batch=grid[1], context=grid[2]).round_cost(grid[0])
    for at in np.ndindex(3, 2, 3):
        k, b, s = lengths[at[0]], batches[at[1]], contexts[at[2]]
        alone = replace(pair, batch=int(b), context=int(s)).round_cost(int(k))
        for name in TIMES:
            assert getattr(alone, name).shape == ()
            assert getattr(found, name)[at] == pytest.approx(float(getattr(alone, name)), rel=1e-12)


LENGTHS = [3, np.array([3]), np.array([1, 2, 5]), np.array([[1, 2], [3, 4]])]


@pytest.mark.parametrize("lengths", LENGTHS, ids=["scalar", "one", "three", "two by two"])
def test_samples_come_in_front_and_without_uncertainty_repeat_the_plain_costs(lengths: object) -> None:
    certain = replace(PLAIN, uncertain=("mem_scale[0]", "launch_s"), covariance=np.zeros((2, 2)))
    pair = replace(PAIR, profile=replace(DEVICE, passes={"bfloat16": certain}))
    drawn, plain = pair.sample(np.random.default_rng(0), 7).round_cost(lengths), pair.round_cost(lengths)
    for name in TIMES:
        wide = np.broadcast_to(getattr(drawn, name), (7, *np.shape(lengths)))
        assert wide == pytest.approx(np.broadcast_to(getattr(plain, name), wide.shape), rel=1e-12)
    assert drawn.after_miss_s.shape == (7, *np.shape(lengths))
    assert drawn.draft_length.shape == np.shape(lengths)


def test_a_batch_and_context_of_arrays_can_be_sampled_too() -> None:
    pair = replace(PAIR, batch=np.array([1, 8]), context=np.array([[100], [200], [300]]), round_overhead_error=0.5)
    assert pair.sample(np.random.default_rng(0), 5).round_cost(4).after_miss_s.shape == (5, 3, 2)


def test_samples_move_target_and_draft_of_one_format_together_and_others_apart() -> None:
    uncertain = replace(
        PLAIN,
        launch_s=0,
        fixed_s=0,
        uncertain=("mem_scale[0]",),
        covariance=np.array([[0.04]]),
        overlap_exponent=np.inf,
    )
    pair = replace(PAIR, profile=replace(DEVICE, passes={"bfloat16": uncertain, "fp8": uncertain}))
    for draft_dtype, spread in (("bfloat16", 0.0), ("fp8", 0.2 * np.sqrt(2))):
        cost = replace(pair, draft_dtype=draft_dtype).sample(np.random.default_rng(1), 4000).round_cost(2)
        log_ratio = np.log(cost.draft_step_s / cost.baseline_s)
        assert np.log(cost.baseline_s).std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * 4000))
        assert log_ratio.std() == pytest.approx(spread, rel=4 / np.sqrt(2 * 4000), abs=1e-12)


def test_formats_of_a_data_sheet_share_the_draws_of_a_name() -> None:
    # What is assumed of a device holds in every number format of it.
    names = ("flop_scale[0]", "mem_scale[0]")
    one = replace(
        PLAIN, launch_s=0, fixed_s=0, uncertain=names, covariance=np.diag([0.09, 0.04]), overlap_exponent=np.inf
    )
    # Another order, another error, and a parameter of its own before them.
    other = replace(one, launch_s=1e-9, uncertain=("launch_s", *names[::-1]), covariance=np.diag([0.01, 0.01, 0.09]))
    pair = replace(PAIR, profile=replace(DEVICE, status=DATASHEET, passes={"bfloat16": one, "fp8": other}))
    drawn = pair.sample(np.random.default_rng(1), 500).profile.passes
    logs = {
        (dtype, name): np.log(getattr(cost, name).seconds[:, 0] / getattr(one, name).seconds[0])
        for dtype, cost in drawn.items()
        for name in ("flop_scale", "mem_scale")
    }
    assert logs["fp8", "flop_scale"] == pytest.approx(logs["bfloat16", "flop_scale"])
    assert 2 * logs["fp8", "mem_scale"] == pytest.approx(logs["bfloat16", "mem_scale"])
    apart = np.corrcoef(logs["fp8", "flop_scale"], logs["fp8", "mem_scale"])[0, 1]
    assert abs(apart) < 4 / np.sqrt(500)


def test_an_assumed_number_of_launches_is_drawn_alike_for_both_models() -> None:
    device = replace(DEVICE, launches_per_layer_error=0.3, passes={"bfloat16": replace(PLAIN, fixed_s=0)})
    slow = replace(device, passes={"bfloat16": replace(PLAIN, fixed_s=0, launch_s=1.0)})
    found = replace(PAIR, profile=slow).sample(np.random.default_rng(3), 4000).round_cost(2)
    logs = np.log(found.baseline_s / (32 * 4))
    assert logs.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * 4000))
    assert found.draft_step_s / found.baseline_s == pytest.approx(np.full(4000, PAIR.draft.layers / 32), rel=0.01)


def test_the_link_is_drawn_with_its_own_error_alike_for_every_pass() -> None:
    far = replace(DEVICE, link=Link(bytes_per_s=1e6, latency_s=1e-3, error=0.2))
    found = replace(PAIR, profile=far, devices=2).sample(np.random.default_rng(4), 4000)
    parts = found.placed_target.parts(np.array([1, 64]), 1, 100)
    plain = placed(2, profile=far).parts(np.array([1, 64]), 1, 100)
    logs = np.log(parts.link_s / plain.link_s)
    assert parts.link_s.shape == (4000, 2)
    assert logs[:, 0] == pytest.approx(logs[:, 1])
    assert logs[:, 0].std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * 4000))
    assert parts.total_s == pytest.approx(plain.total_s + parts.link_s - plain.link_s)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_in_a_mesh_a_device_has_a_link_to_each_other_one(devices: int) -> None:
    mesh = replace(DEVICE, link=Link(bytes_per_s=1e11, latency_s=1e-5, mesh=True))
    one, many = placed(2, profile=mesh).parts(8, 5, 1000), placed(devices, profile=mesh).parts(8, 5, 1000)
    # Two devices share one link, so that a switch of that speed is as fast; eight send over seven at once.
    assert one.link_s == placed(2).parts(8, 5, 1000).link_s
    reduce_s = 1e-5 + 2 * (40 * 4096 * 2 / devices) / 1e11
    assert many.link_s == pytest.approx(32 * 2 * reduce_s, rel=1e-12)


def test_the_overhead_of_a_round_is_drawn_with_its_own_error() -> None:
    pair = replace(PAIR, round_overhead_error=0.3)
    overhead_s = pair.sample(np.random.default_rng(2), 4000).round_cost(np.array([1, 4])).overhead_s
    assert (overhead_s[:, 0] == overhead_s[:, 1]).all()
    logs = np.log(overhead_s[:, 0] / 1e-3)
    assert logs.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * 4000))
    assert abs(logs.mean()) < 4 * 0.3 / np.sqrt(4000)


@pytest.mark.parametrize("part", PARTS)
def test_a_scaled_constant_scales_its_part_alone(part: str) -> None:
    pair, name = replace(PAIR, devices=2), {"compute": "flop_scale", "memory": "mem_scale"}.get(part, f"{part}_s")
    plain, more = (p.placed_target.parts(4, 5, 300) for p in (pair, pair.scaled({name: 1.5})))
    for own in PARTS:
        factor = 1.5 if own == part else 1.0
        assert getattr(more, f"{own}_s") == pytest.approx(factor * getattr(plain, f"{own}_s"), rel=1e-12)


def test_scaled_launches_fixed_times_and_overheads() -> None:
    plain, more = PAIR.round_cost(4), PAIR.scaled({"launch_s": 2, "fixed_s": 3, "round_overhead_s": 4}).round_cost(4)
    assert more.verify_s - plain.verify_s == pytest.approx(32 * 4 * LAUNCH_S + 2 * FIXED_S, rel=1e-9)
    assert more.overhead_s == pytest.approx(4e-3)
