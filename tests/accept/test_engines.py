"""Engines' policies, each against steps worked out by hand from the engine's own rule."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.estimate.engines import NAMES
from acceptance.estimate.engines.adaptive_verification import (
    AdaptiveVerification,
    allotted,
    budget,
    survival,
)
from acceptance.estimate.engines.estimator import OnlineLogistic, of_log_q, of_margin
from acceptance.estimate.engines.named import ALONE, EnginePolicy, policy_of
from acceptance.estimate.engines.sglang import SglangAdaptive, Slot
from acceptance.estimate.play import Coins, Counts, Player, steps
from acceptance.estimate.policies import Fixed
from acceptance.estimate.replay import replay
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError
from simulator.ground.policies import Verification, graph_sizes, staircase

from .traces import make_trace


def lengths_of(policy: EnginePolicy, trace: Trace, slots: int) -> list[list[int]]:
    """What each step of a greedy draft verifies, sequence by sequence."""
    coins = Coins(trace.accept_greedy)
    return [step.lengths.tolist() for step in steps(trace.starts, coins, policy.begin(trace), slots)]


def named(text: str, *, most: int = 64) -> EnginePolicy:
    return policy_of(text, greedy=True, most=most)


class Toy:
    """A price of our own: so many seconds a draft, and a table of what verifying takes, by tokens."""

    def __init__(self, draft_s: float, verify: dict[int, float]) -> None:
        self.drafting_s, self.verify = draft_s, verify

    def plain_s(self, running: Counts) -> np.ndarray:
        return np.ones(np.shape(running))

    def draft_s(self, running: Counts, passes: Counts) -> np.ndarray:
        return np.broadcast_to(self.drafting_s, np.shape(passes)).astype(float)

    def verify_s(self, running: Counts, tokens: Counts) -> np.ndarray:
        return np.array([self.verify.get(int(n), 99.0) for n in np.ravel(tokens)]).reshape(np.shape(tokens))


def test_outputs_fill_slots_as_these_become_free() -> None:
    trace = make_trace([[0] * 3, [0] * 2, [0] * 4])
    played = [
        step.rounds.output.tolist()
        for step in steps(trace.starts, Coins(trace.accept_greedy), Fixed(1).begin(trace), 2)
    ]
    assert played == [[0, 1], [0, 1], [0, 2], [2], [2], [2]]
    everything = [len(s.lengths) for s in steps(trace.starts, Coins(trace.accept_greedy), Fixed(1).begin(trace))]
    assert everything == [3, 3, 2, 1]


def test_schedules_by_batch_size_are_the_engines() -> None:
    vllm = named("vllm-by-batch:k=4,ranges=[[1,4,5],[8,16,2]]")
    assert [vllm.by.at(n) for n in (1, 4, 5, 7, 8, 16, 17, 999)] == [4, 4, 4, 4, 2, 2, 2, 2]
    trt = named("trt-llm:draft_len_schedule={4:4, 8:2, 32:1}")
    assert [trt.by.at(n) for n in (1, 4, 5, 8, 9, 32, 33)] == [4, 4, 2, 2, 1, 1, 0]
    floored = named('trt-llm:schedule={"4":4,"8":0},floor=1,max_concurrency=9')
    assert [floored.by.at(n) for n in (4, 5, 8, 9, 10)] == [4, 1, 1, 1, 0]
    # All rejected: K by how many still run, and no more than there is room for.
    trace = make_trace([[0] * 2, [0] * 3, [0] * 6])
    found = lengths_of(named("trt-llm:schedule={1:3,2:2}"), trace, 3)
    assert found == [[0, 0, 0], [0, 0, 0], [0, 2], [2], [1], [0]]


def slot_of(text: str, initial: int) -> Slot:
    """SGLang's state at the smallest batches."""
    policy = named(f"sglang-adaptive:{text}")
    assert isinstance(policy, SglangAdaptive)
    return Slot(policy.by.slots[0][1], initial)


