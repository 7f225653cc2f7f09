"""Costs of steps from sums over their sequences: equal to the cost function's, whatever the models and the mixture."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree
from simulator.costs.engine import EAGER, PIECEWISE, Engine
from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.profile import Curve
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.step import Knobs
from simulator.costs.work import Work
from simulator.serving.pass_tables import knob_costs, linear_costs, step_costs
from simulator.serving.passes import Prompts, passes_of
from simulator.serving.step_costs import StepCosts, add, no_totals, seconds

LONGEST, TOKENS, SEQUENCES = 4, 1100, 24
GRAPHS = {"graph_tokens": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)}
HOST = {"host_s": 2e-3, "host_sequence_s": 3e-5, "host_launch_s": 4e-6, "host_layer_s": 1e-5}
LOADED = {"load_layer_s": 2e-6, "load_layer_sequence_s": 1e-7, "logit_bytes": 6.0, "round_sequence_s": 2e-5}
LOADED |= {"layer_launches": {"experts": 5.0, "latent": 3.0}, "tree_round_s": 4e-4}
LOADED |= {"draft_round_s": 3e-4, "search_s": 4e-5, "draft_flops": 3.0, "attention_flops": 1.7}
ENGINES = {
    "none": None,
    "full": Engine(**GRAPHS, **HOST, **LOADED, expert_overlap=0.4),
    "piecewise": Engine(graphs=PIECEWISE, **GRAPHS, **HOST, **LOADED),
    "eager": Engine(graphs=EAGER, **HOST, expert_overlap=0.7, one_shot_tokens=40.0),
}
# Target, method, engine, and what else.
PAIRS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "dense": ("llama-3.1-8b", "eagle3", "none", {}),
    "graphs": ("llama-3.1-8b", "eagle3", "full", {"round_overhead_s": 1e-3}),
    "windows, also of the draft": ("gpt-oss-120b", "draft_model", "piecewise", {"devices": 2, "draft": "gpt-oss-20b"}),
    "experts": ("qwen3-30b-a3b", "eagle", "full", {"dtype": "fp8"}),
    "latent": ("deepseek-v3", "mtp", "eager", {"devices": 8, "kv_dtype": "fp8"}),
    "states": ("qwen3-next-80b-a3b", "mtp", "full", {"devices": 2}),
    "tree": ("llama-3.1-8b", "eagle3", "full", {"tree": Tree(topk=3, nodes=12)}),
    "static tree": ("llama-3.1-8b", "medusa", "none", {"tree": Tree(topk=3, nodes=31, levels=(3, 2, 2, 1))}),
    "block": ("qwen3-8b", "dflash", "piecewise", {}),
    "corrected block": ("qwen3-8b", "dspark", "full", {}),
    "parallel": ("llama-3.1-8b", "peagle", "full", {"placement": "separate"}),
    "found": ("gemma-3-27b", "ngram", "full", {}),
    "found on the device": ("llama-3.1-8b", "ngram_gpu", "none", {}),
}


@lru_cache
def pair_of(name: str) -> ModelPair:
    target, method, engine, more = PAIRS[name]
    shape, of = read_shape(target), methods()[method]
    draft = read_shape(more["draft"]) if "draft" in more else of.usual(shape)
    profile = replace(load_profile("h100-sxm"), engine=ENGINES[engine])
    rest = {"dtype": "bfloat16", "draft_dtype": "bfloat16"} | {n: v for n, v in more.items() if n != "draft"}
    return ModelPair(profile=profile, target=shape, draft=draft, method=of, **rest)


@lru_cache
def costs_of(name: str) -> StepCosts:
    return step_costs(pair_of(name), LONGEST, tokens=TOKENS, sequences=SEQUENCES)


# New tokens and those in the cache of what decodes; of prompts, and whether they end.
Mixture = tuple[list[tuple[int, int]], list[tuple[int, int, bool]]]
CONTEXT = st.one_of(st.integers(0, 140), st.integers(0, 200_000))
MIXTURES = st.tuples(
    st.lists(st.tuples(st.integers(1, 1 + LONGEST), CONTEXT), max_size=12),
    st.lists(st.tuples(st.integers(1, 250), CONTEXT, st.booleans()), max_size=4),
).filter(lambda mixture: bool(mixture[0] or mixture[1]))


def summed(works: list[Work], placed: Placed) -> Work:
    total = placed.shape.work(0, 0, 0)._replace(prompts=0.0)
    for work in works:
        total = total.beside(work)
    return total


def by_cost_function(models: ModelPair | Placed, mixture: Mixture, k: int) -> float:
    """The same seconds, from the work of each sequence."""
    decoding, prompts = mixture
    pair = models if isinstance(models, ModelPair) else None
    target = pair.placed_target if pair else models
    assert isinstance(target, Placed)

    def reading(placed: Placed) -> list[Work]:
        return [placed.shape.work(1, n, s, int(ends))._replace(prompts=np.ones(())) for n, s, ends in prompts]

    verified = summed([target.shape.work(1, n, s) for n, s in decoding] + reading(target), target)
    load_s = target.engine.under_load_s(target.shape.layers, np.asarray(len(decoding) + len(prompts)))
    total_s = float(target.pass_of_s(verified) + load_s)
    if pair is None or k < 0:
        return total_s
    plan = pair.plan(k)
    total_s += float(pair.overhead_s(len(decoding)) + np.asarray(plan.host_s) * len(decoding))
    engine = target.engine
    total_s += float(engine.draft_round_s if plan.passes else engine.search_s * len(decoding))
    for number, of in enumerate(plan.passes):
        draft = replace(pair.placed_draft, shape=of.shape)
        works = [of.shape.work(1, of.rows, s, of.head_rows) for _, s in decoding]
        works += reading(draft) if number == 0 and of.shape.attentions else []
        done = draft.doing(summed(works, draft)._replace(prompts=0.0), of.launches)
        total_s += float(of.times * (draft.total_s(done) - of.is_part * draft.cost.fixed_s))
    return total_s


def by_sums(costs: StepCosts, mixture: Mixture, k: int) -> float:
    totals = no_totals(costs)
    for n, s in mixture[0]:
        add(costs, totals, n, s, n - 1, False, True)
    for n, s, ends in mixture[1]:
        add(costs, totals, n, s, 0, True, ends)
    return seconds(costs, totals, k)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=12)
@given(mixture=MIXTURES, k=st.integers(-1, LONGEST))
def test_a_step_takes_what_the_cost_function_says_of_its_sequences(name: str, mixture: Mixture, k: int) -> None:
    told_s = by_cost_function(pair_of(name), mixture, k)
    assert by_sums(costs_of(name), mixture, k) == pytest.approx(told_s, rel=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_sequences_that_are_alike_take_a_round_and_what_a_server_takes(name: str) -> None:
    pair, costs = replace(pair_of(name), batch=9, context=777), costs_of(name)
    for k in (0, 1, LONGEST):
        width = int(pair.plan(k).width)
        decoding = [(width, 777)] * 9
        load_s = float(pair.placed_target.engine.under_load_s(pair.target.layers, np.asarray(9)))
        assert by_sums(costs, (decoding, []), k) == pytest.approx(
            float(pair.round_cost(k).after_miss_s) + load_s, rel=1e-9
        )
        prompts = [(200, 100, True), (200, 100, False)]
        told_s = passes_of(pair, k).seconds(
            np.asarray(9.0), np.asarray(777.0), Prompts(*map(np.asarray, (2.0, 200.0, 100.0, 1.0)))
        )
        assert by_sums(costs, (decoding, prompts), k) == pytest.approx(float(told_s), rel=1e-9)


def odd_target(**attention: int) -> Placed:
    """A target in groups of devices, whose attention is of another kind, on a device timed at several sizes."""
    shape = read_shape("qwen3-30b-a3b")
    shape = replace(shape, attentions=(shape.attentions[0]._replace(**attention),))
    profile = load_profile("h100-sxm")
    timed = replace(
        profile.passes["bfloat16"], mem_scale=Curve(np.array([1e9, 2e10, 1e11]), np.array([4e-13, 3e-13, 2.8e-13]))
    )
    timed = replace(timed, flop_scale=Curve(np.array([8.0, 512.0]), np.array([9e-15, 2e-15])), overlap_exponent=2.7)
    profile = replace(profile, passes={"bfloat16": timed}, engine=ENGINES["full"])
    return Placed(shape=shape, dtype="bfloat16", kv_dtype=None, devices=4, profile=profile, replicas=2)


@pytest.mark.parametrize("attention", [{"chosen": 100}, {"fixed": 1500}, {"window": 64}], ids=str)
@settings(max_examples=15)
@given(mixture=MIXTURES)
def test_a_target_alone_takes_as_long(attention: dict[str, int], mixture: Mixture) -> None:
    placed = odd_target(**attention)
    costs = step_costs(placed, 0, tokens=TOKENS, sequences=SEQUENCES)
    assert by_sums(costs, mixture, -1) == pytest.approx(by_cost_function(placed, mixture, -1), rel=1e-9)
    assert by_sums(costs, mixture, 3) >= by_sums(costs, mixture, -1)


def test_knobs_and_lines_are_steps_as_well() -> None:
    knobs = Knobs(
        work_flops=0.3, work_mem=2.0, flop_scale_s=1e-3, mem_scale_s=1e-3, draft_cost=0.1, overlap_exponent=3.0
    )
    knobs = replace(knobs, pass_overhead_s=1e-4, round_overhead_s=2e-4)
    costs = knob_costs(knobs, LONGEST, tokens=100)
    for k in range(1, LONGEST + 1):
        assert by_sums(costs, ([(k + 1, 50)], []), k) == pytest.approx(
            float(knobs.round_cost(k).after_miss_s), rel=1e-9
        )
    told_s = float(knobs.pass_s(12) + 4 * knobs.pass_s(3, scale=0.1)) + 2e-4
    assert by_sums(costs, ([(4, 50)] * 3, []), 4) == pytest.approx(told_s, rel=1e-9)
    assert by_sums(linear_costs(1e-2, 2e-5, tokens=100), ([(4, 9)], [(60, 0, True)]), 4) == pytest.approx(
        1e-2 + 64 * 2e-5
    )


def test_what_is_left_out_of_a_step_is_missed() -> None:
    """The negative control: contexts, widths and whether a prompt is in all count."""
    costs, mixture = costs_of("graphs"), ([(3, 5000), (2, 100)], [(20, 300, True)])
    told_s = by_sums(costs, mixture, 2)
    assert told_s != by_sums(costs, ([(3, 5001), (2, 100)], mixture[1]), 2)
    assert told_s != by_sums(costs, ([(2, 5000), (3, 100)], mixture[1]), 2)
    assert told_s > 1.03 * by_sums(costs, ([*mixture[0], (20, 300)], []), 2)
