"""Numbers, lists and ranges of them as a user types them: `4`, `64k`, `1e3`, `0.05,0.1`, `1:8`, `0.5:0.95:0.05`."""

import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from .artefacts import UserError

if TYPE_CHECKING:
    # NumPy is imported where lists are read: --help answers without it.
    from numpy.typing import NDArray

MAX_VALUES = 20_000_000
# Of draft lengths and other counts of a policy.
MAX_DRAFT = 1_000_000
# As in SI and IEC, where `k` may be large.
SCALES = {"k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
SCALED = re.compile(r"(.*[0-9.])\s*([kmg]i?)", re.IGNORECASE)
# Times, which are counted in milliseconds.
MILLISECONDS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "µs": Decimal("0.001")}
TIMED = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(s|ms|us|µs)", re.IGNORECASE)

# Of a device, by unit: no part of one is smaller, no rack of them larger.
CREDIBLE = {"B": (1e6, 1e15), "B/s": (1e6, 1e16), "FLOP/s": (1e6, 1e20), "W": (0.1, 1e6)}
QUANTITY = re.compile(
    r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgtp]?)(i?)(bytes|byte|b|flops|flop|ops|op|watts|watt|w)?(/s|ps)?\s*",
    re.IGNORECASE,
)


def quantity(option: str, text: str, unit: str, expected: str) -> float:
    """Read a size, rate or power with its unit, such as `8GiB`, `272GB/s`, `121TFLOP/s` or `115W`.

    Args:
        option: For messages.
        text: As typed.
        unit: "B", "B/s", "FLOP/s" or "W".
        expected: What to type, for messages.

    Raises:
        UserError: It is none, or in another unit; bits are no bytes.
    """
    found = QUANTITY.fullmatch(text)
    kind = (found[4] or "").lower().rstrip("s").replace("watt", "w").replace("byte", "b") if found else ""
    kinds = {"B": ("b",), "B/s": ("b",), "FLOP/s": ("flop", "op"), "W": ("w", "")}[unit]
    is_rate = bool(found and found[5])
    is_bits = bool(found and found[4] == "b" and is_rate and found[2].isupper())
    number = number_in(found[1]) if found else None
    if found is None or number is None or kind not in kinds or is_bits or (is_rate and not unit.endswith("/s")):
        raise UserError(f"{option}: {text!r} is not allowed, expected {expected}")
    scale: int = (1024 if found[3] else 1000) ** " kmgtp".index(found[2].lower() or " ")
    value = float(number) * scale
    least, most = CREDIBLE[unit]
    if not least <= value <= most:
        raise UserError(f"{option}: {text!r} is not allowed, expected {expected}, from {least:g} to {most:g} {unit}")
    return value


def number_in(text: str, *, percent: bool = False) -> Decimal | None:
    """Read `32768`, `1e3`, `64k` (64,000), `64Ki` (65,536), `inf`, `70%` where asked; None for what is no number."""
    if percent and text.rstrip().endswith("%"):
        share = number_in(text.rstrip()[:-1])
        return share if share is None else share / 100
    scaled = SCALED.fullmatch(text.strip())
    try:
        number = Decimal(scaled[1] if scaled else text.strip())
    except InvalidOperation:
        return None
    if number.is_snan() or abs(number.adjusted()) > 400:
        return None
    return number * SCALES[scaled[2].lower()] if scaled else number


def in_milliseconds(text: str) -> str:
    """Return a time that names its unit, such as `25ms` or `800us`, as a number of milliseconds; else the text."""
    timed = TIMED.fullmatch(text.strip())
    return f"{Decimal(timed[1]) * MILLISECONDS[timed[2].lower()]:f}" if timed else text


def milliseconds_in(text: str) -> float | None:
    """Return a time, of a unit or in milliseconds, as a number of these; None for what is none, or has no end."""
    number = number_in(in_milliseconds(text))
    value = math.nan if number is None else float(number)
    return value if math.isfinite(value) else None


def list_in_milliseconds(text: str) -> str:
    """Return the same of lists and ranges of times."""
    return re.sub(r"[^,:]+", lambda part: in_milliseconds(part[0]), text)


