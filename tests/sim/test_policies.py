"""Policies as live engines run them: the same decisions as their replays, and our own never behind a fixed length."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.estimate.engines.adaptive_verification import allotted, budget, survival
from acceptance.estimate.engines.sglang import Slot
from simulator.ground.fields import Field
from simulator.ground.policies import ByBatch, Verification, sglang, trt_llm, vllm_by_batch
from simulator.serving.draw_tables import Laws, acceptance_of
from simulator.serving.draws import Acceptance, confidence
from simulator.serving.policies import ALL, Policy, learn, new_memory, next_k, verify
from simulator.serving.policy_tables import (
    adaptive_steps,
    adaptive_verification,
    by_batch,
    by_context,
    confident,
    fixed,
    goodput,
    off_above,
    step_s,
    timed,
)
from simulator.serving.step_costs import StepCosts

from .test_draws import cut
from .test_step_costs import costs_of

SEED = 3
SURE = acceptance_of([Laws(cut(np.array([0.9, 0.7, 0.6, 0.5]))[None], sharp=0.9), Laws(cut(np.full(4, 0.2))[None])])


def lengths(policy: Policy, sizes: tuple[int, ...], waiting: int = 0, context: float = 0.0) -> list[int]:
    memory = new_memory(policy)
    return [next_k(policy, memory, n, waiting, context) for n in sizes]


def test_schedules_are_the_engines() -> None:
    vllm = by_batch(vllm_by_batch(Field({"k": 4, "ranges": [[1, 4, 5], [8, 16, 2], [17, 20, 0]]})), 64)
    assert lengths(vllm, (1, 4, 5, 7, 8, 16, 17, 999)) == [4, 4, 4, 4, 2, 2, 0, 0]
    # A drafter of TensorRT-LLM rests where nothing is drafted.
    trt = by_batch(trt_llm(Field({"schedule": {"4": 4, "8": 2}})), 64)
    assert lengths(trt, (1, 4, 5, 8, 9, 64)) == [4, 4, 2, 2, -1, -1]
    assert lengths(fixed(3), (0, 1, 5000)) == [3, 3, 3]
    each = [ByBatch(edges=(1, 5), lengths=(k, 1), keeps_up=True) for k in (6, 4, 0)]
    both = by_context([1000, 32_000], each, 8)
    assert [lengths(both, (4, 5), context=c) for c in (0, 999, 1000, 40_000.0)] == [[6, 1], [6, 1], [4, 1], [0, 1]]


def test_a_load_turns_drafts_off() -> None:
    policy = off_above(fixed(4), sequences=16)
    assert lengths(policy, (1, 16, 17, 900)) == [4, 4, -1, -1]
    policy = off_above(by_batch(ByBatch(edges=(1,), lengths=(4,), keeps_up=True), 8), sequences=2, waiting=5)
    assert lengths(policy, (1, 2, 3)) == [4, 4, 0]
    assert [lengths(policy, (1,), waiting=n) for n in (5, 6)] == [[4], [0]]


@settings(max_examples=40)
@given(
    accepted=st.lists(st.floats(0, 7), max_size=60),
    settings_=st.fixed_dictionaries(
        {
            "k": st.integers(0, 7),
            "candidate_steps": st.lists(st.integers(0, 7), min_size=1, max_size=4),
            "ema_alpha": st.sampled_from([0.2, 1.0]),
            "update_interval": st.integers(1, 3),
            "warmup_batches": st.integers(0, 4),
            "up_hysteresis": st.sampled_from([0.0, 0.5]),
            "down_hysteresis": st.sampled_from([-0.25, 0.5]),
            "ceiling_coeff": st.sampled_from([0.0, 0.6]),
        }
    ),
)
def test_sglangs_average_moves_as_in_its_replay(accepted: list[float], settings_: dict[str, Any]) -> None:
    by = sglang(Field(settings_))
    policy, slot = adaptive_steps(by), Slot(by.slots[0][1], by.initial)
    memory = new_memory(policy)
    for mean in accepted:
        assert next_k(policy, memory, 3, 0, 0.0) == slot.steps
        learn(policy, memory, 3, mean)
        slot.learn(mean)
    assert next_k(policy, memory, 3, 0, 0.0) == slot.steps


def test_sglangs_slots_go_by_the_batch() -> None:
    policy = adaptive_steps(sglang(Field({"k": 5})))
    assert lengths(policy, (1, 7, 8, 31, 32, 64, 500)) == [5, 5, 1, 1, 1, 0, 0]
    memory = new_memory(policy)
    for _ in range(40):
        learn(policy, memory, 2, 0.0)
    assert [next_k(policy, memory, n, 0, 0.0) for n in (2, 8)] == [1, 1]


def verified(policy: Policy, words: list[tuple[int, ...]], drafts: list[int], others: int = 0) -> list[int]:
    """What is verified of each sequence's drafts."""
    counts, memory = np.array(drafts, np.int64), new_memory(policy)
    room = np.zeros((2, 4 * len(drafts) + 1))
    total = verify(policy, memory, SURE, SEED, np.array(words, np.int64), counts, len(drafts), others, room)
    assert total == counts.sum()
    return counts.tolist()