def test_sglang_moves_along_its_candidates_as_by_hand() -> None:
    slot, seen = (
        slot_of("candidate_steps=[1,3],ema_alpha=0.5,update_interval=1,warmup_batches=0", 1),
        list[tuple[float, int]](),
    )
    # 0 -> .5 (not above .5) -> .75 up; 1.875 stays; .94, .47 stay above 1 - .5 - .25; .234 down.
    for accepted in (1, 1, 3, 0, 0, 0):
        slot.learn(accepted)
        seen.append((round(slot.average, 3), slot.steps))
    assert seen == [(0.5, 1), (0.75, 3), (1.875, 3), (0.938, 3), (0.469, 3), (0.234, 1)]
    # The defaults: nothing moves for ten batches, then each fifth one looks; an average of 2 from K = 3 stays at 3.
    slot = slot_of("k=3", 3)
    lengths = []
    for _ in range(16):
        slot.learn(3.0)
        lengths.append(slot.steps)
    assert lengths == [3] * 14 + [5] * 2
    # Zero drafts: reached where half a draft or less is accepted, left again for the shortest at the next look.
    off = slot_of("candidate_steps=[0,2],update_interval=2,warmup_batches=0,down_hysteresis=0", 2)
    assert (off.average, off.steps) == (1.0, 2)
    lengths = []
    for _ in range(8):
        off.learn(0.0)
        lengths.append(off.steps)
    # 1 -> .8, .64 | .512, .4096 <= .5: off | average kept while off | tries 2 again.
    assert lengths == [2, 2, 2, 0, 0, 2, 2, 0]
    # The ceiling only holds down: ceil(.6 x 1) = 1 of candidates 1, 2, 3 where the average alone would stay at 3.
    capped = slot_of("candidate_steps=[1,2,3],ema_alpha=1,update_interval=1,warmup_batches=0,ceiling_coeff=0.6", 3)
    capped.learn(1.5)
    assert capped.steps == 1


def test_sglang_routes_batches_to_slots_and_takes_the_engines_file(tmp_path: Path) -> None:
    policy = named("sglang-adaptive:k=5")
    assert policy.keeps_up
    trace = make_trace([[0] * 4] * 9)
    player = policy.begin(trace)
    assert [player.slot(n).steps for n in (1, 7, 8, 31, 32, 64, 500)] == [5, 5, 1, 1, 1, 0, 0]
    path = tmp_path / "adaptive.json"
    path.write_text(json.dumps({"ema_alpha": 0.5, "2": {"candidate_steps": [2]}, "1": {"candidate_steps": [1, 4, 4]}}))
    policy = named(f"sglang-adaptive:config={path},update_interval=7")
    assert [(size, c.candidate_steps, c.ema_alpha, c.update_interval) for size, c in policy.by.slots] == [
        (1, (1, 4), 0.5, 7),
        (2, (2,), 0.5, 7),
    ]
    assert policy.longest == 4


def test_features_are_the_estimators() -> None:
    assert of_margin([0.0, 3.0, 1e4]).tolist() == [0, 3, 40]
    assert of_log_q([-1.0, 0.0, -104.0]) == pytest.approx([0, np.log(1000), -np.log(40)])


def test_the_online_logistic_takes_newtons_step_as_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Against the whole system of Newton's equations, slope and intercepts together.
    monkeypatch.setattr("acceptance.estimate.engines.estimator.DAMPING", 0.0)
    rng, k = np.random.default_rng(0), 3
    learner = OnlineLogistic(k, refit_every=4)
    matrix, score = 1e-3 * np.eye(k + 1), np.zeros(k + 1)
    for _ in range(4):
        feature = rng.random((5, k)) * 4
        accepted = np.cumprod(feature > 1.5, axis=1).sum(1)  # sure drafts are accepted
        lengths = np.minimum(accepted + rng.integers(0, 2, 5), k)
        predicted = learner.predict(feature)
        assert predicted == pytest.approx(1 / (1 + np.exp(-1.5)))  # nothing is known yet
        learner.learn(feature, predicted, lengths, accepted)
        for row in range(5):
            for j in range(min(accepted[row] + 1, lengths[row])):
                x = np.array([feature[row, j], *np.eye(k)[j]])
                p = predicted[row, j]
                matrix += p * (1 - p) * np.outer(x, x)
                score += ((j < accepted[row]) - p) * x
    step = np.linalg.solve(matrix, score)
    assert learner.refits == 1
    assert step[0] > 0  # a slope that would fall stays
    assert [learner.slope, *(learner.intercepts - 1.5)] == pytest.approx(step)


