"""Steps of an engine by the chunks that its clients saw: how long each took, and over what.

All sequences that run leave a chunk in each step, so that chunks of all clients, sorted by time, fall into steps: a new
one begins where a sequence comes again, or after a pause. What a step was over follows: sequences that leave a further
chunk decode, and prompts whose first chunk comes were read in it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acceptance.servers.answer import Answer
from simulator.costs.step import Floats

# Of the median of a block's gaps: chunks this close behind others are of the same step.
LEAST_STEP = 0.25
Ints = NDArray[np.int64]


class Steps(NamedTuple):
    """Steps of a block, behind one another; those before which the engine may have waited are left out.

    decoding: sequences that decode; context: tokens that the KV cache holds of each, on average. prompts: that are read
    whole; prompt_tokens: of all of them.
    """

    seconds: Floats
    decoding: Floats
    context: Floats
    prompts: Floats
    prompt_tokens: Floats

    def select(self, kept: NDArray[np.bool_]) -> "Steps":
        """Return some."""
        return Steps(*(column[kept] for column in self))


def steps_of(answers: Sequence[Answer], warm: int = 0) -> Steps:
    """Return the steps that answers tell; those that failed, or whose prompt nobody counted, tell none.

    warm: of the answers, the first, which all come at once; the steps that read their prompts are left out.
    """
    told = [(i < warm, a) for i, a in enumerate(answers) if a.first_s is not None and not a.error and a.prompt_tokens]
    gaps = [gap for _, a in told for gap in a.gaps_s]
    if not gaps:
        return Steps(*(np.empty(0) for _ in Steps._fields))
    times = np.concatenate([np.cumsum([a.first_s, *a.gaps_s]) for _, a in told])
    chunks = np.array([a.chunks for _, a in told])
    of = np.repeat(np.arange(len(told)), chunks)
    order, number = np.argsort(times, kind="stable"), np.zeros(len(times), np.int64)
    ends, number[order] = step_ends(times[order], of[order], LEAST_STEP * float(np.median(gaps)))
    steps = over([a for _, a in told], of, number, np.append(0.0, np.diff(ends)))
    starts = np.cumsum(chunks) - chunks
    first, last = number[starts], number[starts + chunks - 1]
    behind = max((int(at) for at, (is_warm, _) in zip(first, told, strict=True) if is_warm), default=0)
    begun, over_by = (np.cumsum(np.bincount(at, minlength=len(ends) + 2)) for at in (first + 1, last + 1))
    # Where nobody goes on the engine may have waited for a request.
    return steps.select((begun > over_by)[: len(ends)] & (np.arange(len(ends)) > behind))


def over(told: Sequence[Answer], of: Ints, number: Ints, seconds: Floats) -> Steps:
    """Return what steps were over; of, number: whose each chunk is, and of which step."""
    prompt, output = (np.array([getattr(a, n) for a in told], np.float64) for n in ("prompt_tokens", "tokens"))
    chunks, count = np.bincount(of), len(seconds)
    places = np.arange(len(of)) - (np.cumsum(chunks) - chunks)[of]
    # What was written before a chunk lies evenly behind the first.
    held = prompt[of] + output[of] * places / chunks[of]
    later, first = number[places > 0], number[places == 0]
    decoding, prompts = (np.bincount(at, minlength=count).astype(np.float64) for at in (later, first))
    context = np.bincount(later, held[places > 0], count) / np.maximum(decoding, 1)
    read = np.bincount(first, prompt, count).astype(np.float64)
    return Steps(seconds, decoding, np.asarray(context, np.float64), prompts, read)


def step_ends(times: Floats, of: Ints, pause_s: float) -> tuple[Floats, Ints]:
    """Return when each step left its first chunk, and the number of each chunk's step; chunks in the order of time."""
    numbers, seen, at = np.zeros(len(times), np.int64), np.full(int(of.max()) + 1, -1), 0
    for place, one in enumerate(of.tolist()):
        at += bool(place) and (seen[one] == at or times[place] - times[place - 1] > pause_s)
        numbers[place] = seen[one] = at
    ends = times[np.unique(numbers, return_index=True)[1]]
    begins = np.append(True, np.diff(ends) > pause_s)
    return ends[begins], (np.cumsum(begins) - 1)[numbers]
