"""SGLang's and TensorRT-LLM's rules, each in a scenario counted by hand; and nothing is lost under any of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ground.artefacts import UserError
from simulator.serving import run as serving
from simulator.serving import state
from simulator.serving.blocks import LEAST
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import started
from simulator.serving.settings import SGLANG, TRTLLM, settings_of
from simulator.serving.steps import MOST
from simulator.workloads.requests import requests_of
from tests.server.test_conservation import law

Step = dict[int, int]
COSTS = linear_costs(0.01, 0.0, tokens=1 << 16)
ROOMY: dict[str, Any] = {"num_blocks": 10_000, "max_model_len": 4000, "block_size": 1, "async_scheduling": False}


def logged(fleet: Any) -> Any:
    """Return a single replica at the end of its run, and its log."""
    ended, (log,) = serving.logged(fleet)
    return next(serving.all_of(ended)), log


def served(prompt: list[int], output: list[int], *, k: int = 0, chance: float = 1.0, **given: Any) -> Any:
    """Serve requests by SGLang's rules; return tokens a step by request, the run and its log."""
    columns = {name: given.pop(name) for name in ("arrival_s", "shared", "units", "stream", "after") if name in given}
    s = settings_of(**{"scheduler": SGLANG, "k": k, **ROOMY, **given})
    policy = fixed(k if k > 0 else -1)
    run, log = logged(started(s, requests_of(prompt, output, **columns), law(max(k, 1), chance), COSTS, policy))
    steps = [Step() for _ in log.steps]
    for kind, step, request, count in np.asarray(log.entries).tolist():
        if kind == state.PLANS:
            steps[step][request] = count
    return [step for step in steps if step], run, np.asarray(log.entries)


def of_kind(entries: Any, kind: int) -> list[tuple[int, int]]:
    """Return step and request of the entries of a kind."""
    return [(int(step), int(request)) for what, step, request, _ in entries if what == kind]


def test_prompts_come_first_and_those_that_run_wait() -> None:
    steps, _, _ = served([5, 7], [4, 2], arrival_s=[0.0, 0.015])
    assert steps == [{0: 5}, {0: 1}, {1: 7}, {0: 1, 1: 1}, {0: 1}]


def test_a_long_prompt_is_read_in_parts_and_the_next_fills_the_last() -> None:
    steps, _, _ = served([25, 4], [2, 2], max_num_batched_tokens=10)
    assert steps == [{0: 10}, {0: 10}, {0: 5, 1: 4}, {0: 1, 1: 1}]


def test_with_mixed_chunks_those_that_run_write_a_token_each_without_drafts() -> None:
    steps, _, entries = served([5, 12], [9, 1], k=2, mixed_chunk=True, arrival_s=[0, 0.015], max_num_batched_tokens=8)
    # A step has 8 tokens, of which one is kept for the other that runs.
    assert steps == [{0: 5}, {0: 3}, {1: 7, 0: 1}, {1: 5, 0: 1}, {0: 3}]
    assert [step for step, _ in of_kind(entries, state.VERIFY)] == [1, 4]


def test_budgets_are_charged_in_whole_pages() -> None:
    # 5 and 6 tokens are two pages of 4 each: 16 of 16 places, though 11 tokens; the third has none.
    steps, _, _ = served([5, 6, 3], [1, 1, 1], block_size=4, max_num_batched_tokens=16)
    assert steps == [{0: 5, 1: 6}, {2: 3}]
    # Of 12, 4 are left for the second: a page of it is read.
    steps, _, _ = served([5, 6], [1, 1], block_size=4, max_num_batched_tokens=12)
    assert steps == [{0: 5, 1: 4}, {1: 2}]