@pytest.mark.statistical
def test_the_online_logistic_learns_what_is_true_and_not_what_is_not() -> None:
    rng, learner = np.random.default_rng(1), OnlineLogistic(2, refit_every=10)
    for _ in range(300):
        feature = rng.normal(2, 1, (40, 2))
        truth = 1 / (1 + np.exp(-(0.8 * feature + [-1.0, 0.5])))
        hits = rng.random((40, 2)) < truth
        accepted = np.where(hits[:, 0], 1 + hits[:, 1], 0)
        learner.learn(feature, learner.predict(feature), np.full(40, 2), accepted)
    assert learner.refits == 30
    assert [learner.slope, *learner.intercepts] == pytest.approx([0.8, -1.0, 0.5], abs=0.45)
    # Features that say nothing: the slope stays at 0, where it would have to fall.
    stubborn = OnlineLogistic(1, refit_every=1)
    stubborn.learn(np.array([[4.0], [0.0]]), np.full((2, 1), 0.8), [1, 1], [0, 1])
    assert stubborn.slope == 0


def test_costs_climb_a_staircase_to_the_largest_graph_and_a_line_beyond() -> None:
    table = staircase([1, 2, 4, 8, 16], np.array([1.0, 3.0, 2.0, 5.0, 9.0]), 20, captured=4)
    assert table[:6].tolist() == [1, 1, 3, 3, 3, 5]  # 4 tokens took less than 2 did, which is noise
    assert table[[8, 12, 16, 20]].tolist() == [5, 7, 9, 11]
    assert staircase([1, 2], np.array([1.0, 2.0]), 4, captured=512).tolist() == [1, 1, 2, 3, 4]
    assert graph_sizes(4, 6) == [1, 2, 4, 6]
    assert graph_sizes(16, 100) == [1, 2, 4, 8, 16, 24, 32, 64, 100]


def test_the_budget_is_the_most_tokens_a_second_and_goes_to_the_likeliest() -> None:
    reached = survival(np.array([[0.9, 0.9], [0.5, 0.5]]))
    there, verify = np.ones((2, 2), bool), np.array([0, 0, 2.0, 4.0, 4.0, 6.0, 6.0])
    # 2/3; 2.9/5, 3.71/5 = .742; 4.21/7, 4.46/7 = .637.
    assert budget(reached, there, 1.0, verify) == 2
    assert allotted(reached, there, 2).tolist() == [2, 0]
    assert allotted(reached, there, 3).tolist() == [2, 1]
    # What was not drafted is not verified, however sure.
    there[0] = False
    assert allotted(reached, there, 2).tolist() == [0, 2]


