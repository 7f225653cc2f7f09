"""Replicas behind a router, and prompts read by others than decode them: by hand, and what holds of all of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ground.artefacts import UserError
from simulator.serving.draw_tables import Laws, acceptance_of
from simulator.serving.fleet import LEAST_LOADED, PREFIX_AWARE, ROUND_ROBIN, Replicas
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import Outcome, all_of, finished, logged, run, started
from simulator.serving.settings import SGLANG, TRTLLM, VLLM, Settings, settings_of
from simulator.workloads.requests import Requests, first, requests_of

ROUTERS = (ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE)
# A step takes a second, whatever it computes.
SECONDS = linear_costs(1.0, 0.0, tokens=8192)


def law(k: int, chance: float) -> Any:
    """Return an acceptance of so much a draft."""
    survival = np.zeros((1, k + 1, k))
    for drafts in range(1, k + 1):
        survival[0, drafts, :drafts] = chance ** np.arange(1, drafts + 1)
    return acceptance_of([Laws(survival)])


def server(**given: Any) -> Settings:
    """Return a server that plans a step when the one before has ended."""
    return settings_of(
        **{"num_blocks": 400, "max_model_len": 600, "async_scheduling": False, "prefix_caching": False, **given}
    )


def serve(requests: Requests, s: Settings | None = None, **given: Any) -> Outcome:
    """Serve requests on replicas, without drafts."""
    kinds = ("clients", "seed", "costs")
    told = {name: given.pop(name) for name in kinds if name in given}
    s = server() if s is None else s
    costs = told.pop("costs", SECONDS)
    return run(s, requests, law(max(s.k, 1), 0.7), costs, fixed(s.k or -1), replicas=Replicas(**given), **told)


def alike(one: Outcome, other: Outcome) -> bool:
    """Say whether two outcomes are the same bytes."""
    return all(
        np.asarray(getattr(one, name)).tobytes() == np.asarray(getattr(other, name)).tobytes()
        for name in set(Outcome._fields) - {"logs"}
    )


def drawn(size: int, rate: float, seed: int = 4, **columns: Any) -> Requests:
    """Return requests of uneven lengths."""
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(1, 300, size), np.minimum(rng.lognormal(2.5, 1, size), 250).astype(int) + 1
    return requests_of(prompt, output, arrival_s=np.cumsum(rng.exponential(1 / rate, size)), **columns)


def test_in_turn_and_to_the_emptiest() -> None:
    # The first writes ten tokens, the second one: then both servers are as full, and it is the first one's turn.
    requests = requests_of([4] * 4, [10, 1, 3, 2], arrival_s=[0.0, 0.1, 2.0, 2.5])
    turns, least = serve(requests, servers=2), serve(requests, servers=2, router=LEAST_LOADED)
    assert turns.replica.tolist() == [0, 1, 0, 1]
    assert turns.end_s == pytest.approx([10, 1.1, 5, 4.5])
    assert least.replica.tolist() == [0, 1, 1, 0]
    assert least.end_s == pytest.approx([10, 1.1, 5, 5])
    assert least.of_each("routed").tolist() == [2, 2]
    assert least.of_each("tokens").tolist() == [12, 4]
    assert least.of_each("busy_s").tolist() == [10, 4]
    # Of many at once none has more than its share, whoever began.
    many = serve(requests_of([4] * 17, [3] * 17), servers=5, router=LEAST_LOADED)
    assert many.of_each("routed").tolist() == [4, 4, 3, 3, 3]


def test_to_whose_cache_holds_much_of_a_prompt() -> None:
    s = server(prefix_caching=True, max_num_seqs=200)
    # Two of three blocks are of one text, and the first is at work for long.
    requests = requests_of([40] * 4, [50] * 4, arrival_s=[0, 1.5, 2.5, 2.6], shared=[32, 32, 0, 32], units=[7])
    found = serve(requests, s, servers=2, router=PREFIX_AWARE)
    assert found.replica.tolist() == [0, 0, 1, 0]
    assert found.cached.tolist() == [0, 32, 0, 32]
    assert serve(requests, s, servers=2, router=LEAST_LOADED).cached.tolist() == [0, 0, 0, 32]
    # A block of a hundred is not much.
    few = requests_of([100] * 2, [50] * 2, arrival_s=[0, 1.5], shared=[16, 16], units=[7])
    assert serve(few, s, servers=2, router=PREFIX_AWARE).replica.tolist() == [0, 1]


def test_a_prefix_fills_no_replica_beyond_what_others_have_by_far() -> None:
    s = server(prefix_caching=True, max_num_seqs=200)
    requests = requests_of([40] * 71, [200] + [2] * 70, arrival_s=[0.0] + [1.5] * 70, shared=[32] * 71, units=[7])
    found = serve(requests, s, servers=2, router=PREFIX_AWARE)
    # 65 more than the other has are too many: from then on one here, one there.
    assert found.of_each("routed").tolist() == [68, 3]
    assert found.replica[65:].tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("clients", [0, 3])
def test_one_server_is_one_server_whatever_the_router(router: int, clients: int) -> None:
    requests = drawn(60, 2.0, after=np.where(np.arange(60) % 5 == 4, np.arange(60) - 3, -1))
    s = server(k=2, max_num_seqs=5, prefix_caching=True, async_scheduling=True)
    assert alike(serve(requests, s, clients=clients), serve(requests, s, clients=clients, router=router))


def test_in_turn_each_serves_as_it_would_alone() -> None:
    requests, s = drawn(90, 1.5), server(max_num_seqs=4, async_scheduling=True)
    together = serve(requests, s, servers=3)
    for place in range(3):
        mine = {name: getattr(requests, name)[place::3] for name in ("prompt", "output", "arrival_s")}
        alone = serve(requests_of(mine.pop("prompt"), mine.pop("output"), **mine), s)
        for name in ("sent_s", "begun_s", "first_s", "end_s", "rounds", "preempted"):
            assert (getattr(together, name)[place::3] == getattr(alone, name)).all(), name
        assert together.of_each("busy_s")[place] == alone.busy_s
    # Others than these are served otherwise.
    assert (serve(requests, s, servers=3, router=LEAST_LOADED).end_s != together.end_s).any()


def test_a_router_that_looks_makes_waits_shorter_and_caches_fuller() -> None:
    rng, size = np.random.default_rng(2), 200
    texts = {"shared": np.full(size, 256, np.int32), "units_start": np.arange(size), "units": rng.integers(0, 60, size)}
    requests = drawn(size, 0.6)
    requests = requests._replace(prompt=requests.prompt + 256, **texts)
    s = server(prefix_caching=True, max_num_seqs=4)
    turns, least, prefix = (serve(requests, s, servers=4, router=router) for router in ROUTERS)
    assert (least.begun_s - least.sent_s).mean() < 0.7 * (turns.begun_s - turns.sent_s).mean()
    assert prefix.cached.sum() > 1.5 * max(turns.cached.sum(), least.cached.sum())


def test_a_prompt_is_read_here_and_answered_there() -> None:
    apart: dict[str, Any] = {"servers": 2, "readers": 1, "latency_s": 0.25, "token_s": 0.01}
    # Both prompts are read in one step; the KV of the second goes behind that of the first, and misses a step.
    found = serve(requests_of([16, 16], [3, 2], arrival_s=[0, 0]), **apart)
    assert found.begun_s.tolist() == [0, 0]
    assert found.handing_s == pytest.approx([0.41, 0.57])
    assert found.first_s == pytest.approx([2.41, 3.41])
    assert found.end_s == pytest.approx([4.41, 4.41])
    assert found.replica.tolist() == [1, 1]
    assert found.of_each("tokens").tolist() == [2, 5]
    # A server that does both throws no token away, and waits for no link.
    assert serve(requests_of([16, 16], [3, 2], arrival_s=[0, 0]), servers=2).end_s == pytest.approx([3, 2])


def test_memory_is_held_where_a_prompt_was_read_until_it_has_a_place_where_it_is_decoded() -> None:
    s = server(num_blocks=2, max_model_len=32)
    apart: dict[str, Any] = {"servers": 2, "readers": 1, "latency_s": 0.25, "token_s": 0.01}
    found = serve(requests_of([17] * 3, [3] * 3), s, **apart)
    # Each fills either memory: it is read when the one before has left, and leaves when the one before has ended.
    assert found.begun_s == pytest.approx([0, 1.42, 4.84])
    assert found.first_s == pytest.approx([2.42, 5.84, 9.26])
    assert found.end_s == pytest.approx([4.42, 7.84, 11.26])
    assert found.block_s == pytest.approx(2 * (1.42 + 3.42 + 3.42 + 3 * 3.42), abs=0.01)


servers = st.fixed_dictionaries(
    {
        "k": st.integers(0, 3),
        "block_size": st.sampled_from([1, 4, 16]),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(16, 200),
        "prefix_caching": st.booleans(),
        "async_scheduling": st.booleans(),
        "by_priority": st.booleans(),
        "scheduler": st.sampled_from((VLLM, VLLM, SGLANG, TRTLLM)),
    }
)
loads = st.lists(
    st.tuples(st.integers(1, 130), st.integers(1, 40), st.floats(0, 0.05), st.integers(-1, 5), st.integers(0, 2)),
    min_size=1,
    max_size=14,
)
fleets = st.tuples(st.integers(1, 4), st.integers(0, 3), st.sampled_from(ROUTERS)).filter(lambda f: f[1] < f[0])


@settings(max_examples=25, deadline=None)
@given(
    given=servers,
    load=loads,
    clients=st.integers(0, 3),
    share=st.integers(0, 40),
    fleet=fleets,
    token_s=st.sampled_from([0.0, 1e-4, 1e-2]),
)
def test_nothing_is_lost_between_replicas(
    given: dict[str, Any], load: list[Any], clients: int, share: int, fleet: tuple[int, int, int], token_s: float
) -> None:
    prompt, output, gaps, after, priority = (np.array(column) for column in zip(*load, strict=True))
    after = np.where(after < np.arange(len(load)), after, -1)
    count, readers, router = fleet
    if given["scheduler"] != VLLM:
        readers, given = 0, {**given, "by_priority": False}
    s = settings_of(num_blocks=130 // given["block_size"] + 3, max_model_len=130, lookahead=given["k"], **given)
    about: dict[str, Any] = {"arrival_s": np.cumsum(gaps), "priority": priority, "after": after, "think_s": gaps}
    requests = requests_of(prompt, output, shared=np.minimum(prompt, share), units=[7], **about)
    replicas = Replicas(servers=count, router=router, readers=readers, latency_s=token_s, token_s=token_s)
    costs = linear_costs(0.01, 1e-5, tokens=8192)
    told: dict[str, Any] = {"clients": clients, "seed": 3, "replicas": replicas}
    ended, logs = logged(started(s, requests, law(4, 0.6), costs, fixed(s.k or -1), **told))
    outcome = finished(ended, logs)
    assert alike(outcome, run(s, requests, law(4, 0.6), costs, fixed(s.k or -1), **told))
    is_served = prompt < 130
    answered = np.minimum(output, 130 - prompt)
    assert np.isnan(outcome.end_s).tolist() == np.isnan(outcome.sent_s).tolist() == (~is_served).tolist()
    times = np.stack((outcome.sent_s, outcome.begun_s, outcome.first_s, outcome.end_s))[:, is_served]
    assert (np.diff(times, axis=0) >= -1e-9).all()
    # Tokens: of who answers, those of all answers; of who reads, one each.
    assert outcome.of_each("tokens")[readers:].sum() == answered[is_served].sum()
    assert outcome.of_each("tokens")[:readers].sum() == is_served.sum() * (readers > 0)
    for each in all_of(ended):
        assert list(each.kv.free[:2]) == [s.num_blocks, s.max_num_seqs]
        assert not any(row[4] for row in each.kv.block)
        assert not any(each.queues.size[place] for place in (0, 1, 3, 4, 5) if place < len(each.queues.size))
    # Little: the time that all spend there is the sum of how many are there, on all replicas.
    there = (times[3] - times[0]).sum()
    assert outcome.waiting_s + outcome.running_s == pytest.approx(there, rel=1e-9, abs=1e-9)


def test_as_many_servers_as_requests_leave_each_alone() -> None:
    requests = first(drawn(20, 100.0), 20)
    pairs = zip(requests.prompt, requests.output, strict=True)
    found, alone = serve(requests, servers=20), [serve(requests_of([p], [o])) for p, o in pairs]
    assert found.end_s - found.sent_s == pytest.approx([float(one.end_s[0]) for one in alone])


def test_who_never_fits_is_named_where_others_wait_elsewhere() -> None:
    # Settings that are checked have room for all.
    s = server(max_num_seqs=1)._replace(num_blocks=2)
    with pytest.raises(UserError, match="request 2 with a prompt of 100 tokens never fits"):
        serve(requests_of([4, 100, 5], [10, 3, 3]), s, servers=2)
