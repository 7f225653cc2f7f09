"""Speculative sampling from logits, on NumPy arrays, torch tensors or CuPy arrays, without copying them.

The fastest backend that suits where the tensors live runs it: CUDA kernels, plain torch, NumPy. All follow one law and
draw the same numbers, so from one seed they decide alike up to the rounding of their arithmetic.
"""

from typing import Any

from .checks import check_arrays, check_caches, check_drafts, checked_scale, checked_step, checked_temperature, whole
from .registry import OF_A_ROUND, pick
from .results import Sampled, Verified

__all__ = ["Sampled", "Verified", "kv_append", "sigmoid_sample", "speculative_sample", "verify_prefix"]

DEFAULT_SIGMOID_SCALE = 1e4  # of the published kernels; `sigmoid_distance` tells what it costs


def speculative_sample(
    target_logits: Any,
    draft_logits: Any,
    draft_ids: Any,
    *,
    seed: int,
    step: int | Any = 0,
    temperature: float = 1.0,
    lengths: Any = None,
    backend: str | None = None,
) -> Sampled:
    """Accept drafts and draw the next token so that the tokens are distributed as the target's own (model §1).

    Args:
        target_logits: [B, K + 1, vocabulary]; row j scores draft j, the last one the token after them. Finite or -inf.
        draft_logits: [B, K, vocabulary]: what the drafts were drawn from, at this temperature.
        draft_ids: [B, K]. An id outside the vocabulary is rejected.
        seed: 64 bits. A decision depends on (seed, step, sequence, position) alone.
        step: Number of the round, 32 bits; another for each round of a generation, or rounds share their numbers. An
            array of no dimension on the logits' device is read when the kernels run: a captured CUDA graph then draws
            new numbers at each replay, if what is captured also counts on (`step += 1`).
        temperature: Of both models.
        lengths: How many tokens each sequence drafted, [B]; all K if not given. Clipped to 0..K.
        backend: `cuda`, `torch` or `numpy`; the best that takes these arrays if not given.

    Raises:
        UserError: Shapes disagree, ids are not whole, a number is out of range, or the backend cannot run.
    """
    given = _drafts(target_logits, draft_logits, draft_ids, lengths)
    numbers = checked_temperature(temperature), whole("seed", seed, 64), checked_step(step)
    result: Sampled = pick("speculative_sample", given, backend).function(*given.values(), *numbers)
    return result


def sigmoid_sample(
    target_logits: Any,
    draft_logits: Any,
    draft_ids: Any,
    *,
    seed: int,
    step: int | Any = 0,
    temperature: float = 1.0,
    scale: float = DEFAULT_SIGMOID_SCALE,
    lengths: Any = None,
    backend: str | None = None,
) -> Sampled:
    """Do as `speculative_sample`, with sigmoid((x / T + scale) / (2 scale)) for both softmaxes: not the target's law.

    Args:
        scale: Logits from -scale to scale are told apart, worse the larger it is. All others as there.

    Raises:
        UserError: As for `speculative_sample`.
    """
    given = _drafts(target_logits, draft_logits, draft_ids, lengths)
    numbers = checked_temperature(temperature), checked_scale(scale), whole("seed", seed, 64), checked_step(step)
    result: Sampled = pick("sigmoid_sample", given, backend).function(*given.values(), *numbers)
    return result


def verify_prefix(target_logits: Any, draft_ids: Any, *, lengths: Any = None, backend: str | None = None) -> Verified:
    """Count, for each sequence, the leading drafts that equal the target's argmax; ties go to the lower token.

    Args:
        target_logits: [B, K, vocabulary], or [B, K + 1, vocabulary] to have the next token among the ids.
        draft_ids: [B, K].
        lengths: How many tokens each sequence drafted, [B]; all K if not given. Clipped to 0..K.
        backend: As for `speculative_sample`.

    Raises:
        UserError: Shapes disagree, or the backend cannot run.
    """
    given = {"target_logits": target_logits, "draft_ids": draft_ids, "lengths": lengths}
    check_arrays(given)
    check_drafts(given, rows_after=(0, 1))
    result: Verified = pick("verify_prefix", given, backend).function(*given.values())
    return result


def kv_append(cache: Any, fresh: Any, lengths: Any, accepted: Any, *, backend: str | None = None) -> Any:
    """Write the first `accepted` positions of each sequence into the cache behind its own length, in place.

    Positions in use stay as they are, whatever is accepted; nothing is written for a sequence that accepts none.

    Args:
        cache: [B, heads, capacity, d].
        fresh: [B, heads, K, d], of the same type.
        lengths: Positions in use, [B].
        accepted: How many of the K to keep, [B]. What does not fit in the capacity is left out.
        backend: As for `speculative_sample`.

    Returns:
        The new lengths, [B].

    Raises:
        UserError: Shapes or types disagree, or the backend cannot run.
    """
    given = {"cache": cache, "fresh": fresh, "lengths": lengths, "accepted": accepted}
    check_arrays(given)
    check_caches(given)
    return pick("kv_append", given, backend).function(*given.values())


def _drafts(target_logits: Any, draft_logits: Any, draft_ids: Any, lengths: Any) -> dict[str, Any]:
    """Return the arrays of a round by name, once they have been checked."""
    given = dict(zip(OF_A_ROUND, (target_logits, draft_logits, draft_ids, lengths), strict=True))
    check_arrays(given)
    check_drafts(given, rows_after=(1,))
    return given