def test_adaptive_verification_sizes_by_the_step_before_and_allots_by_this_one() -> None:
    trace = make_trace([[0] * 8, [0] * 8], margin_q=[4, 4, 0, 0, 0, 0, 0, 0] + [0] * 8)
    price = Toy(1.0, {1: 1.0, 2: 2.0, 4: 4.0, 6: 6.0})
    policy = AdaptiveVerification(by=Verification(k=2, warm_up_refits=0), greedy=True, most=2, price=price)
    player = policy.begin(trace)
    player.estimator.slope, player.estimator.intercepts = 1.0, np.zeros(2)
    played = list(steps(trace.starts, Coins(trace.accept_greedy), player, 2))
    # Confidences by step: (.98, .98), (.98, .5), (.5, .5), ... of the first output, (.5, .5) of the second; all were 1
    # before. Whole drafts 6/7 beat 4/5; then (2 + .98 + .96)/5 beats whole ones; then (2 + .98 + .5)/5 beats none, 2/3,
    # which wins at last.
    assert [step.lengths.tolist() for step in played][:5] == [[2, 2], [1, 1], [1, 1], [0, 0], [0, 0]]
    # Drafts are made, and cost, whether they are verified or not.
    assert [step.spent.passes_low.tolist() for step in played][:5] == [[2, 2]] * 5
    assert played[3].spent.drafted_low.tolist() == [0, 0]


def test_whole_drafts_are_verified_until_the_estimate_was_fitted_thrice() -> None:
    trace = make_trace([[0] * 40], margin_q=np.ones(40))
    dear = Toy(0.0, {1: 1.0, 2: 90.0, 4: 99.0})
    policy = AdaptiveVerification(by=Verification(k=2, refit_every=5), greedy=True, most=1, price=dear)
    lengths = [row[0] for row in lengths_of(policy, trace, 1)]
    assert lengths == [2] * 15 + [0] * 25
    with pytest.raises(ValueError, match="without a price"):
        AdaptiveVerification(by=Verification(k=2), greedy=True, most=1).begin(trace)


def test_sampled_drafts_are_as_sure_as_what_they_proposed() -> None:
    """On the text where they are accepted, at the first rejection as the token that was drawn there."""
    trace = make_trace([[1, 0, 1, 1]], log_q=[-1, -2, -3, -4], log_q_rejected=[-5, -6, -7, -8])
    policy = AdaptiveVerification(by=Verification(k=3, warm_up_refits=0), greedy=False, most=1, price=Toy(0.0, {}))
    player = policy.begin(trace)
    (first, *_) = steps(trace.starts, Coins(trace.accept_sampled == 1), player, 1)
    assert player.features(first.rounds).tolist() == [of_log_q([-1, -6, -3]).tolist()]
    assert policy.needs == ("log_q", "log_q_rejected")


def test_llama_cpp_stops_before_an_unlikely_token() -> None:
    trace = make_trace([[1, 1, 1, 1, 1]], max_q=[0.9, 0.8, 0.5, 0.9, 0.9])
    (first, second, *_) = steps(
        trace.starts, Coins(trace.accept_greedy), named("llama-cpp:p-min=0.75,n_max=3").begin(trace), 1
    )
    assert (first.lengths.tolist(), first.spent.passes_low.tolist()) == ([2], [3])
    assert second.lengths.tolist() == [1]  # of five tokens, three are written, and the target writes one itself


def test_a_replay_counts_what_steps_did_and_prices_them() -> None:
    # Two outputs, K = 2 each step: (2, 0) accepted, then one token each is left or three.
    trace = make_trace([[1, 1, 0, 1], [0, 0, 0, 0]])
    played = replay(trace.starts, Coins(trace.accept_greedy), named("static:k=2").begin(trace), 2)
    assert played.running.tolist() == [2, 2, 1, 1]
    assert played.accepted.tolist() == [2, 0, 0, 0]
    assert played.verified[0].tolist() == played.drafted[1].tolist() == [4, 2, 1, 0]
    assert played.passes[0].tolist() == [2, 2, 1, 0]
    assert played.tokens == 8
    price = Toy(0.5, {6: 6.0, 4: 4.0, 2: 2.0, 1: 1.5})
    assert played.seconds(price, keeps_up=False)[0].tolist() == [6.5, 4.5, 2.5, 1.0]
    assert played.seconds(price, keeps_up=True)[0].tolist() == [6.5, 4.5, 2.5, 1.5]  # plain, and a pass that keeps up
    # A pass that says stop is paid where nothing is verified, too.
    unsure = make_trace([[1, 1]], max_q=[0.5, 0.9])
    stopped = replay(unsure.starts, Coins(unsure.accept_greedy), named("llama-cpp:p_min=0.75").begin(unsure), 1)
    assert (stopped.passes[0].tolist(), stopped.verified[0].tolist()) == ([1, 0], [0, 0])
    assert stopped.seconds(price, keeps_up=False)[0].tolist() == [2.0, 1.0]


