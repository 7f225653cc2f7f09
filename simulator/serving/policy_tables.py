"""Policies that a simulation runs, from engines' settings, and our own: what most tokens a second are expected of."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.policies import AdaptiveSteps, ByBatch, Verification, graph_sizes, staircase

from .draws import Ints
from .policies import ALL, AVERAGE, SLOT, SURE, TABLE, WORTH, WORTH_A_STEP_OLD, Policy
from .step_costs import StepCosts, add, no_totals, seconds

# The context at which vLLM times the passes by which it weighs drafts.
TIMED_CONTEXT = 8192
NEVER = 2**62
# Of batch sizes that are priced, the next over the one before; those between take the smaller one's draft length.
APART = 1.1


def by_batch(by: ByBatch, batches: int) -> Policy:
    """Return a schedule by the sequences of a step; up to so many are looked up, more are as those."""
    lengths = np.array([by.at(max(n, 1)) for n in range(batches + 1)], np.int64)
    off = 0 if by.keeps_up else -1
    return of_table(np.where(lengths > 0, lengths, off)[None], (), off)


def fixed(k: int) -> Policy:
    """Return one draft length for all steps; -1: nothing drafts."""
    return of_table(np.full((1, 1), k), (), -1)


def by_context(edges: Sequence[float], each: Sequence[ByBatch], batches: int) -> Policy:
    """Return a schedule by batch and mean context: each[i] from edges[i - 1] tokens on."""
    rows = [by_batch(by, batches).ints[: batches + 1] for by in each]
    return of_table(np.stack(rows), edges, 0 if each[-1].keeps_up else -1)


def of_table(lengths: Ints, edges: Sequence[float], off: int, waiting: Ints | None = None) -> Policy:
    """Return a policy by table, [contexts, sequences from 0]; waiting: where requests wait, if it is another."""
    both = np.stack((lengths, lengths if waiting is None else waiting)).astype(np.int64)
    return Policy(
        ints=both.ravel(),
        floats=np.array([*edges, 0.0]),
        kind=TABLE,
        longest=max(int(both.max()), 0),
        contexts=lengths.shape[0],
        batches=lengths.shape[1] - 1,
        slots=0,
        candidates=0,
        at_slots=0,
        at_draft=0,
        at_verify=0,
        tokens=0,
        most_waiting=NEVER,
        off=off,
        verifies=ALL,
        threshold=0.0,
        warm_up=0,
    )


def off_above(policy: Policy, *, sequences: int | None = None, waiting: int | None = None) -> Policy:
    """Return a policy that drafts nothing in steps of more sequences, or while more requests wait."""
    if waiting is not None:
        policy = policy._replace(most_waiting=waiting)
    if sequences is None:
        return policy
    assert policy.kind == TABLE
    lengths = policy.ints.reshape(-1, policy.batches + 1)
    # The last size stands for all beyond it.
    wide = np.pad(lengths, ((0, 0), (0, max(sequences + 1 - policy.batches, 0))), mode="edge")
    wide[:, sequences + 1 :] = policy.off
    return policy._replace(ints=wide.ravel(), batches=wide.shape[1] - 1)


def adaptive_steps(by: AdaptiveSteps) -> Policy:
    """Return SGLang's adaptive steps: an average of what is accepted moves along candidates."""
    width = max(len(candidates.candidate_steps) for _, candidates in by.slots)
    rows = np.zeros((len(by.slots), SLOT + width))
    for row, (size, of) in zip(rows, by.slots, strict=True):
        steps = of.candidate_steps
        speeds = of.ema_alpha, of.update_interval, of.warmup_batches, of.up_hysteresis, of.down_hysteresis
        row[: SLOT + len(steps)] = size, by.initial, *speeds, of.ceiling_coeff, len(steps), *steps
    policy = of_table(np.zeros((1, 1), np.int64), (), 0)
    floats = np.append(0.0, rows)
    policy = policy._replace(kind=AVERAGE, floats=floats, longest=by.longest)
    return policy._replace(slots=len(rows), candidates=width, at_slots=1)


def adaptive_verification(by: Verification, costs: StepCosts, sequences: int) -> Policy:
    """Return vLLM's adaptive verification: drafts are sized by confidences a step old, and allotted by those of now."""
    drafts, verify = timed(costs, by.k, sequences, by.captured)
    return weighed(fixed(by.k), drafts, verify, WORTH_A_STEP_OLD)._replace(warm_up=by.warm_up)


def weighed(policy: Policy, drafts: Floats, verify: Floats, how: int) -> Policy:
    """Return a policy that verifies what is worth its time, by seconds of drafts and of verification."""
    begin = len(policy.floats)
    ints = np.repeat(policy.ints, len(drafts)) if policy.batches == 0 else policy.ints
    floats = np.concatenate((policy.floats, drafts, verify))
    policy = policy._replace(ints=ints, floats=floats, batches=len(drafts) - 1, verifies=how)
    return policy._replace(at_draft=begin, at_verify=begin + len(drafts), tokens=len(verify) - 1)