def not_a_number(text: str, allowed: str, most: float) -> str:
    """Say that a text, or a number that is too large, is none of those that are allowed; percent gets a hint."""
    is_percent = text.strip().endswith("%")
    number = number_in(text.strip().removesuffix("%"))
    if (
        number is not None
        and number.is_finite()
        and ((most == 1 and 10 <= number <= 100) or (is_percent and "whole" not in allowed))
    ):
        return f"{text} is not a fraction; {float(number / 100):g}?"
    comma = re.fullmatch(r"\s*(-?\d+),(\d+)\s*", text)
    hint = f"; {comma[1]}.{comma[2]}?" if comma and "whole" not in allowed else ""
    return f"{text if number_in(text) is not None else repr(text)} is not allowed, expected {allowed}{hint}"


def allowed_numbers(least: float | None, most: float | None, *, whole: bool, above: bool = False) -> str:
    """Say which numbers are allowed, from the least and the most of them."""
    kind = "a whole number" if whole else "a number"
    if least is None:
        return kind if most is None else f"{kind} of at most {most:g}"
    if most is None:
        return f"{kind} above {least:g}" if above else f"{kind} of at least {least:g}"
    shown = f"{most:g}" if most >= 1e7 or most % 1 else f"{most:.0f}"
    return f"{kind} above {least:g}, at most {shown}" if above else f"{kind} from {least:g} to {shown}"


def parse_values(flag: str, text: str, *, percent: bool = False) -> "NDArray[Any]":
    """Read a list of numbers and inclusive ranges: `4`, `0.05,0.1`, `1:8`, `0.5:0.95:0.05`, or a mix; float64.

    percent: `50%:90%:10%` are fractions.
    """
    import numpy as np

    floats = np.sort(np.concatenate([parse_part(flag, part.strip(), percent) for part in text.split(",")]))
    if (floats[1:] == floats[:-1]).any():
        raise UserError(f"{flag}: {text!r} names a value twice, expected each once")
    return floats


def parse_whole(flag: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Read a list of whole numbers, such as draft lengths; see `parse_values`."""
    values = parse_values(flag, text)
    for value in values:
        if not (float(value).is_integer() and least <= value <= most):
            raise UserError(f"{flag}: {value:g} is not allowed, expected whole numbers from {least} to {most}")
    return tuple(int(v) for v in values)


def parse_part(flag: str, part: str, percent: bool) -> "NDArray[Any]":
    """Read one number or one range, in decimal so that 0.5:0.95:0.05 hits 0.95."""
    import numpy as np

    read = [number_in(n, percent=percent) for n in part.split(":")]
    numbers = [n for n in read if n is not None]
    if "%" in part and not percent and all(number_in(n.strip(" %")) is not None for n in part.split(":")):
        fractions = ":".join(f"{float(n.strip(' %')) / 100:g}" for n in part.split(":"))
        raise UserError(f"{flag}: {part} is not a fraction; {fractions}?")
    if not len(read) == len(numbers) <= 3:
        raise UserError(f"{flag}: {part!r} is not a value, expected NUMBER, FROM:TO or FROM:TO:STEP, joined by commas")
    if len(numbers) == 1:
        return np.array([float(numbers[0])])
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
    return decimals(first, step, count)


def decimals(first: Decimal, step: Decimal, count: int) -> "NDArray[Any]":
    """Return numbers in even steps, each the nearest to its decimal."""
    import numpy as np

    places = max(0, *(-int(n.as_tuple().exponent) for n in (first, step)))
    start, by = (int(n.scaleb(places)) for n in (first, step))
    # Whole numbers and powers of ten that floats hold exactly: one division rounds once, as reading the decimal does.
    if places <= 22 and max(abs(start), abs(start + by * count)) < 2**53:
        return np.asarray((start + by * np.arange(count)) / 10.0**places, np.float64)
    return np.array([float(first + i * step) for i in range(count)])


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_DRAFT:
        raise UserError(f"{name}: {value!r} is not allowed, expected a whole number from {least} to {MAX_DRAFT}")


def check_fraction(name: str, value: float) -> None:
    """Refuse what lies outside 0..1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {not_a_number(repr(value), 'a number from 0 to 1', 1)}")