def reached(acceptance: Acceptance, words: list[tuple[int, ...]], drafts: list[int], back: int) -> np.ndarray:
    """How likely each draft is reached and accepted, [sequences, 4], by the round so far back."""
    sure = np.ones((len(words), 4))
    for i, (request, category, round_, written) in enumerate(words):
        for place in range(drafts[i]):
            if round_ >= back:
                sure[i, place] = confidence(
                    acceptance, SEED, request, category, round_ - back, written, drafts[i], place
                )
    return survival(sure)


def dear(policy: Policy) -> Policy:
    """The same where drafts pay little: verification grows by a good part of a step with each token."""
    floats = policy.floats.copy()
    floats[policy.at_verify :] = 1e-3 * (1 + 0.3 * np.arange(policy.tokens + 1))
    return policy._replace(floats=floats)


WORDS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(0, 5), st.just(0), st.integers(0, 4)),
    min_size=1,
    max_size=9,
)


@settings(max_examples=40)
@given(rows=WORDS, others=st.sampled_from([0, 30]))
def test_what_is_worth_its_time_is_verified_as_in_its_replay(rows: list[tuple[int, ...]], others: int) -> None:
    words, drafts = [row[:4] for row in rows], [row[4] for row in rows]
    policy = adaptive_verification(Verification(k=4, warm_up_refits=0), costs_of("graphs"), 16)
    policy = dear(policy)
    there = np.arange(4) < np.array(drafts)[:, None]
    verify_s = policy.floats[policy.at_verify + others :]
    draft_s = float(policy.floats[policy.at_draft + len(rows)])
    most = budget(reached(SURE, words, drafts, 1), there, draft_s, verify_s)
    told = allotted(reached(SURE, words, drafts, 0), there, most)
    assert verified(policy, words, drafts, others) == told.tolist()


def test_whole_drafts_are_verified_at_first_and_where_all_are() -> None:
    words, drafts = [(0, 0, 3, 0), (1, 1, 3, 0)], [4, 4]
    policy = adaptive_verification(Verification(k=4), costs_of("graphs"), 16)
    assert verified(policy, words, drafts) == drafts
    assert verified(fixed(4), words, drafts) == drafts
    # What is not sure enough is cut: of a category that accepts a fifth, everything.
    assert verified(confident(4, 0.3), words, drafts)[1] == 0
    assert verified(confident(4, 0.0), words, drafts) == drafts
    assert verified(confident(4, 1.01), words, drafts) == [0, 0]


def expected(costs: StepCosts, accepted: np.ndarray, n: int, context: float, k: int, share: float = 0.0) -> float:
    """Tokens a second of steps that draft k tokens."""
    tokens = n * (1 + (accepted[k] if k > 0 else 0.0))
    return float(tokens / step_s(costs, n, 1 + max(k, 0), context, k, tokens * share))


def test_our_own_policy_is_never_behind_a_fixed_length() -> None:
    costs, accepted = costs_of("graphs"), np.append(0.0, np.cumsum([0.8, 0.6, 0.4, 0.2]))
    contexts, sizes = (200.0, 8000.0), (1, 4, 9, 24)
    policy = goodput(costs, accepted, sequences=24, contexts=contexts, prompt_tokens=5.0, rests=True)
    for context in contexts:
        for waiting, share in ((0, 0.0), (1, 5.0)):
            for n, k in zip(sizes, lengths(policy, sizes, waiting, context), strict=True):
                gains = {other: expected(costs, accepted, n, context, other, share) for other in range(-1, 5)}
                assert gains[k] == max(gains.values())
    # The negative control: it is no fixed length, and drafts that are never accepted are not made.
    assert len({k for waiting in (0, 1) for k in lengths(policy, sizes, waiting, 200.0)}) > 1
    hopeless = goodput(costs, 0 * accepted, sequences=24, contexts=contexts, rests=True)
    assert lengths(hopeless, sizes, 0, 200.0) == [-1] * 4
    assert lengths(goodput(costs, 0 * accepted, sequences=24, contexts=contexts), sizes) == [0] * 4


def test_our_own_policy_cuts_what_a_sequence_will_not_have_accepted() -> None:
    costs, accepted = costs_of("experts"), np.append(0.0, np.cumsum([0.9, 0.7, 0.6, 0.5]))
    policy = goodput(costs, accepted, sequences=16, contexts=(500.0,), cuts=True)
    words = [(i, i % 2, 2, 0) for i in range(16)]
    found = verified(dear(policy), words, [4] * 16)
    assert sum(found[::2]) > 2 * sum(found[1::2])
    assert verified(policy._replace(verifies=ALL), words, [4] * 16) == [4] * 16


def test_steps_are_timed_as_an_engine_would() -> None:
    drafts, verify_s = timed(costs_of("graphs"), 4, 16, 32)
    assert len(drafts) == 17
    assert (np.diff(verify_s) >= 0).all()
    # Up to the largest graph a pass takes what the next timed size takes.
    assert len({*verify_s[25:33].tolist()}) == 1
    assert verify_s[33] > verify_s[32]
    assert drafts[1] == pytest.approx(
        step_s(costs_of("graphs"), 1, 1, 8192, 4) - step_s(costs_of("graphs"), 1, 1, 8192, -1)
    )
    assert replace(Verification(k=2), refit_every=7).warm_up == 21
