"""From a trace to numbers: the exact law of every draft length by one forward recursion (model §3). Runs no model."""

import numpy as np
from numpy.typing import NDArray

from simulator.artefacts import UserError
from simulator.histogram import AcceptanceHistogram

from .trace import Trace


def expected_counts(
    accept: NDArray[np.float64], lengths: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], float]:
    """Return the expected number of rounds that accept 0..k drafts, counted along the decode walk, and of those cut.

    With f[s] the probability that a round starts at s (f[0] = 1), a round at s accepts the run of acceptances from s,
    cut at k, and the next starts after its A + 1 tokens. A round is counted when all k positions it drafts lie
    within the output, whatever it accepts; so the output's end does not favour short runs. The other rounds are
    the cut ones: where they are many, the histogram speaks of the outputs' beginnings.

    Args:
        accept: a[t], shape [prompts, longest], any value past a prompt's length.
        lengths: Output length of each prompt, shape [prompts].
        k: Draft length, >= 1.

    Returns:
        Counts of shape [k + 1], and the expected number of rounds that the output's end cut.
    """
    prompts = len(lengths)
    starts = np.zeros((prompts, accept.shape[1] + k + 2))
    starts[:, 0] = 1
    padded = np.concatenate((accept, np.zeros((prompts, k))), axis=1)
    counts, cut = np.zeros(k + 1), 0.0
    for s in range(int(lengths.max(initial=0))):
        survival = np.cumprod(padded[:, s : s + k], axis=1)
        survival = np.concatenate((np.ones((prompts, 1)), survival, np.zeros((prompts, 1))), axis=1)
        flow = starts[:, s, None] * (survival[:, :-1] - survival[:, 1:])
        starts[:, s + 1 : s + k + 2] += flow
        counts += flow[lengths >= s + k].sum(0)
        cut += starts[(lengths > s) & (lengths < s + k), s].sum()
    return counts, float(cut)


def acceptance_histogram(trace: Trace, k: int) -> AcceptanceHistogram:
    """Return the exact expected histogram of draft length k.

    Raises:
        UserError: No output of the trace is as long as k.
    """
    accept, lengths = trace.by_prompt()
    longest = int(lengths.max(initial=0))
    if longest < k:
        raise UserError(f"--k: {k} is above the longest output, {longest} tokens; expected 1 to {longest}")
    counts, _ = expected_counts(accept, lengths, k)
    # Certain acceptances (greedy) make whole counts; sums of products may miss them by rounding.
    whole = counts.round()
    return AcceptanceHistogram(tuple(np.where(np.isclose(counts, whole, rtol=0, atol=1e-9), whole, counts).tolist()))


def metrics(trace: Trace, histogram: AcceptanceHistogram) -> dict[str, float | list[float]]:
    """Return the metrics of model §4 for one draft length, by the names of our records.

    `alpha` is the mean of a[t] over the target's own tokens: at temperature 0 the share of positions at which the
    draft's choice is the target's; above it, an unbiased estimate of the mean of sum min(p, q).
    `rounds_cut` are the rounds that an output's end cut and that are not in the histogram.
    """
    return {
        "rounds_cut": expected_counts(*trace.by_prompt(), histogram.k)[1],
        "alpha": float(trace.accept.mean()),
        "alpha_iid": histogram.alpha_iid,
        "tokens_per_round": histogram.tokens_per_round,
        "mean_accepted": histogram.tokens_per_round - 1,
        "draft_acceptance_rate": histogram.draft_acceptance_rate,
        "survival": histogram.survival.tolist(),
        "conditional": histogram.conditional.tolist(),
    }
