"""What holds of any run of a server: nothing is lost, nothing is made, waiting lines are those of queueing theory."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.answers.live_policies import Live, Weighed, live_policy
from simulator.ground import compiled
from simulator.ground.artefacts import UserError
from simulator.serving import state
from simulator.serving.draw_tables import Laws, acceptance_of
from simulator.serving.fleet import ONE, Replicas
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import Outcome
from simulator.serving.settings import settings_of
from simulator.workloads.requests import requests_of
from tests.server import plans
from tests.server.workloads import draw

Run = Callable[..., Outcome]
STEP_S = 0.01


@pytest.fixture(scope="module")
def modules() -> Any:
    """The serving modules anew, as plain Python runs them: nothing is compiled."""
    room = "simulator.serving"
    kept = {name: module for name, module in sys.modules.items() if name.startswith(room)}
    package = sys.modules["simulator"].serving
    with pytest.MonkeyPatch.context() as patch:
        for name in kept:
            patch.delitem(sys.modules, name)
        patch.setattr(compiled, "IS_COMPILED", False)
        from simulator.serving import run as anew

        made = anew
    for name in [name for name in sys.modules if name.startswith(room)]:
        del sys.modules[name]
    sys.modules.update(kept)
    sys.modules["simulator"].serving = package
    return made


def law(k: int, chance: float, sharp: float = 0.0) -> Any:
    """Return an acceptance of so much a draft; sharp: how far confidences tell drafts apart."""
    survival = np.zeros((1, k + 1, k))
    for drafts in range(1, k + 1):
        survival[0, drafts, :drafts] = chance ** np.arange(1, drafts + 1)
    return acceptance_of([Laws(survival, sharp=sharp)])


COSTS = linear_costs(STEP_S, 1e-5, tokens=8192)
servers = st.fixed_dictionaries(
    {
        "k": st.integers(0, 4),
        "block_size": st.sampled_from([1, 4, 16]),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(8, 200),
        "prefix_caching": st.booleans(),
        "async_scheduling": st.booleans(),
        "by_priority": st.booleans(),
        "reserve_full_isl": st.booleans(),
    }
)
loads = st.lists(
    st.tuples(st.integers(1, 130), st.integers(1, 40), st.floats(0, 0.05), st.integers(-1, 5), st.integers(0, 2)),
    min_size=1,
    max_size=14,
)


# Live policies, as users name them.
POLICIES = (
    "static:k={k}",
    "off-above:k={k},batch=2,waiting=1",
    "vllm-by-batch:ranges=[[1,2,{k}],[3,6,1]]",
    "vllm-adaptive:k={k},warm_up_refits=0",
    "sglang-adaptive:k=3",
    "trt-llm:schedule={{1:{k},3:1}}",
    "llama-cpp:n_max={k},p_min=0.5",
    "goodput:k={k},cuts=true",
)


def policy_of(text: str, k: int, seats: int) -> Live:
    """Return a live policy of drafts of k tokens, and what it makes of costs."""
    live = live_policy(text.format(k=k))
    k = live.longest
    weighed = Weighed(COSTS, np.arange(k + 1) * 0.6, np.arange(k + 1.0), seats, 60.0, 2.0)
    return live._replace(make=partial(live.make, weighed))


@settings(max_examples=60, deadline=None)
@given(server=servers, load=loads, clients=st.integers(0, 3), share=st.integers(0, 40), name=st.sampled_from(POLICIES))
def test_nothing_is_lost_and_nothing_is_made(
    modules: Any, server: dict[str, Any], load: list[Any], clients: int, share: int, name: str
) -> None:
    conserves(modules, server, load, clients, share, name)


def conserves(modules: Any, server: dict[str, Any], load: list[Any], clients: int, share: int, name: str) -> None:
    """Check that a run loses and makes nothing."""
    prompt, output, gaps, after, priority = (np.array(column) for column in zip(*load, strict=True))
    after = np.where(after < np.arange(len(load)), after, -1)
    policy = fixed(-1)
    if server["k"] > 0:
        live = policy_of(name, server["k"], server["max_num_seqs"])
        policy, server = live.make(), server | {"k": live.longest, "is_dynamic": live.follows}
    s = settings_of(num_blocks=130 // server["block_size"] + 3, max_model_len=130, lookahead=server["k"], **server)
    requests = requests_of(
        prompt,
        output,
        arrival_s=np.cumsum(gaps),
        priority=priority,
        after=after,
        think_s=gaps,
        shared=np.minimum(prompt, share),
        units=[7],
    )
    ran = modules.started(s, requests, law(7, 0.6, 0.8), COSTS, policy, clients=clients, seed=3)
    ended, (log,) = modules.logged(ran)
    outcome = modules.finished(ended, (log,))
    is_served = prompt < 130
    kinds, _, of, value = log.entries.T
    emitted = np.bincount(of[kinds == state.EMITS], value[kinds == state.EMITS], len(load))
    assert emitted.tolist() == np.where(is_served, np.minimum(output, 130 - prompt), 0).tolist()
    assert sorted(of[kinds == state.ENDS]) == np.flatnonzero(is_served).tolist()
    assert np.isnan(outcome.end_s).tolist() == np.isnan(outcome.sent_s).tolist() == (~is_served).tolist()
    times = np.stack((outcome.sent_s, outcome.begun_s, outcome.first_s, outcome.end_s))[:, is_served]
    assert (np.diff(times, axis=0) >= -1e-9).all()
    # Memory: never more than there is, and all of it is free again.
    assert log.steps[:, 4].min(initial=0) >= 0
    assert ended.all.kv.free[0][:2] == [s.num_blocks, s.max_num_seqs]
    assert not any(row[4] for row in ended.all.kv.block[0])
    # Who writes a last token holds all before it.
    held = (prompt + np.minimum(output, 130 - prompt) - 1)[is_served].max(initial=0)
    assert outcome.most_blocks * s.block_size >= held
    # Little: the time that all spend there is the sum of how many are there.
    there = (times[3] - times[0]).sum()
    assert outcome.waiting_s + outcome.running_s == pytest.approx(there, rel=1e-9, abs=1e-9)
    # A computed token is one of a text, or a draft that was not taken, or was lost and computed again.
    computed = value[kinds == state.PLANS].sum()
    texts = (prompt + np.minimum(output, 130 - prompt) - 1)[is_served].sum()
    if outcome.preemptions == 0 and s.k == 0 and not s.async_scheduling:
        assert computed == texts - outcome.cached.sum()
    assert outcome.accepted.sum() <= outcome.drafted.sum()


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        ("end_step", "release", lambda kv, slot: None),
        ("plan_step", "grow", lambda s, kv, t, count: True),
        ("end_step", "follow", lambda run, request, now: None),
        ("end_step", "stamp", lambda *_: None),
    ],
)
def test_what_is_lost_is_told(
    modules: Any, monkeypatch: pytest.MonkeyPatch, where: str, name: str, broken: Any
) -> None:
    """A block that is not given back, one that is not taken, a turn that is not sent, a time that is not noted."""
    server = {"k": 2, "block_size": 4, "max_num_seqs": 3, "max_num_batched_tokens": 64, "prefix_caching": False}
    load = [(4, 6, 0.001, -1, 0), (5, 3, 0.002, 0, 0), (3, 60, 0.0, -1, 0)]
    conserves(modules, server, load, 0, 0, POLICIES[0])
    monkeypatch.setitem(modules.advance.__globals__[where].__globals__, name, broken)
    with pytest.raises((AssertionError, ValueError, IndexError, UserError)):
        conserves(modules, server, load, 0, 0, POLICIES[0])


def test_no_drafts_are_no_speculation(modules: Any) -> None:
    rng = np.random.default_rng(5)
    requests = requests_of(rng.integers(1, 400, 60), rng.integers(1, 60, 60), arrival_s=np.cumsum(rng.random(60) / 9))
    server: dict[str, Any] = {"num_blocks": 70, "max_model_len": 512, "max_num_seqs": 8, "async_scheduling": False}
    none, rests = settings_of(**server), settings_of(**server, k=4)
    without = modules.run(none, requests, law(4, 0.6), COSTS, fixed(-1))
    resting = modules.run(rests._replace(pads=False), requests, law(4, 0.6), COSTS, fixed(-1))
    drafting = modules.run(rests, requests, law(4, 0.6), COSTS, fixed(4))
    assert without.preemptions > 0
    assert same(without, resting)
    assert not same(without, drafting)


def same(one: Outcome, other: Outcome) -> bool:
    """Say whether two outcomes are alike, bit for bit."""
    fields = set(Outcome._fields) - {"logs"}
    return all(
        np.asarray(getattr(one, name)).tobytes() == np.asarray(getattr(other, name)).tobytes() for name in fields
    )


@pytest.mark.statistical
@pytest.mark.parametrize("spread", [False, True])
def test_a_single_seat_is_the_line_of_pollaczek_and_khinchine(modules: Any, spread: bool) -> None:
    """Mean wait: rate * E[S^2] / (2 (1 - load)); batches of requests tell the error of the mean."""
    rng, size, load = np.random.default_rng(8), 7200, 0.5
    output = rng.geometric(0.5, size) if spread else np.ones(size, int)
    service = output * STEP_S
    rate = load / service.mean()
    arrival = np.cumsum(rng.exponential(1 / rate, size))
    s = settings_of(num_blocks=100, max_model_len=100, max_num_seqs=1, async_scheduling=False, prefix_caching=False)
    costs = linear_costs(STEP_S, 0.0, tokens=8192)
    outcome = modules.run(s, requests_of(np.full(size, 5), output, arrival_s=arrival), law(1, 0.5), costs, fixed(-1))
    waits = (outcome.begun_s - outcome.sent_s).reshape(24, -1).mean(axis=1)
    expected = rate * (service**2).mean() / (2 * (1 - rate * service.mean()))
    error_s = waits.std(ddof=1) / np.sqrt(len(waits))
    assert abs(waits.mean() - expected) < 3 * error_s
    # That times of service differ counts.
    alike = rate * service.mean() ** 2 / (2 * (1 - rate * service.mean()))
    assert (abs(waits.mean() - alike) > 3 * error_s) == spread


def test_clients_keep_so_many_there(modules: Any) -> None:
    requests = requests_of(np.full(40, 50), np.full(40, 10))
    s = settings_of(num_blocks=100, max_model_len=100, max_num_seqs=8)
    outcome = modules.run(s, requests, law(1, 0.5), COSTS, fixed(-1), clients=4)
    assert outcome.most_running == 4
    assert (outcome.waiting_s + outcome.running_s) / outcome.end_of_run_s == pytest.approx(4, rel=0.02)


@pytest.mark.whole
@pytest.mark.skipif(not compiled.IS_COMPILED, reason="needs numba")
def test_both_engines_have_the_same_bits(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleets = [ONE] * 30 + [Replicas(3, rule, readers, 1e-3, 1e-5) for rule in range(3) for readers in (0, 1, 2)]

    def served() -> list[Outcome]:
        return [plans.serve(draw(seed), replicas) for seed, replicas in enumerate(fleets)]

    ours = served()
    monkeypatch.setattr(plans, "run", modules.run)
    for one, other in zip(ours, served(), strict=True):
        assert same(one, other)
        for log, plain in zip(one.logs, other.logs, strict=True):
            assert log.entries.tobytes() == plain.entries.tobytes()
            assert log.steps.tobytes() == plain.steps.tobytes()
