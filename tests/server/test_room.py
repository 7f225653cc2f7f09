"""Tables are as large as a run can need: plans are those of all the memory, whose cache has what was read before."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.answers.load_curve import as_large
from simulator.serving.pass_tables import linear_costs
from simulator.serving.policy_tables import fixed
from simulator.serving.run import Outcome, run
from simulator.serving.settings import SGLANG, TRTLLM, VLLM, Settings, settings_of
from simulator.workloads.requests import Requests, requests_of
from tests.server.test_conservation import law

COSTS = linear_costs(0.01, 1e-5, tokens=1 << 16)
ROOMY = 3000


def served(s: Settings, requests: Requests) -> Outcome:
    """Serve requests, and keep every plan."""
    return run(s, requests, law(max(s.k, 1), 0.6), COSTS, fixed(s.k or -1), seed=1, is_logged=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    given=st.fixed_dictionaries(
        {"scheduler": st.sampled_from([VLLM, SGLANG, TRTLLM]), "k": st.integers(0, 6)}
        | {"block_size": st.sampled_from([1, 4, 16]), "max_num_seqs": st.integers(1, 8)}
        | {"async_scheduling": st.booleans(), "max_num_batched_tokens": st.integers(16, 99)}
    ),
)
def test_plans_are_those_of_all_the_memory(seed: int, given: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 15))
    prompt, output = rng.integers(1, 90, size), rng.integers(1, 30, size)
    after = np.where(rng.random(size) < 0.5, np.arange(size) - 1, -1)
    requests = requests_of(
        *(prompt, output),
        arrival_s=np.cumsum(rng.random(size) / 20),
        shared=np.minimum(prompt, rng.choice([0, 40], size)),
        units=[7],
        after=after,
        stream=np.cumsum(after < 0),
        think_s=rng.random(size) / 20,
    )
    lookahead = given["k"] if given["scheduler"] == VLLM else 0
    whole = settings_of(num_blocks=ROOMY, max_model_len=1500, lookahead=lookahead, **given)
    small = as_large(whole, requests)
    assert small.num_blocks < ROOMY
    all_of_it, part = served(whole, requests), served(small, requests)
    assert np.array_equal(all_of_it.log.entries, part.log.entries)
    for name in ("begun_s", "first_s", "end_s", "cached", "block_s", "most_blocks", "preemptions"):
        assert np.array_equal(getattr(all_of_it, name), getattr(part, name), equal_nan=True), name


def test_turns_find_what_was_read_long_ago_in_memory_that_seats_do_not_fill() -> None:
    """Two seats of 128 tokens, ten sessions: each second turn finds its first, with so little KV as seats fill none."""
    prompt = np.repeat([64, 96], 10)
    requests = requests_of(
        *(prompt, np.full(20, 4)),
        arrival_s=np.zeros(20),
        after=np.concatenate([np.full(10, -1), np.arange(10)]),
        stream=np.tile(np.arange(10), 2),
        think_s=np.full(20, 60.0),
    )
    s = settings_of(num_blocks=10_000, max_model_len=128, max_num_seqs=2)
    assert served(as_large(s, requests), requests).cached[10:].tolist() == [64] * 10
    assert not served(s._replace(num_blocks=2 * 128 // 16), requests).cached.any()