def confident(k: int, threshold: float) -> Policy:
    """Return drafts of k tokens, verified to before the first whose confidence is below a threshold."""
    return fixed(k)._replace(verifies=SURE, threshold=threshold)


def timed(costs: StepCosts, k: int, sequences: int, captured: int) -> tuple[Floats, Floats]:
    """Return the seconds of drafts by sequences, and of verification by tokens, as an engine would time them."""
    most = sequences * (k + 1)
    sizes = np.array(graph_sizes(min(captured, max(most, 1)), most))
    running = np.minimum(-(-sizes // (k + 1)), sequences)
    verify_s = [
        step_s(costs, n, t / n, TIMED_CONTEXT, -1) for n, t in zip(running, np.maximum(sizes, running), strict=True)
    ]
    drafts_s = draft_times(costs, k, sequences, TIMED_CONTEXT)
    return drafts_s, staircase(sizes.tolist(), np.array(verify_s), max(most, costs.tokens), captured)


def draft_times(costs: StepCosts, k: int, sequences: int, context: float) -> Floats:
    """Return the seconds of drafts, and of a round besides, by sequences."""
    both = [[step_s(costs, n, 1, context, of) for of in (k, -1)] for n in range(sequences + 1)]
    return np.asarray(np.array(both)[:, 0] - np.array(both)[:, 1])


def step_s(costs: StepCosts, batch: float, width: float, context: float, k: int, prompt: float = 0.0) -> float:
    """Return the seconds of a step of sequences that are alike, beside so many tokens of a prompt."""
    totals: Floats = no_totals(costs)
    add(costs, totals, float(width), float(context), 0, False, True)
    totals *= batch
    if prompt > 0:
        add(costs, totals, float(prompt), 0.0, 0, True, True)
    return float(seconds(costs, totals, k))


def goodput(
    costs: StepCosts,
    accepted: Floats,
    *,
    sequences: int,
    contexts: Sequence[float],
    offered: Floats | None = None,
    prompt_tokens: float = 0.0,
    rests: bool = False,
    cuts: bool = False,
) -> Policy:
    """Return the policy of the most tokens a second: K by batch, context and queue, and which drafts are verified.

    While none waits, a step of decoding decides; while some do, one that reads as much of prompts as its output makes
    room for in the long run.

    Args:
        costs: Of steps.
        accepted: Mean accepted drafts of a round, by K from 0 on: of several kinds see `draw_tables.mean_of_rounds`.
        sequences: At once at most.
        contexts: Mean tokens that are priced, rising; the ranges between them meet halfway.
        offered: Mean drafts, by K; None: K.
        prompt_tokens: Of prompts, for each token of an answer.
        rests: Whether a drafter does nothing where nothing is drafted.
        cuts: Whether of each sequence only drafts that are worth their time are verified.
    """
    sizes = [1]
    while sizes[-1] < sequences:
        sizes.append(min(max(sizes[-1] + 1, int(sizes[-1] * APART)), sequences))
    k_of = np.arange(-1 if rests else 0, len(accepted))
    taken, drafts = (
        np.where(k_of > 0, np.asarray(v)[k_of], 0.0) for v in (accepted, k_of if offered is None else offered)
    )
    best = np.zeros((2, len(contexts), len(sizes)), np.int64)
    for queue, share in enumerate((0.0, prompt_tokens)):
        for c, context in enumerate(contexts):
            for at, n in enumerate(sizes):
                gains = [
                    n * (1 + a) / step_s(costs, n, 1 + d, context, k, n * (1 + a) * share)
                    for k, a, d in zip(k_of.tolist(), taken, drafts, strict=True)
                ]
                best[queue, c, at] = k_of[int(np.argmax(gains))]
    spread = best[..., np.searchsorted(sizes, np.maximum(np.arange(sequences + 1), 1), side="right") - 1]
    edges = [(a + b) / 2 for a, b in pairwise(contexts)]
    policy = of_table(spread[0], edges, -1 if rests else 0, spread[1])
    if not cuts:
        return policy
    # Exactly, by tokens: sequences of the longest drafts, at the context that is priced in the middle.
    context, width = contexts[len(contexts) // 2], policy.longest + 1
    running = [min(-(-t // width), sequences) for t in range(1, costs.tokens + 1)]
    verify_s = [step_s(costs, n, t / n, context, -1) for t, n in enumerate(running, 1)]
    return weighed(policy, draft_times(costs, policy.longest, sequences, context), np.array([0.0, *verify_s]), WORTH)
