"""Lists and ranges of numbers as a user types them: `4`, `0.05,0.1`, `1:8`, `0.5:0.95:0.05`."""

from decimal import Decimal, InvalidOperation

import numpy as np
from numpy.typing import NDArray

from .artefacts import UserError

MAX_VALUES = 20_000_000
# Of draft lengths and other counts of a policy.
MAX_DRAFT = 1_000_000


def parse_values(flag: str, text: str) -> NDArray[np.float64]:
    """Read a list of numbers and inclusive ranges: `4`, `0.05,0.1`, `1:8`, `0.5:0.95:0.05`, or a mix."""
    values: list[Decimal] = []
    for part in text.split(","):
        values.extend(parse_part(flag, part.strip()))
    floats = np.array([float(v) for v in values])
    if len(np.unique(floats)) < len(floats):
        raise UserError(f"{flag}: {text!r} names a value twice, expected each once")
    return np.sort(floats)


def parse_whole(flag: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Read a list of whole numbers, such as draft lengths; see `parse_values`."""
    values = parse_values(flag, text)
    for value in values:
        if not (float(value).is_integer() and least <= value <= most):
            raise UserError(f"{flag}: {value:g} is not allowed, expected whole numbers from {least} to {most}")
    return tuple(int(v) for v in values)


def parse_part(flag: str, part: str) -> list[Decimal]:
    """Read one number or one range, in decimal so that 0.5:0.95:0.05 hits 0.95."""
    try:
        numbers = [Decimal(n) for n in part.split(":")]
        if any(n.is_snan() or abs(n.adjusted()) > 400 for n in numbers if n):
            numbers = []
    except InvalidOperation:
        numbers = []
    if not 1 <= len(numbers) <= 3:
        raise UserError(f"{flag}: {part!r} is not a value, expected NUMBER, FROM:TO or FROM:TO:STEP, joined by commas")
    if len(numbers) == 1:
        return numbers
    if not all(n.is_finite() for n in numbers):
        raise UserError(f"{flag}: {part!r} is a range without end, expected finite numbers")
    first, last, *rest = numbers
    if not rest and not all(n == n.to_integral_value() for n in (first, last)):
        raise UserError(f"{flag}: {part!r} needs a step, expected FROM:TO:STEP such as {first}:{last}:0.05")
    step = rest[0] if rest else Decimal(1)
    if step <= 0 or last < first:
        raise UserError(f"{flag}: {part!r} holds no values, expected FROM <= TO and STEP > 0")
    if last - first >= step * MAX_VALUES:
        raise UserError(f"{flag}: {part!r} holds more values than the {MAX_VALUES:,} that are allowed at most")
    count = int((last - first) / step) + 1
    return [first + i * step for i in range(count)]


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_DRAFT:
        raise UserError(f"{name}: {value!r} is not allowed, expected a whole number from {least} to {MAX_DRAFT}")


def check_fraction(name: str, value: float) -> None:
    """Refuse what lies outside 0..1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value!r} is not allowed, expected a number from 0 to 1")