@settings(max_examples=25)
@given(st.data())
def test_whatever_a_policy_does_every_token_is_written_once(data: st.DataObject) -> None:
    outputs = data.draw(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=8))
    size, rng = sum(map(len, outputs)), np.random.default_rng(data.draw(st.integers(0, 99)))
    sure = {"margin_q": rng.random(size) * 5, "max_q": rng.random(size)}
    trace, slots = make_trace([np.array(o, float) for o in outputs], **sure), data.draw(st.integers(1, 9))
    price = Toy(1.0, {n: 1.0 + n for n in range(1, 99)})
    longest = replay(trace.starts, Coins(trace.accept_greedy), named("static:k=7").begin(trace), slots)
    for policy in (
        AdaptiveVerification(
            by=Verification(k=7, refit_every=2, warm_up_refits=1), greedy=True, most=slots, price=price
        ),
        *map(
            named, ("sglang-adaptive:warmup_batches=0,update_interval=1", "llama-cpp:n_max=7", "trt-llm:schedule={3:5}")
        ),
    ):
        played = replay(trace.starts, Coins(trace.accept_greedy), policy.begin(trace), slots)
        assert played.tokens == size
        assert (played.accepted <= played.verified[0]).all()
        assert (played.verified[0] <= played.verified[1]).all()
        assert (played.verified <= played.drafted).all()
        assert (played.passes <= 7).all()
        assert (played.running <= slots).all()
        assert played.running.sum() >= longest.running.sum()  # no shorter draft saves rounds


def test_every_policy_has_a_name_and_refuses_what_makes_no_sense() -> None:
    assert {*ALONE, "vllm-adaptive"} == {*NAMES}
    for text, message in (
        ("dynamic", "--policy: 'dynamic' is not known, expected one of static, vllm-by-batch, "),
        ("static:k=0", "--policy static: k is 0, expected a whole number from 1 to 1024"),
        ("static:k=4,num_speculative_tokens=3", "k is stated twice"),
        ("static:4", "'4' is no setting, expected NAME:setting=value"),
        ("static:depth=4", "depth is not a key, expected k"),
        ("vllm-by-batch", "ranges is missing, expected ranges of batch sizes from 1 on"),
        ("vllm-by-batch:ranges=[[2,4,1]]", "expected ranges of batch sizes from 1 on"),
        ("vllm-by-batch:ranges=[[1,4,1],[4,8,1]]", "ranges[1] is [4, 8, 1], expected [first, last, K]"),
        ("trt-llm", "schedule is missing, expected batch sizes and lengths"),
        ("trt-llm:schedule={x:4}", "schedule is '{x:4}', expected an object"),
        ("trt-llm:schedule={0:4}", "expected batch sizes and lengths"),
        ("llama-cpp:p_min=2", "p_min is 2, expected a number from 0 to 1"),
        ("sglang-adaptive:candidate_steps=[]", "candidate_steps is [], expected a list of draft lengths"),
        ("sglang-adaptive:config=absent.json", "absent.json: no such file"),
        ("vllm-adaptive:k=0", "k is 0"),
    ):
        with pytest.raises(UserError) as refused:
            named(text)
        assert message in str(refused.value), text


def test_the_settings_of_a_policy_are_told_by_the_engines_names() -> None:
    assert named("static:num-speculative-tokens=7").longest == 7
    assert named("static: --speculative-num-steps=3").longest == 3
    assert isinstance(named("static").begin(make_trace([[1.0]])), Player)
    assert named("llama-cpp:--spec-draft-p-min=0.5,--spec-draft-n-max=6").longest == 6
