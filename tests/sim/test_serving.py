"""A server under load in closed form: limits, a loop of passes as the oracle, what holds of any load."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.costs.cautions import cautions
from simulator.costs.drafters.plan import DraftPlan
from simulator.costs.engine import Engine
from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.costs.profile import USABLE_MEMORY
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.costs.work import stored
from simulator.serving import steady as steady_module
from simulator.serving.passes import passes_of
from simulator.serving.steady import steady
from tests.sim.request_loop import measured, play


def pair_on(profile: str = "h100-sxm", method: str = "eagle3", target: str = "llama-3.1-8b") -> ModelPair:
    pair = load_pricing(DeviceOptions(profile=profile, target_model=target, method=method)).models
    assert pair is not None
    return replace(pair, profile=replace(pair.profile, engine=None))


PAIR = pair_on()
# Clients, prompt, answer, tokens of a pass.
LOADS = [(4, 1024, 64, 8192), (64, 1024, 128, 8192), (128, 128, 128, 2048), (64, 512, 16, 8192), (32, 4096, 256, 2048)]
ALIKE = [(4, 1024, 64, 8192), (8, 8192, 300, 2048), (64, 1024, 128, 8192), (200, 1000, 100, 8192), (64, 512, 16, 8192)]
DRAFTED = [(16, 1024, 128, 8192), (64, 1024, 128, 8192), (64, 128, 256, 8192), (32, 4096, 256, 2048)]


def test_alone_a_token_takes_a_decode_step() -> None:
    found, target = steady(PAIR, 1, 2048, np.array([2, 256, 1000])), PAIR.placed_target
    step_s = target.parts(1, 1, 2048 + np.array([0, 127, 499])).total_s
    assert found.tpot_s == pytest.approx(step_s, rel=1e-12)
    assert found.ttft_s == pytest.approx(float(target.parts(1, 2048, 0, 1).total_s), rel=1e-12)
    assert not found.queueing_s.any()


def test_alone_a_token_of_rounds_takes_a_round_over_its_tokens() -> None:
    found = steady(PAIR, 1, 512, 2001, draft_length=4, tokens_per_round=2.5)
    round_s = replace(PAIR, batch=1, context=1511).round_cost(4).after_miss_s
    assert float(found.decode_s) == pytest.approx(float(round_s), rel=1e-3)
    assert float(found.tpot_s) == pytest.approx(float(round_s) / 2.5, rel=1e-3)


def test_rounds_that_draft_nothing_are_plain_passes() -> None:
    pair = replace(pair_on(method="ngram"), round_overhead_s=0.0)
    pair = replace(pair, method=replace(pair.method, plan=lambda shape, k: DraftPlan(passes=(), width=k + 1)))
    clients = np.array([1, 8, 64])
    for loads in ({}, {"alike": True}, {"mixed": False}, {"requests": 100, "chunk": 512}):
        plain = steady(pair, clients, 700, 300, **loads)
        empty = steady(pair, clients, 700, 300, draft_length=0, tokens_per_round=1.0, **loads)
        for one, other in zip(plain, empty, strict=True):
            assert one == pytest.approx(other, rel=1e-12)


def test_long_answers_take_decode_steps_of_the_whole_batch() -> None:
    found = steady(PAIR.placed_target, 8, 512, np.array([1_000, 40_000]))
    step_s = PAIR.placed_target.parts(8, 1, 512 + np.array([499, 19_999])).total_s
    above = found.tpot_s / step_s - 1
    assert 0 < above[1] < above[0] < 0.03


def looped(load: tuple[int, int, int, int], models: Any = PAIR.placed_target, k: int | None = None, **more: Any):
    clients, isl, osl, chunk = load
    passes = max(1000, 14 * (osl + clients * isl // chunk))
    played = play(clients, isl, osl, chunk=chunk, passes=passes, draft_length=k or 0, **more)
    return measured(played, passes_of(models, k), passes // 3)


@pytest.mark.parametrize("load", LOADS)
def test_a_loop_of_mixed_passes_takes_as_long(load: tuple[int, int, int, int]) -> None:
    found, (tpot_s, ttft_s) = steady(PAIR.placed_target, *load[:3], chunk=load[3]), looped(load)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.04)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.1)
    # What a decode step tells is not what a token takes, nor does the loop agree with passes of prompts alone.
    assert float(found.decode_s) < 0.97 * tpot_s
    apart = steady(PAIR.placed_target, *load[:3], chunk=load[3], mixed=False)
    assert abs(float(apart.tpot_s) / tpot_s - 1) > 0.03


@pytest.mark.parametrize("load", LOADS)
def test_a_loop_where_prompts_come_first_takes_as_long(load: tuple[int, int, int, int]) -> None:
    found = steady(PAIR.placed_target, *load[:3], chunk=load[3], mixed=False)
    tpot_s, ttft_s = looped(load, mixed=False)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.03)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.2)


@pytest.mark.parametrize("load", ALIKE)
def test_answers_of_one_length_stay_in_step(load: tuple[int, int, int, int]) -> None:
    found = steady(PAIR.placed_target, *load[:3], chunk=load[3], alike=True)
    tpot_s, ttft_s = looped(load, spread=0.0)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.03)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.1)
    # Those that come one by one wait less.
    assert float(steady(PAIR.placed_target, *load[:3], chunk=load[3]).ttft_s) < 0.85 * ttft_s


@pytest.mark.parametrize("load", DRAFTED)
def test_a_loop_of_rounds_takes_as_long(load: tuple[int, int, int, int]) -> None:
    tau = (1 - 0.7**4) / 0.3
    found = steady(PAIR, *load[:3], chunk=load[3], draft_length=3, tokens_per_round=tau)
    tpot_s, ttft_s = looped(load, PAIR, 3, alpha=0.7)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.03)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.1)


@pytest.mark.parametrize("load", [(16, 1024, 128, 8192), (64, 128, 256, 8192), (32, 4096, 512, 2048)])
def test_a_burst_of_prompts_is_read_one_behind_the_other(load: tuple[int, int, int, int]) -> None:
    clients, isl, osl, chunk = load
    played = play(clients, isl, osl, chunk=chunk, passes=2 * (osl + clients * isl // chunk))
    _, ttft_s = measured(played, passes_of(PAIR.placed_target, None), 0, 0)
    found = steady(PAIR.placed_target, clients, isl, osl, chunk=chunk, requests=clients)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.03)


@pytest.mark.parametrize("load", [(32, 2048, 256, 8192), (16, 8000, 64, 8192), (32, 4096, 128, 2048)])
@pytest.mark.parametrize("each", [1, 3])
def test_a_load_that_ends_takes_less_a_token(load: tuple[int, int, int, int], each: int) -> None:
    """Whoever begins with all others sees half of their prompts read, and at the end nobody follows."""
    clients, isl, osl, chunk = load
    passes = int((each + 1) * (1.4 * osl + 1.5 * clients * isl / chunk + 50))
    played = play(clients, isl, osl, chunk=chunk, passes=passes, requests=each * clients)
    assert len(played.requests) == each * clients
    tpot_s, _ = measured(played, passes_of(PAIR.placed_target, None), 0)
    found = steady(PAIR.placed_target, clients, isl, osl, chunk=chunk, requests=each * clients)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.04)
    assert float(steady(PAIR.placed_target, clients, isl, osl, chunk=chunk).tpot_s) > (1 + 0.15 / each) * tpot_s


def test_a_burst_beyond_those_that_run_waits_half_as_long_as_who_comes_later() -> None:
    """Of 48 requests at once 16 run: the first do not wait, the last for two others."""
    clients, isl, osl, most = 48, 1024, 128, 16
    played = play(clients, isl, osl, passes=6 * osl, most_running=most)
    _, ttft_s = measured(played, passes_of(PAIR.placed_target, None), 0, 0)
    found = steady(PAIR.placed_target, clients, isl, osl, most_running=most, requests=clients)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.1)
    assert float(found.queueing_s) > 0.9 * ttft_s


def test_no_more_clients_are_at_work_than_requests_are_sent() -> None:
    found = steady(PAIR, 64, 2048, 100, requests=np.array([1, 4, 16, 64, 640]))
    alone = steady(PAIR, 1, 2048, 100)
    assert (found.ttft_s[0], found.queueing_s[0]) == (pytest.approx(float(alone.ttft_s)), pytest.approx(0.0, abs=1e-9))
    assert (np.diff(found.output_tokens_per_s[:4]) > 0).all()
    assert (np.diff(found.ttft_s[:4]) > 0).all()
    # What waits is told as waiting: of a burst of 64 prompts, four of which fill a pass, nearly all of it.
    assert 0.85 < float(found.queueing_s[3] / found.ttft_s[3]) < 1
    assert 0.85 * found.ttft_s[4] < found.ttft_s[3] * 0.1 + steady(PAIR, 64, 2048, 100).ttft_s * 0.9


@pytest.mark.parametrize("clients", [30, 128])
def test_a_pass_of_few_tokens_decodes_no_more_sequences_than_it_holds(clients: int) -> None:
    load = (clients, 300, 100, 48)
    found, (tpot_s, ttft_s) = steady(PAIR.placed_target, *load[:3], chunk=load[3]), looped(load)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.02)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.02)
    wide = steady(PAIR.placed_target, *load[:3])
    assert float(wide.output_tokens_per_s) > 2 * float(found.output_tokens_per_s)


def test_a_pass_that_holds_no_round_serves_nothing() -> None:
    found = steady(PAIR, 8, 300, 100, chunk=np.array([4, 5]), draft_length=4, tokens_per_round=2.0)
    assert np.isnan(found.tpot_s).tolist() == [True, False]


# Room for so many sequences of mean length, clients, prompt, answer.
FULL = [(40.5, 32, 700, 300), (40.5, 40, 700, 300), (60.5, 62, 64, 300), (60.5, 75, 64, 300), (40.5, 80, 2000, 200)]


@pytest.mark.parametrize("load", FULL)
def test_memory_that_fills_lets_some_wait_before_and_some_in_their_answers(load: tuple[float, int, int, int]) -> None:
    """A loop that counts tokens: prompts are begun where they fit, and places given up where answers do not."""
    fits, clients, isl, osl = load
    target, tokens = PAIR.placed_target, int(fits * (isl + osl / 2))
    held = float(target.memory_bytes(0, 1)) + tokens * target.shape.kv_bytes_per_token("bfloat16")
    target = replace(target, profile=replace(target.profile, memory_bytes=int(held / USABLE_MEMORY)))
    found, passes = steady(target, clients, isl, osl), 20 * osl
    tpot_s, ttft_s = measured(play(clients, isl, osl, room=tokens, passes=passes), passes_of(target, None), passes // 2)
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.15)
    assert 1 / 2 < float(found.ttft_s) / ttft_s < 2
    assert float(found.output_tokens_per_s) == pytest.approx(clients * osl / (ttft_s + (osl - 1) * tpot_s), rel=0.15)
    # Whose places are never short waits less.
    wide = steady(PAIR.placed_target, clients, isl, osl)
    assert (float(wide.ttft_s) < 0.9 * ttft_s) == (clients > 0.9 * fits)


@settings(max_examples=30, deadline=None)
@given(
    isl=st.integers(1, 20_000),
    osl=st.integers(100, 4000),
    most=st.integers(2, 300),
    k=st.sampled_from([None, 4]),
    mixed=st.booleans(),
    client_s=st.sampled_from([0.0, 3e-3]),
)
def test_a_full_server_stays_at_its_ceiling(
    isl: int, osl: int, most: int, k: int | None, mixed: bool, client_s: float
) -> None:
    """However many wait: who waits has come to the engine already, and takes no time of those that run."""
    engine = Engine(front_s=0.02, front_client_s=client_s, host_layer_s=1e-4)
    pair = replace(PAIR, profile=replace(PAIR.profile, engine=engine))
    clients = np.unique(np.round(np.geomspace(1, 100 * most, 40)))
    found = steady(pair, clients, isl, osl, most_running=most, mixed=mixed, draft_length=k, tokens_per_round=k and 2.5)
    rate = found.output_tokens_per_s[~np.isnan(found.running)]
    # The last place is taken a pass sooner where requests wait for it.
    assert (rate > 0.97 * np.maximum.accumulate(rate)).all()
    assert rate[-1] == pytest.approx(rate[len(rate) - 5], rel=1e-9)


def test_of_more_clients_than_run_the_others_wait() -> None:
    load, most = (48, 1024, 128, 8192), 16
    found = steady(PAIR.placed_target, *load[:3], most_running=most)
    tpot_s, ttft_s = looped(load, most_running=most)
    assert float(found.running) == most
    assert float(found.tpot_s) == pytest.approx(tpot_s, rel=0.04)
    assert float(found.ttft_s) == pytest.approx(ttft_s, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 2000),
    isl=st.integers(1, 100_000),
    osl=st.integers(2, 5000),
    k=st.sampled_from([None, 1, 5]),
    mixed=st.booleans(),
    alike=st.booleans(),
    each=st.sampled_from([np.inf, 1, 10]),
)
def test_clients_hold_what_they_send(
    clients: int, isl: int, osl: int, k: int | None, mixed: bool, alike: bool, each: float
) -> None:
    options: dict[str, Any] = {"mixed": mixed, "alike": alike and mixed, "draft_length": k, "requests": each * clients}
    found = steady(PAIR, clients, isl, osl, **options, tokens_per_round=k and 1 + k / 2)
    if np.isnan(found.running):
        assert np.isnan(found.tpot_s)
        return
    assert all(np.isfinite(v) and v >= 0 for v in found)
    assert 1 <= found.running <= clients
    # Little's law: so many clients, each with one request on the way.
    e2e_s = found.ttft_s + found.tpot_s * (osl - 1)
    sending = found.output_tokens_per_s / osl * e2e_s
    # Some have sent their last, where the first of a few waited less than who comes later.
    few_wait = np.isfinite(each) and found.running < clients
    assert sending <= clients * (1 + 1e-9) if few_wait else float(sending) == pytest.approx(clients, rel=1e-9)


def test_how_sure_a_server_is_known_counts_in_time_a_token_and_to_the_first() -> None:
    engine = Engine(load_layer_s=1e-4, front_s=0.1, host_error=0.5)
    sure = PAIR.profile.passes["bfloat16"]
    passes = {"bfloat16": replace(sure, uncertain=(), covariance=np.zeros((0, 0)))}
    pair = replace(PAIR, profile=replace(PAIR.profile, engine=engine, passes=passes, launches_per_layer_error=0.0))
    drawn = steady(pair.sample(np.random.default_rng(0), 500), np.array([1, 2]), 16, 4000)
    # Of a token 32 layers of 0.1 ms are unsure by a half; of the first one 0.1 s more.
    assert drawn.tpot_s.std(0) == pytest.approx(0.5 * 3.2e-3 * np.ones(2), rel=0.25)
    assert drawn.ttft_s[:, 0].std() == pytest.approx(0.5 * (0.1 + 3.2e-3), rel=0.25)


def test_arrays_of_loads_and_of_samples_broadcast() -> None:
    clients, lengths = np.array([1, 8, 64])[:, None], np.array([1, 4])
    one = steady(PAIR, clients, 700, 90, draft_length=lengths, tokens_per_round=np.array([1.6, 2.7]))
    assert one.tpot_s.shape == (3, 2)
    alone = steady(PAIR, 64, 700, 90, draft_length=4, tokens_per_round=2.7)
    assert one.ttft_s[2, 1] == pytest.approx(float(alone.ttft_s), rel=1e-12)
    drawn = PAIR.sample(np.random.default_rng(0), 5)
    many = steady(drawn, clients, 700, 90, draft_length=lengths, tokens_per_round=np.array([1.6, 2.7]))
    assert many.tpot_s.shape == (5, 3, 2)


def test_many_loads_are_priced_in_parts_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clients, isl = rng.integers(1, 99, 41)[:, None], rng.integers(1, 5000, 3)
    drafted = {"draft_length": np.array([1, 2, 5]), "tokens_per_round": 1.7}
    for more in ({}, drafted, {"requests": clients * 3, "alike": True}):
        whole = steady(PAIR, clients, isl, 90, **more)
        with monkeypatch.context() as patch:
            patch.setattr(steady_module, "PART", 30)
            parts = steady(PAIR, clients, isl, 90, **more)
        for name, one, other in zip(whole._fields, whole, parts, strict=True):
            assert np.shape(one) == np.shape(other), name
            assert np.array_equal(one, other, equal_nan=True), name


def test_prompts_in_the_cache_are_not_read_again() -> None:
    hit = steady(PAIR.placed_target, 32, 8000, 128, prefix_hit=np.array([0.0, 0.5, 1.0]))
    assert (np.diff(hit.tpot_s) < 0).all()
    assert float(hit.mixed_s[2]) == pytest.approx(float(hit.decode_s[2]), rel=0.05)


def test_passes_with_a_prompt_wait_for_the_host_and_others_do_not() -> None:
    busy = replace(PAIR, profile=replace(PAIR.profile, engine=Engine(host_s=0.02, host_sequence_s=1e-4)))
    alone, beside = (steady(p.placed_target, 32, 256, 128) for p in (PAIR, busy))
    assert float(beside.decode_s) == float(alone.decode_s)
    host_s, device_s = 0.02 + 32e-4, float(alone.mixed_s)
    assert float(beside.mixed_s) == pytest.approx((host_s**3 + device_s**3) ** (1 / 3), rel=1e-3)


def test_a_model_that_does_not_fit_serves_nobody() -> None:
    found = steady(pair_on(target="llama-3.1-70b"), 8, 100, 100)
    assert np.isnan(found.tpot_s)
    assert np.isnan(found.output_tokens_per_s)


def test_under_load_an_engine_adds_to_passes_and_in_front_of_them() -> None:
    engine = Engine(load_layer_s=1e-5, load_layer_sequence_s=1e-7, front_s=0.02, front_client_s=1e-3, first_passes=2.0)
    plain, load = PAIR.placed_target, (np.array([1, 32]), 1000, 200)
    added = replace(plain, profile=replace(plain.profile, engine=engine))
    one, other = (steady(models, *load) for models in (plain, added))
    # Llama 8B has 32 layers; a request alone decodes with no other, and its prompt is a sequence too.
    assert (other.decode_s - one.decode_s)[0] == pytest.approx(32 * 1.01e-5)
    of_first_s = other.first_s[0] * 3 - one.first_s[0]
    assert (other.ttft_s - one.ttft_s)[0] == pytest.approx(0.021 + of_first_s)
    assert (other.output_tokens_per_s < one.output_tokens_per_s).all()
    # A closed batch takes what it took.
    assert added.parts(32, 4, 1000).total_s == plain.parts(32, 4, 1000).total_s


def test_a_batch_is_told_what_a_server_adds_to_its_steps() -> None:
    """One profile, one step: a batch of 32 and a load of 32 clients differ by what the caution names, no more."""
    pair = replace(PAIR, batch=32, context=1000, profile=replace(PAIR.profile, engine=Engine(load_layer_s=2e-4)))
    step_s = float(pair.placed_target.parts(32, 1, 1000).total_s)
    found = steady(pair.placed_target, 32, 900, 202, most_running=32)
    assert float(found.decode_s) == pytest.approx(step_s + 32 * 2e-4, rel=1e-3)
    said = f"a server under load adds 6.4 ms to a step of {1e3 * step_s:.3g} ms"
    assert [text.startswith(said) for text in cautions(pair) if "--isl" in text] == [True]
    assert not [text for text in cautions(pair, isl=900, osl=202) if "--isl" in text]
    little = replace(pair, profile=replace(PAIR.profile, engine=Engine(load_layer_s=1e-6)))
    assert not [text for text in cautions(little) if "--isl" in text]


@pytest.mark.parametrize(("profile", "tp", "joined"), [("h100", 8, 0), ("h100", 16, 8), ("gb200", 16, 0)])
def test_more_devices_than_a_link_joins_are_said(profile: str, tp: int, joined: int) -> None:
    pair = load_pricing(DeviceOptions(profile=profile, target_model="llama-3.1-70b", method="ngram", tp=tp)).models
    assert pair is not None
    said = [text for text in cautions(pair) if text.startswith("--tp")]
    name = pair.profile.name
    assert said == [f"--tp: {tp} devices, but the link of {name} joins {joined}: no network is priced"] * bool(joined)


def test_groups_that_share_sequences_each_read_all_weights_but_the_experts() -> None:
    """DeepSeek-V3 on 8 devices: attention of 8 groups reads an eighth of the sequences and all its weights."""
    shape = read_shape("deepseek-v3")
    plain = Placed(shape=shape, dtype="fp8", kv_dtype=None, devices=8, profile=load_profile("h200"))
    shared = replace(plain, replicas=8)
    work = shape.work(64, 1, 4000)
    assert shared.doing(work).flops == plain.doing(work).flops
    always = stored(shape, plain.storage).always_bytes
    kept = 64 * 4001 * shape.kv_bytes_per_token("bfloat16")
    # Latent vectors are not divided: each of 8 devices reads all of them, or those of its own sequences.
    expected = always * 7 / 8 - kept * 7 / 8
    assert float(shared.moved_of(work) - plain.moved_of(work)) == pytest.approx(expected, rel=1e-9)
    held = shared.memory_bytes(64, 4000) - plain.memory_bytes(64, 4000)
    rest = shape.weight_bytes("fp8") - shape.expert_bytes("fp8")
    assert float(held) == pytest.approx(7 / 8 * (rest - 64 * 4000 * shape.kv_bytes_per_token("bfloat16")), rel=1e-9)
