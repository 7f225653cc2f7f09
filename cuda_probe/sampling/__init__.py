"""Speculative sampling from logits, on NumPy arrays, torch tensors or CuPy arrays, without copying them.

The fastest backend that suits where the tensors live runs it: CUDA kernels, plain torch, NumPy. All follow one law and
draw the same numbers, so from one seed they decide alike up to the rounding of their arithmetic.
"""

import math
from typing import Any

from simulator.artefacts import UserError

from .registry import pick
from .results import Sampled, Verified

__all__ = ["Sampled", "Verified", "kv_append", "sigmoid_sample", "speculative_sample", "verify_prefix"]

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e30
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
        backend: `cuda`, `torch` or `numpy`; the best that suits if not given.

    Raises:
        UserError: Shapes disagree, a number is out of range, or the backend cannot run.
    """
    _check_drafts(target_logits, draft_ids, lengths, rows_after=(1,))
    _check_shape("draft_logits", draft_logits, (*draft_ids.shape, target_logits.shape[2]))
    _check_numbers(temperature, seed, step)
    run = pick("speculative_sample", target_logits, backend).function
    return run(target_logits, draft_logits, draft_ids, lengths, temperature, seed, step)  # type: ignore[no-any-return]


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
    """Do the same with sigmoid((x / T + scale) / (2 scale)) in the place of both softmaxes: not the target's law.

    Args:
        target_logits: As for `speculative_sample`.
        draft_logits: As for `speculative_sample`.
        draft_ids: As for `speculative_sample`.
        seed: As for `speculative_sample`.
        step: As for `speculative_sample`.
        temperature: As for `speculative_sample`.
        scale: Logits from -scale to scale are told apart, worse the larger it is.
        lengths: As for `speculative_sample`.
        backend: As for `speculative_sample`.

    Raises:
        UserError: As for `speculative_sample`.
    """
    _check_drafts(target_logits, draft_ids, lengths, rows_after=(1,))
    _check_shape("draft_logits", draft_logits, (*draft_ids.shape, target_logits.shape[2]))
    _check_numbers(temperature, seed, step)
    if not 1e-3 <= scale <= 1e30:
        raise UserError(f"scale: {scale!r}, expected 0.001 to 1e30")
    run = pick("sigmoid_sample", target_logits, backend).function
    return run(target_logits, draft_logits, draft_ids, lengths, temperature, scale, seed, step)  # type: ignore[no-any-return]


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
    _check_drafts(target_logits, draft_ids, lengths, rows_after=(0, 1))
    run = pick("verify_prefix", target_logits, backend).function
    return run(target_logits, draft_ids, lengths)  # type: ignore[no-any-return]


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
    if len(cache.shape) != 4 or len(fresh.shape) != 4:
        raise UserError(f"cache, fresh: {len(cache.shape)} and {len(fresh.shape)} dimensions, expected 4 each")
    _check_shape("fresh", fresh, (*cache.shape[:2], fresh.shape[2], cache.shape[3]))
    for name, counts in (("lengths", lengths), ("accepted", accepted)):
        _check_shape(name, counts, tuple(cache.shape[:1]))
    if cache.dtype != fresh.dtype:
        raise UserError(f"fresh: {fresh.dtype}, expected {cache.dtype} as in cache")
    return pick("kv_append", cache, backend).function(cache, fresh, lengths, accepted)


def _check_drafts(logits: Any, ids: Any, lengths: Any, rows_after: tuple[int, ...]) -> None:
    if len(logits.shape) != 3 or len(ids.shape) != 2:
        raise UserError(
            f"target_logits, draft_ids: {len(logits.shape)} and {len(ids.shape)} dimensions, expected 3 and 2"
        )
    (batch, rows, vocabulary), (sequences, drafts) = logits.shape, ids.shape
    if vocabulary == 0 or batch != sequences or rows - drafts not in rows_after:
        allowed = " or ".join(str(drafts + n) for n in rows_after)
        raise UserError(
            f"target_logits: shape {tuple(logits.shape)} for {drafts} drafts of {sequences} sequences, "
            f"expected ({sequences}, {allowed}, vocabulary)"
        )
    if lengths is not None:
        _check_shape("lengths", lengths, (batch,))


def _check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    if tuple(array.shape) != tuple(expected):
        raise UserError(f"{name}: shape {tuple(array.shape)}, expected {tuple(expected)}")


def _check_numbers(temperature: float, seed: int, step: Any) -> None:
    if not (math.isfinite(temperature) and LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE):
        raise UserError(
            f"temperature: {temperature!r}, expected {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g} (0: verify_prefix)"
        )
    if getattr(step, "shape", ()) != () or "float" in str(getattr(step, "dtype", "")):
        raise UserError(f"step: {step.dtype} of shape {tuple(step.shape)}, expected an integer or an array of just one")
    in_array = hasattr(step, "__dlpack__")
    for name, value, bits in (("seed", seed, 64), ("step", 0 if in_array else step, 32)):
        if not 0 <= value < 2**bits:
            raise UserError(f"{name}: {value!r}, expected 0 to 2^{bits} - 1")
