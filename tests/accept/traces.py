"""Traces as tests think of them: what each token of each output is accepted with, and whatever else they need."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from acceptance.trace.trace import ARRAYS, PromptInfo, Trace


def same_trace(a: Trace, b: Trace) -> bool:
    return a.prompts == b.prompts and all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in ARRAYS)


def make_trace(
    outputs: Sequence[ArrayLike], *, prompts: Sequence[int] = (), categories: Sequence[str] = (), **given: ArrayLike
) -> Trace:
    """Return a trace of outputs, each a prompt's own or that of `prompts[i]`, turn after turn.

    Args:
        outputs: a[t] of each token of a sampled draft; of a greedy one where it is above a half.
        prompts: Whose outputs they are, in ascending order.
        categories: Of each prompt.
        **given: Arrays of a trace, [positions]; what is not given is 0, or unknown where version 2 has none.
    """
    lengths = [len(np.atleast_1d(o)) for o in outputs]
    owners = list(prompts) or list(range(len(outputs)))
    accept = np.concatenate([np.asarray(o, np.float32) for o in outputs]) if outputs else np.zeros(0, np.float32)
    first = {owner: i for i, owner in reversed(list(enumerate(owners)))}
    turns = [i - first[owner] for i, owner in enumerate(owners)]
    names = {"token", "rank_p", "rank_q", "context_length"}
    floats = {"log_p", "max_q", "entropy_p", "entropy_q", "overlap", "p_argmax_q"}
    arrays = {name: np.zeros(len(accept), np.int32) for name in names}
    arrays |= {name: np.zeros(len(accept), np.float32) for name in floats}
    arrays |= {name: np.asarray(values, ARRAYS[name].dtype) for name, values in given.items()}
    positions = [np.arange(n) for n in lengths]
    return Trace(
        accept_sampled=accept,
        accept_greedy=accept > 0.5,
        prompt=np.repeat(owners, lengths).astype(np.int32),
        turn=np.repeat(turns, lengths).astype(np.int32),
        position=np.concatenate([*positions, []]).astype(np.int32),
        prompts=tuple(
            PromptInfo(source=f"line {i}", category=categories[i] if categories else "")
            for i in range(max(owners, default=-1) + 1)
        ),
        **arrays,
    )
