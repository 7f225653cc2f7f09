"""Policies in a server that goes on, step for step: each meets the same requests and the same luck."""

from functools import lru_cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.fields import Field
from simulator.ground.policies import Verification, sglang
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.request_laws import constant_laws, laws_of, tree_laws
from simulator.serving.draw_tables import Laws, acceptance_of, mean_accepted, mean_of_rounds
from simulator.serving.policies import Policy, nth_largest, sort_falling
from simulator.serving.policy_tables import adaptive_steps, adaptive_verification, fixed, goodput, off_above
from simulator.serving.run import Outcome, run
from simulator.serving.settings import settings_of
from simulator.workloads.requests import requests_of

from .test_step_costs import LONGEST, costs_of, pair_of

SEATS, REQUESTS = 12, 120
HALF, NEVER = laws_of(IidAcceptance(0.7), LONGEST, sharp=0.9), constant_laws([0.0], LONGEST)


@lru_cache(maxsize=1)
def workload():  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    kinds = np.arange(REQUESTS) % 2
    return requests_of(rng.integers(20, 200, REQUESTS), rng.integers(20, 60, REQUESTS), category=kinds)


def served(
    policy: Policy, k: int = LONGEST, *, model: str = "graphs", kinds: tuple[Laws, Laws] | None = None
) -> Outcome:
    """Half of the requests accept hardly anything, where nothing else is said."""
    settings = settings_of(
        k=k, max_num_batched_tokens=1000, max_num_seqs=SEATS, max_model_len=512, num_blocks=600, async_scheduling=False
    )
    acceptance = acceptance_of(kinds or [HALF, constant_laws([0.1], LONGEST)])
    return run(settings, workload(), acceptance, costs_of(model), policy, clients=SEATS)


def test_a_policy_that_never_drafts_is_no_speculation() -> None:
    plain, off = served(fixed(-1), k=0), served(off_above(fixed(4), sequences=0))
    for name in ("sent_s", "begun_s", "first_s", "end_s", "gaps"):
        assert np.array_equal(getattr(plain, name), getattr(off, name))
    assert (plain.busy_s, plain.n_steps, off.drafted.sum()) == (off.busy_s, off.n_steps, 0)
    # The negative control: a drafter that keeps up takes time, though it drafts nothing.
    assert served(fixed(0)).busy_s > plain.busy_s


def test_what_is_not_worth_its_time_is_drafted_and_not_verified() -> None:
    always = served(fixed(LONGEST))
    adaptive = served(adaptive_verification(Verification(k=LONGEST, warm_up_refits=0), costs_of("graphs"), SEATS))
    assert adaptive.drafted[1::2].mean() / adaptive.rounds[1::2].mean() < 0.9 * LONGEST
    share, all_of_it = (run.drafted[1::2].sum() / run.drafted[::2].sum() for run in (adaptive, always))
    assert share < 0.8 * all_of_it
    assert adaptive.accepted.sum() / adaptive.drafted.sum() > always.accepted.sum() / always.drafted.sum()
    tokens = {run.end_s.shape[0]: (run.rounds + run.accepted).sum() for run in (adaptive, always)}
    assert all(count >= (np.asarray(workload().output) - 1).sum() for count in tokens.values())
    # Until its estimate is ready all drafts are verified, as without it.
    late = served(adaptive_verification(Verification(k=LONGEST, warm_up_refits=999), costs_of("graphs"), SEATS))
    assert np.array_equal(late.end_s, always.end_s)


def test_an_average_of_nothing_accepted_shortens_drafts() -> None:
    by = sglang(Field({"k": 4, "candidate_steps": [1, 2, 4], "warmup_batches": 2, "update_interval": 2}))
    hopeless, lucky = served(adaptive_steps(by), kinds=(NEVER, NEVER)), served(adaptive_steps(by))
    assert hopeless.drafted.sum() / hopeless.rounds.sum() < 1.3
    assert lucky.drafted.sum() / lucky.rounds.sum() > 1.3


def test_trees_have_all_their_nodes_verified() -> None:
    laws = tree_laws(IidAcceptance(0.7), pair_of("tree").plan(np.arange(4)).width)
    tree = served(fixed(3), 11, model="tree", kinds=(laws, laws))
    assert tree.drafted.sum() == 11 * tree.rounds.sum()
    assert 1.2 < tree.accepted.sum() / tree.rounds.sum() < 1.6  # .7 + .49 + .343


def test_our_own_policy_is_not_behind_the_best_fixed_length() -> None:
    for model in ("graphs", "experts"):
        kinds = [mean_accepted(kind, LONGEST) for kind in (HALF, constant_laws([0.1], LONGEST))]
        costs, accepted = costs_of(model), mean_of_rounds(np.array(kinds), [1, 1])
        each = {k: served(fixed(k), model=model).busy_s for k in range(-1, LONGEST + 1)}
        own = served(goodput(costs, accepted, sequences=SEATS, contexts=(100.0,), rests=True, cuts=True), model=model)
        assert own.busy_s < 1.02 * min(each.values()), each
        # The negative control: fixed lengths are far apart.
        assert max(each.values()) > 1.1 * own.busy_s


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=70), st.data())
def test_scores_are_sorted_and_the_nth_is_found(values: list[float], data: st.DataObject) -> None:
    nth = data.draw(st.integers(0, len(values) - 1))
    scores, falling = np.array([values, [2.0] * len(values)]), sorted(values, reverse=True)
    assert nth_largest(scores.copy(), len(values), nth) == falling[nth]
    sort_falling(scores, len(values))
    assert scores[0].tolist() == falling
