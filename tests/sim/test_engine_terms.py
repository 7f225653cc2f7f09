"""What an engine adds to passes: worked by hand, nothing where a profile is silent, and held against served steps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree
from simulator.costs.engine import Engine
from simulator.costs.model_costs import Placed
from simulator.costs.profile import PassCost, Profile, constant
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.work import touched_share

from .builders import device, model_pair, pass_cost

LAUNCH_S, FLOP_S = 3e-6, 2e-15
DEVICE = device(
    {"bfloat16": pass_cost(FLOP_S, 5e-13, launch_s=LAUNCH_S, fixed_s=2e-5), "fp8": pass_cost(FLOP_S, 5e-13)},
    launches_per_layer=4,
)
MIXTURE = "qwen3-30b-a3b"


def placed(engine: Engine | None, name: str = MIXTURE, profile: Profile = DEVICE, **more: object) -> Placed:
    shape = read_shape(name)
    given_ = {"shape": shape, "dtype": shape.storage or "bfloat16", "kv_dtype": None, "devices": 1}
    return Placed(**given_ | {"profile": replace(profile, engine=engine)} | more)


@given(batch=st.integers(1, 64), tokens=st.integers(1, 9))
def test_an_engine_of_which_nothing_is_known_changes_nothing(batch: int, tokens: int) -> None:
    silent, empty = (placed(engine).parts(batch, tokens, 700) for engine in (None, Engine()))
    assert silent == empty
    pairs = [model_pair(replace(DEVICE, engine=e), "llama-2-7b", "llama-68m", batch=batch) for e in (None, Engine())]
    assert np.array_equal(*(np.asarray(pair.round_cost(np.arange(1, 9))[:6]) for pair in pairs))  # seconds alone


def test_a_further_token_of_a_sequence_touches_fewer_experts() -> None:
    """Five tokens of each of eight sequences choose as 8 x (1 + 4 x 0.7) of different ones; 48 layers, 8 of 128."""
    shape, layers_bytes = read_shape(MIXTURE), 48 * 128 * 3 * 2048 * 768 * 2
    (experts, *_) = (m for m in shape.matrices if m.is_expert)
    apart, shared = (placed(Engine(expert_overlap=o)).moved_bytes(8, 5, 700) for o in (0.0, 0.3))
    expected = layers_bytes * ((1 - (15 / 16) ** 40) - (1 - (15 / 16) ** 30.4))
    assert float(apart - shared) == pytest.approx(expected, rel=1e-9)
    assert float(touched_share(experts, 30.4)) == pytest.approx(1 - (15 / 16) ** 30.4)
    # Of tokens of different sequences it says nothing, and of wholly shared ones there is but one.
    one, all_shared = (placed(Engine(expert_overlap=o)).moved_bytes(8, 1, 700) for o in (0.0, 1.0))
    assert one == all_shared
    whole = placed(Engine(expert_overlap=1.0))
    per_token = float(whole.moved_bytes(8, 5, 700) - whole.moved_bytes(8, 4, 700))
    assert per_token == pytest.approx(float(whole.moved_bytes(8, 4, 700) - whole.moved_bytes(8, 3, 700)))


def test_few_sums_are_sent_whole_to_all_others_at_once() -> None:
    """Ring: 2 x 7 / 8 of what is summed up; in one shot 7 times all of it. Two devices send the same in both."""
    tokens, size = np.array([1.0, 16.0, 17.0, 128.0, 129.0]), 16384.0
    ring = 2 * 7 / 8 * tokens * size
    assert np.array_equal(Engine().sent(8, tokens, size), ring)
    for engine, few in ((Engine().summing_as("trtllm"), 128), (Engine().summing_as("vllm"), 16)):
        sent = engine.sent(8, tokens, size)
        assert np.array_equal(sent, np.where(tokens <= few, 7 * tokens * size, ring))
        assert np.array_equal(engine.sent(2, tokens, size), Engine().sent(2, tokens, size))
        assert engine.summing_as("another") == engine
    joined = load_profile("h200")
    one, ring_s = (placed(e, "llama-3.1-70b", joined, devices=8).link_s(tokens) for e in (engine, Engine()))
    assert list(one > ring_s) == [True, True, False, False, False]


@pytest.mark.parametrize(("name", "more"), [("llama-2-7b", 0), (MIXTURE, 48 * 24), ("deepseek-v3", 58 * 24 + 61 * 8)])
def test_layers_of_experts_and_of_latent_attention_launch_more(name: str, more: int) -> None:
    with_more = placed(Engine(layer_launches={"experts": 24, "latent": 8}), name)
    assert with_more.launches - placed(None, name).launches == more


def test_a_pass_is_padded_to_its_graph_and_beyond_the_largest_waits_for_the_host() -> None:
    engine = Engine(graph_tokens=(8, 32, 64), host_s=0.02, host_sequence_s=1e-4)
    steps, plain = placed(engine, "llama-2-7b"), placed(None, "llama-2-7b")
    tokens = np.array([1, 8, 9, 33, 64, 65])
    assert list(engine.padded(tokens.astype(float))) == [8, 8, 32, 64, 64, 65]
    made, bare = (p.parts(tokens, 1, 100) for p in (steps, plain))
    padding = np.array([7, 0, 23, 31, 0, 0]) * 2 * plain.shape.active_parameters * FLOP_S
    assert made.compute_s - bare.compute_s == pytest.approx(padding, abs=1e-15)
    within, device_s = tokens <= 64, bare.total_s[-1]
    assert made.total_s[within][[1, 4]] == pytest.approx(bare.total_s[within][[1, 4]])
    # Host and device work side by side: the longer, and a little of the other.
    host_s = 0.02 + 65 * 1e-4
    assert float(made.total_s[-1]) == pytest.approx((host_s**3 + device_s**3) ** (1 / 3))
    assert (float(made.launch_s[-1]), float(made.launch_s[0])) == (host_s, float(bare.launch_s[0]))


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [("full", (0.0, 64.0, 64.0)), ("piecewise", (2.0, 2.0, 64.0)), ("eager", (64.0, 64.0, 64.0))],
)
def test_an_engine_launches_on_the_host_what_its_graphs_leave(graphs: str, expected: tuple[float, ...]) -> None:
    """Of a decode step, of one with a prompt beside it, and of one beyond the largest graph: 32 layers, launches."""
    engine = Engine(graphs=graphs, graph_tokens=(8, 64), host_s=0.01, host_launch_s=1e-5)
    shape = read_shape("llama-2-7b")
    step = shape.work(4, 1, 100)
    works = step, step.beside(shape.work(1, 20, 0, 1)._replace(prompts=1.0)), shape.work(65, 1, 100)
    found = [float(engine.on_host_s(work, 64.0 * 32, 32)) for work in works]
    host_s = [0.0 if not launches else 0.01 + launches * 32 * 1e-5 for launches in expected]
    assert found == pytest.approx(host_s)
    assert float(engine.padded(np.float64(9))) == (9 if graphs == "eager" else 64)


def test_what_a_round_costs_besides_grows_with_its_sequences() -> None:
    silent, said = (replace(DEVICE, engine=e) for e in (None, Engine(round_sequence_s=1e-4)))
    pairs = [model_pair(p, "llama-2-7b", "llama-68m", batch=np.array([1, 32])) for p in (silent, said)]
    none_s, some_s = (pair.round_cost(4).overhead_s for pair in pairs)
    assert some_s - none_s == pytest.approx([1e-4, 32e-4])


@pytest.mark.parametrize(
    ("name", "draft", "more_s"),
    [
        ("draft_round_s", "llama-68m", (1e-3, 1e-3)),
        ("search_s", None, (1e-3, 32e-3)),
    ],
)
def test_what_drafting_takes_besides_is_of_a_round_or_of_each_search(name, draft, more_s) -> None:
    """A model's passes have it once, a search for each sequence; neither has the other's."""
    engines = None, Engine(**{name: 1e-3}), Engine(**{n: 1e-3 for n in ("draft_round_s", "search_s") if n != name})
    batch, shape = np.array([1, 32]), "llama-2-7b"
    options = {"batch": batch} if draft else {"batch": batch, "method": methods()["ngram"]}
    pairs = [model_pair(replace(DEVICE, engine=e), shape, draft or "llama-68m", **options) for e in engines]
    none_s, own_s, other_s = (pair.round_cost(4).draft_s for pair in pairs)
    assert own_s - none_s == pytest.approx(more_s)
    assert other_s == pytest.approx(none_s)


def test_flops_of_a_drafter_and_of_attention_take_longer_where_a_profile_says_so() -> None:
    """Of passes that compute alone: three times the time of a draft, and as much more as attention has of the FLOPs."""
    cost = PassCost(flop_scale=constant(1e-12), mem_scale=constant(1e-30))
    bare = replace(DEVICE, passes={"bfloat16": cost}, launches_per_layer=0.0)
    plain, slow, apart = (
        model_pair(replace(bare, engine=e), "llama-2-7b", "llama-68m", batch=8, context=4000)
        for e in (None, Engine(draft_flops=3.0), Engine(attention_flops=2.5))
    )
    assert slow.round_cost(4).draft_s == pytest.approx(3 * plain.round_cost(4).draft_s)
    assert slow.round_cost(4).verify_s == plain.round_cost(4).verify_s
    work = plain.target.work(8, 5, 4000)
    share = plain.target.attention_flops_of(work) / plain.target.flops_of(work)
    assert apart.round_cost(4).verify_s / plain.round_cost(4).verify_s == pytest.approx(1 + 1.5 * float(share))
    assert 0.05 < share < 0.5
    # Samples of it are samples of passes.
    sampled = replace(bare, engine=Engine(attention_flops=np.array([1.0, 2.5, 4.0])))
    passed_s = model_pair(sampled, "llama-2-7b", "llama-68m").placed_target.pass_of_s(work)
    assert passed_s.shape == (3,)
    assert passed_s[1] == pytest.approx(apart.round_cost(4).verify_s)


def test_how_sure_the_host_is_known_counts_where_passes_wait_for_it() -> None:
    drawn = model_pair(replace(DEVICE, engine=Engine(host_s=0.05, host_error=0.5)), "llama-2-7b", "llama-68m")
    drawn = drawn.sample(np.random.default_rng(0), 400)
    shape, target = drawn.target, drawn.placed_target
    step = shape.work(np.array([4, 8]), 1, 100)
    mixed_s, step_s = (target.pass_of_s(w) for w in (step._replace(prompts=np.ones(2)), step))
    assert mixed_s.shape == step_s.shape == (400, 2)
    assert step_s.std(0) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert np.log(mixed_s).std(0) == pytest.approx([0.5, 0.5], rel=0.1)


def test_choosing_a_token_moves_bytes_of_each_logit() -> None:
    """Eight sequences of five tokens have 40 rows of 151,936 logits; a draft step has a row a sequence."""
    said, silent = (placed(engine) for engine in (Engine(logit_bytes=10), None))
    for rows, more in ((None, 40), (1, 8)):
        moved = [float(p.moved_bytes(8, 5, 700, rows)) for p in (said, silent)]
        assert moved[0] - moved[1] == pytest.approx(more * 151_936 * 10, rel=1e-6)


def test_a_round_of_a_tree_waits_for_the_host_and_one_of_a_chain_does_not() -> None:
    silent, said = (replace(DEVICE, engine=e) for e in (None, Engine(tree_round_s=1e-3)))
    for tree, more_s in ((None, 0.0), (Tree(3, 6), 1e-3)):
        pairs = [model_pair(p, "llama-2-7b", "llama-68m", tree=tree, round_overhead_s=5e-4) for p in (silent, said)]
        (without_s, with_s) = (float(pair.round_cost(5).after_miss_s) for pair in pairs)
        assert with_s - without_s == pytest.approx(more_s, abs=1e-15)


# Milliseconds a token of SGLang 0.5.6 and 0.5.9 on H200 in fp8, 1,024 or 1,000 tokens in and as many out, without
# speculation: model, devices, sequences (measured rows of aiconfigurator, Apache-2.0).
SERVED = [
    ("deepseek-v3", 8, 4, 10.29),
    ("deepseek-v3", 8, 8, 12.47),
    ("deepseek-v3", 8, 16, 16.63),
    ("qwen3-235b-a22b", 2, 4, 16.33),
    ("qwen3-235b-a22b", 4, 9, 15.90),
]


def test_steps_of_mixtures_in_sglang_take_what_was_served() -> None:
    errors = {}
    said = load_profile("h200")
    for engine, found in (("stated", said), ("silent", replace(said, engine=None))):
        models = [
            (placed(found.engine, name, found, devices=devices, dtype="fp8"), batch, served_ms)
            for name, devices, batch, served_ms in SERVED
        ]
        errors[engine] = [1e3 * float(p.parts(b, 1, 1536).total_s) / served - 1 for p, b, served in models]
    assert max(map(abs, errors["stated"])) < 0.09
    # Negative control: the device alone, silent on kernels of experts.
    assert max(errors["silent"]) < -0.2