def test_prompts_that_are_not_read_in_parts_share_what_a_step_has_and_the_first_comes_in_any_case() -> None:
    whole: dict[str, Any] = {"chunked_prefill": False, "max_prefill_tokens": 10, "max_model_len": 30}
    steps, _, _ = served([28, 4, 5, 3, 7], [1] * 5, **whole)
    # More than the next has must be left of the 10.
    assert steps == [{0: 28}, {1: 4, 2: 5}, {3: 3}, {4: 7}]
    # So too where they are read in parts: 8 of 12 tokens are left, which the second could begin with.
    steps, _, _ = served([4, 9], [1] * 2, max_prefill_tokens=10, max_num_batched_tokens=12)
    assert steps == [{0: 4}, {1: 9}]


@pytest.mark.parametrize(("blocks", "together"), [(226, True), (225, False)])
def test_who_is_admitted_leaves_room_for_what_others_may_write(blocks: int, together: bool) -> None:
    """The first runs: 20 of KV are held, .7 * 99 = 69.3 tokens are to come; the second takes 30 + 100 and a page."""
    steps, _, _ = served([20, 30], [100, 100], num_blocks=blocks - 5, max_model_len=140, arrival_s=[0, 0.005])
    assert (1 in steps[1]) is together


@pytest.mark.parametrize(
    ("prompt", "second_s", "lost"),
    [([20, 21], 0.005, 1), ([21, 20], 0.005, 0), ([20, 20], 0.005, 1), ([20, 19], 0.035, 1)],
)
def test_who_has_written_least_loses_its_kv_then_the_longest_prompt(
    prompt: list[int], second_s: float, lost: int
) -> None:
    given: dict[str, Any] = {"num_blocks": 75, "max_model_len": 73, "schedule_conservativeness": 0.0}
    _, run, entries = served(prompt, [30, 30], arrival_s=[0, second_s], **given)
    assert [who for _, who in of_kind(entries, state.EVICTS)] == [lost]
    # The other's tokens so far, and 20, of its 30 and one.
    first = of_kind(entries, state.EVICTS)[0][0]
    emitted = [v for kind, step, who, v in entries if (kind, who) == (state.EMITS, 1 - lost) and step < first]
    assert run.plans.times[state.FLIGHTS][state.RATIO] == min(1.0, (sum(emitted) + 20) / 31)


def test_the_share_that_is_kept_free_falls_with_each_step_that_decodes() -> None:
    shares = []
    for conservativeness in (0.0, 1.0):
        _, run, _ = served([5], [7], schedule_conservativeness=conservativeness)
        shares.append(run.plans.times[state.FLIGHTS][state.RATIO])
    # Six steps decode after the first token.
    assert shares == pytest.approx([0.0, 0.7 - 6 * 0.7 * 0.86 / 600])


def test_who_has_lost_its_kv_waits_behind_all() -> None:
    given: dict[str, Any] = {"num_blocks": 60, "max_model_len": 58, "schedule_conservativeness": 0.0}
    _, _, entries = served([10, 12, 40], [30, 30, 5], arrival_s=[0, 0.005, 0.1], **given)
    lost = of_kind(entries, state.EVICTS)[0]
    back = of_kind(entries, state.RESUMES)[0]
    assert lost[1] == back[1] == 1
    assert (back[0], 2) >= next((step, who) for step, who in of_kind(entries, state.ADMITS) if who == 2)


def test_what_was_read_is_found_once_its_step_has_ended() -> None:
    given: dict[str, Any] = {"shared": [40, 40, 40], "units": [7]}
    steps, _, entries = served([50, 50, 50], [1] * 3, arrival_s=[0, 0, 0.005], **given)
    # Two that come together both read it; who comes later reads the rest.
    assert steps[:2] == [{0: 50, 1: 50}, {2: 10}]
    assert of_kind(entries, state.HITS) == [(1, 2)]


