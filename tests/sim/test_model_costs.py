"""Costs of two models on a device: rooflines worked by hand, tensor parallelism, memory, arrays and samples."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.answers.model_report import memory_text
from simulator.answers.uncertainty import uncertainty
from simulator.costs.cautions import cautions
from simulator.costs.model_costs import SEPARATE, Placed
from simulator.costs.parts import PARTS
from simulator.costs.profile import DATASHEET, USABLE_MEMORY, Curve, Link, Power, Profile, constant
from simulator.costs.ranges import TimedRange
from simulator.costs.room import largest_batch
from simulator.costs.shapes import read_shape
from simulator.costs.step import RoundCost
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import IidAcceptance

from .builders import device, model_pair, pass_cost

FLOP_S, BYTE_S, LAUNCH_S, FIXED_S = 2e-15, 5e-13, 3e-6, 2e-5
PLAIN = pass_cost(FLOP_S, BYTE_S, launch_s=LAUNCH_S, fixed_s=FIXED_S)
DEVICE = device(
    {"bfloat16": PLAIN, "fp8": replace(PLAIN, flop_scale=constant(FLOP_S / 2)), "float32": PLAIN},
    launches_per_layer=4,
    memory_bytes=24 * 2**30,
    link=Link(bytes_per_s=1e11, latency_s=1e-5),
    power=Power(idle_w=50, load_w=400),
)
PAIR = model_pair(DEVICE, "llama-2-7b", "llama-68m", round_overhead_s=1e-3)
LLAMA = PAIR.target
TIMES = tuple(name for name in RoundCost._fields if name not in ("draft_length", "drafted", "ahead_s"))

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


def test_a_pass_is_the_roofline_worked_by_hand() -> None:
    launch_s = 32 * 4 * LAUNCH_S
    for sizes in ((1, 1, 511), (1, 5, 511), (8, 1, 4000), (512, 5, 16)):
        parts = placed().parts(*sizes)
        compute_s, memory_s = flops_by_hand(*sizes) * FLOP_S, bytes_by_hand(*sizes) * BYTE_S
        assert (parts.compute_s, parts.memory_s) == (pytest.approx(compute_s, 1e-12), pytest.approx(memory_s, 1e-12))
        assert (parts.launch_s, parts.fixed_s) == (pytest.approx(launch_s, 1e-12), FIXED_S)
        assert parts.link_s == 0
        assert parts.total_s == pytest.approx(max(compute_s, memory_s) + launch_s + FIXED_S, rel=1e-12)
        assert parts.binds == ("compute" if sizes[0] == 512 else "memory")
    # Launches, what is fixed, or the link bind where they are longest.
    for changes, binds in (({"launch_s": 1e-3}, "launch"), ({"fixed_s": 1.0}, "fixed")):
        slow = replace(DEVICE, passes={"bfloat16": replace(PLAIN, **changes)})
        assert placed(profile=slow).parts(1, 1, 511).binds == binds
    far = replace(DEVICE, link=Link(bytes_per_s=1e6, latency_s=1e-3))
    assert placed(2, profile=far).parts(1, 1, 511).binds == "link"


def test_the_overlap_exponent_and_curves_join_as_in_the_cost_function() -> None:
    # The seconds a FLOP of 5 x 8 tokens lie half way, in logarithms, between those of 10 and of 160.
    curve = Curve(np.array([10.0, 160.0]), np.array([4e-14, 1e-14]))
    curved = replace(DEVICE, passes={"bfloat16": replace(PLAIN, flop_scale=curve, overlap_exponent=2)})
    parts = placed(profile=curved).parts(8, 5, 100)
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
    chunk_s = (40 * 4096 * 2 / devices) / 1e11
    assert many.link_s == pytest.approx(32 * 2 * (1e-5 + 2 * (devices - 1) * chunk_s), rel=1e-12)
    longer_s = max(many.compute_s, many.memory_s)
    assert many.total_s == pytest.approx(longer_s + many.launch_s + many.fixed_s + many.link_s, rel=1e-12)
    # In a mesh, to each other one at once; two devices share one link, so that a switch of that speed is as fast.
    mesh = replace(DEVICE, link=Link(bytes_per_s=1e11, latency_s=1e-5, mesh=True))
    assert placed(devices, profile=mesh).parts(8, 5, 1000).link_s == pytest.approx(32 * 2 * (1e-5 + 2 * chunk_s), 1e-12)
    assert placed(2, profile=mesh).parts(8, 5, 1000).link_s == placed(2).parts(8, 5, 1000).link_s
    with pytest.raises(UserError, match=r"--tp: 2 devices, but the profile one names no link, expected 1"):
        placed(2, profile=replace(DEVICE, link=None)).parts(1, 1, 1)


def test_memory_is_weights_and_cache_in_their_formats() -> None:
    head = 32000 * 4096
    for dtype, kv_dtype, weight, outer, kv in (
        ("bfloat16", None, 2, 2, 2),
        ("float32", None, 4, 4, 4),
        ("float16", None, 2, 2, 2),
        ("fp8", None, 1, 2, 2),
        ("fp8", "fp8", 1, 2, 1),
        ("int8", "float16", 1, 2, 2),
        ("int4", "float32", 0.5, 2, 4),
    ):
        model = replace(placed(), dtype=dtype, kv_dtype=kv_dtype)
        weights = (MULTIPLIED - head) * weight + (2 * head + NORMS) * outer
        assert model.memory_bytes(3, 700) == pytest.approx(weights + 3 * 700 * 32 * 2 * 4096 * kv, rel=1e-12)


# Llama 3.1 8B: 8 key and value heads of 128 in 32 layers, divided as far as they go. Gemma 2B: 18 layers, one head of
# 256, and DeepSeek V2 Lite: 27 layers, one latent vector of 512 + 64, are held and read by every device.
def test_keys_and_values_are_divided_as_far_as_their_heads_go() -> None:
    shares = {"llama-3.1-8b": (1, 4, 8, 8, 8), "gemma-2b": (1, 1, 1, 1, 1), "deepseek-v2-lite": (1, 1, 1, 1, 1)}
    a_token = {"llama-3.1-8b": 32 * 2 * 8 * 128 * 2, "gemma-2b": 18 * 2 * 256 * 2, "deepseek-v2-lite": 27 * 576 * 2}
    for name, divided in shares.items():
        for devices, share in zip((1, 4, 8, 16, 32), divided, strict=True):
            model, kv = placed(devices, name), 3 * a_token[name] / share
            assert model.memory_bytes(3, 1001) - model.memory_bytes(3, 1) == pytest.approx(1000 * kv, rel=1e-9)
            longer_s = model.parts(3, 1, 1001).memory_s - model.parts(3, 1, 1).memory_s
            assert longer_s == pytest.approx(1000 * kv * BYTE_S, rel=1e-6)
            weights = read_shape(name).weight_bytes("bfloat16") / devices
            assert model.memory_bytes(3, 1001) - 1001 * kv == pytest.approx(weights, rel=1e-9)


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


def test_an_empty_context_bounds_the_batch_and_an_unknown_memory_does_not() -> None:
    # Of a sequence that starts, one token at least is held.
    assert largest_batch(replace(PAIR, context=0)) == largest_batch(replace(PAIR, context=1))
    assert largest_batch(replace(PAIR, profile=replace(DEVICE, memory_bytes=None))) is None


def test_a_model_that_keeps_nothing_of_a_sequence_does_not_limit_the_batch() -> None:
    bare = replace(PAIR.draft, attentions=())
    apart = replace(PAIR, draft=bare, placement=SEPARATE)
    assert largest_batch(apart) == largest_batch(replace(PAIR, placement=SEPARATE))
    assert largest_batch(replace(apart, target=bare)) is None
    assert largest_batch(replace(apart, profile=replace(DEVICE, memory_bytes=1))) == 0


def test_a_draft_apart_leaves_the_target_its_memory_and_runs_on_one_device() -> None:
    same, apart = replace(PAIR, devices=4), replace(PAIR, devices=4, placement=SEPARATE)
    assert (same.placed_draft.devices, apart.placed_draft.devices) == (4, 1)
    assert same.memory_bytes == pytest.approx((bytes_of("llama-2-7b", 1, 1024) + bytes_of("llama-68m", 1, 1024)) / 4)
    assert apart.memory_bytes == pytest.approx(bytes_of("llama-2-7b", 1, 1024) / 4)
    cost = apart.round_cost(3)
    assert cost.baseline_s == same.round_cost(3).baseline_s
    assert cost.draft_step_s == placed(1, "llama-68m").parts(1, 1, 1024).total_s
    assert same.round_cost(3).draft_step_s == placed(4, "llama-68m").parts(1, 1, 1024).total_s
    # With the target on 8 devices, a draft of the same size on a single one is what bounds the batch.
    pair = replace(PAIR, draft=LLAMA, devices=8, placement=SEPARATE)
    assert largest_batch(pair) == largest_batch(replace(PAIR, target=PAIR.draft, draft=LLAMA, placement=SEPARATE))
    assert pair.memory_bytes == pytest.approx(bytes_of("llama-2-7b", 1, 1024))


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


def test_samples_come_in_front_and_without_uncertainty_repeat_the_plain_costs() -> None:
    certain = replace(PLAIN, uncertain=("mem_scale[0]", "launch_s"), covariance=np.zeros((2, 2)))
    pair = replace(PAIR, profile=replace(DEVICE, passes={"bfloat16": certain}))
    for lengths in (3, np.array([3]), np.array([1, 2, 5]), np.array([[1, 2], [3, 4]])):
        drawn, plain = pair.sample(np.random.default_rng(0), 7).round_cost(lengths), pair.round_cost(lengths)
        for name in TIMES:
            wide = np.broadcast_to(getattr(drawn, name), (7, *np.shape(lengths)))
            assert wide == pytest.approx(np.broadcast_to(getattr(plain, name), wide.shape), rel=1e-12)
        assert drawn.after_miss_s.shape == (7, *np.shape(lengths))
        assert drawn.draft_length.shape == np.shape(lengths)
    pair = replace(PAIR, batch=np.array([1, 8]), context=np.array([[100], [200], [300]]), round_overhead_error=0.5)
    assert pair.sample(np.random.default_rng(0), 5).round_cost(4).after_miss_s.shape == (5, 3, 2)


# Known but for what the tests say, and with arithmetic and memory apart.
APART = replace(PLAIN, launch_s=0, fixed_s=0, overlap_exponent=np.inf)


def test_formats_are_drawn_apart_but_for_what_they_share() -> None:
    uncertain = replace(APART, uncertain=("mem_scale[0]",), covariance=np.array([[0.04]]))
    pair = replace(PAIR, profile=replace(DEVICE, passes={"bfloat16": uncertain, "fp8": uncertain}))
    for draft_dtype, spread in (("bfloat16", 0.0), ("fp8", 0.2 * np.sqrt(2))):
        cost = replace(pair, draft_dtype=draft_dtype).sample(np.random.default_rng(1), 4000).round_cost(2)
        log_ratio = np.log(cost.draft_step_s / cost.baseline_s)
        assert np.log(cost.baseline_s).std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * 4000))
        assert log_ratio.std() == pytest.approx(spread, rel=4 / np.sqrt(2 * 4000), abs=1e-12)
    # What is assumed of a device holds in every number format of it.
    names = ("flop_scale[0]", "mem_scale[0]")
    one = replace(APART, uncertain=names, covariance=np.diag([0.09, 0.04]))
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


def test_what_is_assumed_or_fitted_is_drawn_with_its_own_error() -> None:
    slow = replace(DEVICE, launches_per_layer_error=0.3, passes={"bfloat16": replace(PLAIN, fixed_s=0, launch_s=1.0)})
    found = replace(PAIR, profile=slow).sample(np.random.default_rng(3), 4000).round_cost(2)
    logs = np.log(found.baseline_s / (32 * 4))
    assert logs.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * 4000))
    assert found.draft_step_s / found.baseline_s == pytest.approx(np.full(4000, PAIR.draft.layers / 32), rel=0.01)
    far = replace(DEVICE, link=Link(bytes_per_s=1e6, latency_s=1e-3, error=0.2))
    found = replace(PAIR, profile=far, devices=2).sample(np.random.default_rng(4), 4000)
    parts = found.placed_target.parts(np.array([1, 64]), 1, 100)
    plain = placed(2, profile=far).parts(np.array([1, 64]), 1, 100)
    logs = np.log(parts.link_s / plain.link_s)
    assert parts.link_s.shape == (4000, 2)
    assert logs[:, 0] == pytest.approx(logs[:, 1])
    assert logs[:, 0].std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * 4000))
    assert parts.total_s == pytest.approx(plain.total_s + parts.link_s - plain.link_s)
    pair = replace(PAIR, round_overhead_error=0.3)
    overhead_s = pair.sample(np.random.default_rng(2), 4000).round_cost(np.array([1, 4])).overhead_s
    assert (overhead_s[:, 0] == overhead_s[:, 1]).all()
    logs = np.log(overhead_s[:, 0] / 1e-3)
    assert logs.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * 4000))
    assert abs(logs.mean()) < 4 * 0.3 / np.sqrt(4000)


def test_a_scaled_constant_scales_its_part_alone() -> None:
    pair, constants = replace(PAIR, devices=2), {"compute": "flop_scale", "memory": "mem_scale"}
    for scaled in PARTS:
        more = pair.scaled({constants.get(scaled, f"{scaled}_s"): 1.5}).placed_target.parts(4, 5, 300)
        for part in PARTS:
            expected_s = (1.5 if part == scaled else 1.0) * getattr(pair.placed_target.parts(4, 5, 300), f"{part}_s")
            assert getattr(more, f"{part}_s") == pytest.approx(expected_s, rel=1e-12)
    plain, more = PAIR.round_cost(4), PAIR.scaled({"launch_s": 2, "fixed_s": 3, "round_overhead_s": 4}).round_cost(4)
    assert more.verify_s - plain.verify_s == pytest.approx(32 * 4 * LAUNCH_S + 2 * FIXED_S, rel=1e-9)
    assert more.overhead_s == pytest.approx(4e-3)


def test_beyond_what_was_timed_a_forecast_is_less_sure_by_the_doubling() -> None:
    timed = {"batch": TimedRange(least=1, most=8), "context": TimedRange(least=128, most=1024)}
    profile = device({"bfloat16": pass_cost(2e-13, 4e-13)}, timed=timed)
    rng, samples = np.random.default_rng(0), 20_000
    for batch, context, doublings in ((8, 1024, 0), (32, 1024, 2), (8, 4096, 2), (1, 32, 2), (64, 4096, 5)):
        pair = model_pair(profile, "llama-3.1-8b", "llama-3.2-1b", batch=batch, context=context)
        cost, plain = pair.sample(rng, samples).round_cost(np.array([4])), pair.round_cost(np.array([4]))
        for name in ("verify_s", "draft_s"):
            spread = np.log(getattr(cost, name) / getattr(plain, name)).std()
            assert spread == pytest.approx(0.04 * doublings, rel=0.03), (batch, context, name)
        assert (cost.baseline_s == plain.baseline_s).all()
        beyond = [text for text in cautions(pair, 4) if "was timed at" in text]
        assert len(beyond) == (batch > 8) + (context not in (128, 1024))
    assert any(text.startswith("64 sequences: one was timed at 1 to 8; ") for text in beyond)


@pytest.mark.parametrize("timed", [{}, {"batch": TimedRange(least=1, most=8)}])
def test_a_number_format_that_was_not_timed_widens_what_is_said_of_its_model_alone(
    timed: dict[str, TimedRange],
) -> None:
    profile = device({"bfloat16": pass_cost(2e-13, 4e-13)}, timed=timed)
    pair = replace(model_pair(profile, "llama-3.1-8b", "llama-3.2-1b", batch=8), dtype="int4")
    untimed = "llama-3.1-8b in int4: one was timed in bfloat16 alone; that adds 10%"
    for narrow, verify, draft in (
        (pair, 0.1, 0),
        (replace(pair, draft_dtype="int4"), 0.1, 0.1),
        (replace(pair, dtype="bfloat16"), 0, 0),
        # A data sheet was timed nowhere, and is unsure in every format.
        (replace(pair, profile=replace(profile, status=DATASHEET, timed={})), 0.12, 0.12),
    ):
        cost = narrow.sample(np.random.default_rng(0), 20_000).round_cost(np.array([4]))
        plain = narrow.round_cost(np.array([4]))
        spreads = [np.log(getattr(cost, name) / getattr(plain, name)).std() for name in ("verify_s", "draft_s")]
        assert spreads == pytest.approx([verify, draft], rel=0.03, abs=1e-12)
        assert (untimed in cautions(narrow)) == (verify == 0.1)


def test_how_passes_grow_with_their_tokens_is_not_known_where_they_were_not_timed() -> None:
    timed = {"weights": TimedRange(least=1e9, most=1e9)}
    profile, lengths = device({"bfloat16": pass_cost(2e-13, 4e-13)}, timed=timed), np.array([1, 3, 7])
    pair = model_pair(profile, "llama-3.1-8b", "llama-3.2-1b", batch=8)
    cost, plain = pair.sample(np.random.default_rng(0), 20_000).round_cost(lengths), pair.round_cost(lengths)
    off = np.log(cost.verify_s / plain.verify_s)
    # As unsure at each K, and as a walk over the doublings of 2, 4 and 8 tokens.
    assert off.std(0) == pytest.approx([0.04 * np.log2(8.030261248)] * 3, rel=0.03)
    assert np.corrcoef(off.T)[0] == pytest.approx(np.sqrt([1, 1 / 2, 1 / 3]), abs=0.03)
    # A drafted token takes what it takes whatever K is.
    assert np.ptp(np.log(cost.draft_step_s / plain.draft_step_s), axis=1).max() < 1e-12
    # Where weights bind, a verification takes what a plain step takes: never less.
    bound = replace(pair, batch=1, profile=replace(profile, passes={"bfloat16": pass_cost(2e-16, 4e-13)}))
    cost = bound.sample(np.random.default_rng(0), 1000).round_cost(lengths)
    assert (cost.verify_s >= cost.baseline_s).all()
    # So that the best K is no surer than the costs of each.
    far = replace(profile, timed={"weights": TimedRange(least=1e6, most=1e6)})
    found = (replace(bound, profile=replace(bound.profile, timed=p.timed)) for p in (far, device()))
    law, rngs = IidAcceptance(0.8), (np.random.default_rng(0) for _ in range(2))
    unsure, sure = (uncertainty(p, law, 4, 8, rng, overlap=False) for p, rng in zip(found, rngs, strict=True))
    assert unsure.best_draft_length_ci95[0] < unsure.best_draft_length == sure.best_draft_length
    assert unsure.best_share < 0.7 < sure.best_share == 1


def test_digits_tell_what_there_is_from_what_it_takes() -> None:
    needed = float(PAIR.memory_bytes) / 1e9
    for off, shown in ((0.004, "do NOT fit into"), (-0.004, "fit into")):
        profile = replace(DEVICE, memory_bytes=(needed - off) * 1e9 / USABLE_MEMORY)
        before, _, after = memory_text(replace(PAIR, profile=profile)).partition(f" {shown} ")
        takes, there = before.split()[1], after.split()[0]
        assert (float(takes) > float(there)) == (off > 0)
