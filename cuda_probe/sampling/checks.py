"""What the caller may give: arrays of numbers, shapes that go together, numbers in their range."""

import math
import operator
from collections.abc import Mapping
from typing import Any

from simulator.ground.artefacts import UserError

from .libraries import dtype_name

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e30
LEAST_SCALE, MOST_SCALE = 1e-3, 1e30
OF_INTEGERS, OF_NUMBERS = ("int", "uint"), ("float", "bfloat", "int", "uint")
COUNTS = ("draft_ids", "lengths", "accepted")


def check_arrays(given: Mapping[str, Any]) -> None:
    """Refuse what is no array of numbers, and counts and ids that are not whole; `lengths` may be None."""
    for name, array in given.items():
        if array is None and name == "lengths":
            continue
        if not (hasattr(array, "__dlpack_device__") and hasattr(array, "shape")):
            raise UserError(f"{name}: {type(array).__name__}, expected a NumPy, torch or CuPy array")
        dtype, is_count = dtype_name(array), name in COUNTS
        if not dtype.startswith(OF_INTEGERS if is_count else OF_NUMBERS):
            raise UserError(f"{name}: {dtype}, expected {'integers' if is_count else 'real numbers'}")


def check_drafts(given: Mapping[str, Any], rows_after: tuple[int, ...]) -> None:
    """Refuse logits, drafts and lengths whose shapes disagree; the target has so many rows after the drafts."""
    logits, ids = given["target_logits"], given["draft_ids"]
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
    if given["lengths"] is not None:
        check_shape("lengths", given["lengths"], (batch,))
    if "draft_logits" in given:
        check_shape("draft_logits", given["draft_logits"], (batch, drafts, vocabulary))


def check_caches(given: Mapping[str, Any]) -> None:
    """Refuse a cache and fresh positions that do not go together, and a cache that cannot be written."""
    cache, fresh = given["cache"], given["fresh"]
    if len(cache.shape) != 4 or len(fresh.shape) != 4:
        raise UserError(f"cache, fresh: {len(cache.shape)} and {len(fresh.shape)} dimensions, expected 4 each")
    check_shape("fresh", fresh, (*cache.shape[:2], fresh.shape[2], cache.shape[3]))
    for name in ("lengths", "accepted"):
        check_shape(name, given[name], tuple(cache.shape[:1]))
    if dtype_name(cache) != dtype_name(fresh):
        raise UserError(f"fresh: {dtype_name(fresh)}, expected {dtype_name(cache)} as in cache")
    if not getattr(getattr(cache, "flags", None), "writeable", True):
        raise UserError("cache: read-only, expected an array that can be written")


def check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if tuple(array.shape) != tuple(expected):
        raise UserError(f"{name}: shape {tuple(array.shape)}, expected {tuple(expected)}")


def checked_temperature(value: Any) -> float:
    """Return a temperature; refuses one out of its range."""
    return real("temperature", value, LEAST_TEMPERATURE, MOST_TEMPERATURE, " (0: verify_prefix)")


def checked_scale(value: Any) -> float:
    """Return a scale of the sigmoid; refuses one out of its range."""
    return real("scale", value, LEAST_SCALE, MOST_SCALE)


def real(name: str, value: Any, least: float, most: float, hint: str = "") -> float:
    """Return a number as a float; refuses one out of bounds."""
    try:
        number = float(value) if hasattr(value, "__float__") else math.nan
    except (TypeError, ValueError, OverflowError):  # an array of several
        number = math.nan
    if not least <= number <= most:
        raise UserError(f"{name}: {value!r}, expected {least:g} to {most:g}{hint}")
    return number


def whole(name: str, value: Any, bits: int) -> int:
    """Return a whole number; refuses one of more bits."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**bits:
        raise UserError(f"{name}: {value!r}, expected a whole number from 0 to 2^{bits} - 1")
    return number


def checked_step(step: Any) -> Any:
    """Return the number of a round or the array of no dimension that holds it; refuses anything else."""
    if not hasattr(step, "__dlpack__"):
        return whole("step", step, 32)
    if step.shape != () or not dtype_name(step).startswith(OF_INTEGERS):
        raise UserError(
            f"step: {dtype_name(step)} of shape {tuple(step.shape)}, expected an integer or an array of just one"
        )
    return step