def test_by_prefix_the_cached_come_first_and_of_new_texts_that_begin_alike_one() -> None:
    given: dict[str, Any] = {"arrival_s": [0, 0.005, 0.005, 0.005, 0.005], "max_num_seqs": 1, "units": [7, 8]}
    given |= {"shared": [40, 0, 40, 40, 40], "units_start": [0, 0, 1, 1, 0]}
    starts = given.pop("units_start")
    s = settings_of(**ROOMY, scheduler=SGLANG, by_prefix=True, max_num_seqs=given.pop("max_num_seqs"))
    requests = requests_of([50] * 5, [1] * 5, units_start=starts, **given)
    _, log = logged(started(s, requests, law(1, 1.0), COSTS, fixed(-1)))
    order = [who for _, who in of_kind(np.asarray(log.entries), state.ADMITS)]
    assert order == [0, 4, 1, 2, 3]


def test_a_round_keeps_places_for_two_rounds() -> None:
    _, run, _ = served([10], [30], k=3)
    # In the last round 38 tokens are in KV, and 8 more have places.
    assert run.settings.num_blocks - run.kv.free[LEAST] == 46


def test_of_trt_llm_nobody_is_admitted_without_a_place_for_all_of_its_answer() -> None:
    given: dict[str, Any] = {"num_blocks": 12, "max_model_len": 100, "block_size": 10, "async_scheduling": False}
    requests = requests_of([20, 20, 20], [40, 40, 40])
    lost = {}
    for reserves in (True, False):
        s = settings_of(**given, scheduler=TRTLLM, reserves_output=reserves, reserve_full_isl=reserves)
        run, log = logged(started(s, requests, law(1, 1.0), COSTS, fixed(-1)))
        lost[reserves] = len(of_kind(np.asarray(log.entries), state.EVICTS))
        # 20 + 40 and a last round are 7 blocks: one at a time; else as many as prompts fit.
        assert run.count[MOST] == (1 if reserves else 3)
    assert lost[True] == 0 < lost[False]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    scheduler=st.sampled_from([SGLANG, SGLANG, TRTLLM]),
    given=st.fixed_dictionaries(
        {"k": st.integers(0, 3), "block_size": st.sampled_from([1, 4, 16]), "max_num_seqs": st.integers(1, 8)}
        | {"async_scheduling": st.booleans(), "prefix_caching": st.booleans()}
        | {"max_num_batched_tokens": st.integers(16, 99), "mixed_chunk": st.booleans(), "by_prefix": st.booleans()}
        | {"schedule_conservativeness": st.sampled_from([0.0, 0.1, 1.0])}
    ),
)
def test_nothing_is_lost_and_nothing_is_made(seed: int, scheduler: int, given: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    size, blocks = int(rng.integers(1, 25)), -(-140 // given["block_size"]) + int(rng.integers(2, 30))
    prompt, output = rng.integers(1, 119, size), rng.integers(1, 40, size)
    s = settings_of(num_blocks=blocks, max_model_len=120, scheduler=scheduler, **given)
    shared = np.minimum(prompt, rng.choice([0, 40], size))
    requests = requests_of(prompt, output, arrival_s=np.cumsum(rng.random(size) / 20), shared=shared, units=[7])
    run, log = logged(started(s, requests, law(max(s.k, 1), 0.6), COSTS, fixed(s.k or -1), seed=seed))
    kinds, _, of, value = np.asarray(log.entries).T
    emitted = np.bincount(of[kinds == state.EMITS], value[kinds == state.EMITS], size)
    assert emitted.tolist() == np.minimum(output, 120 - prompt).tolist()
    assert np.asarray(log.steps)[:, 4].min() >= 0
    assert list(run.kv.free[:2]) == [s.num_blocks, s.max_num_seqs]
    assert not any(row[4] for row in run.kv.block)
    assert scheduler == SGLANG or not (kinds == state.EVICTS).any()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_model_len": 9_999}, "max_model_len is 9,999, expected at most 9,998 beside a page"),
        ({"by_priority": True}, "by_priority: of vLLM's scheduler alone, expected no"),
        ({"schedule_conservativeness": -1.0}, "schedule_conservativeness: expected a number from 0 on"),
    ],
)
def test_settings_under_which_it_could_not_go_on_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        settings_of(**{**ROOMY, "scheduler": SGLANG, **given})
