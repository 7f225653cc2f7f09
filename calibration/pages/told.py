"""What the readers of results have in common: what each returns, and how numbers of a file become words."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simulator.answers.latency import ms, time_text
from simulator.answers.load_curve_report import pays_in_words
from simulator.answers.load_search import EARLIER, EVERYWHERE, LATER, NOWHERE, UNKNOWN, Turning
from simulator.ground.fields import Field

from .page import BAD, GOOD, OPEN, Figure, Part

# How verdicts of answers are marked; one with an "if" behind it is open.
MARKS = {"pays": GOOD, "does not pay": BAD, "cannot tell": OPEN, "does not fit into memory": BAD}
# Letters of a parameter's value, and elements of a list.
LONGEST, MOST_LISTED = 160, 8
# Rows of a table that a page shows.
MOST_ROWS = 200


class Told(NamedTuple):
    """What a reader makes of a result; see `Page`. warnings: besides those that results have under that name."""

    answer: str
    mark: str = ""
    verdict: str = ""
    figures: Sequence[Figure] = ()
    parts: Sequence[Part] = ()
    warnings: Sequence[str] = ()


def value(field: Field) -> float:
    """Return a number, NaN where there is none."""
    return field.number(-math.inf) if field.is_given else math.nan


def ends(field: Field) -> tuple[float, float] | None:
    """Return both ends of an interval, None where there is none.

    Raises:
        UserError: It is no pair of numbers.
    """
    if not field.is_given:
        return None
    both = [value(end) for end in field.elements()]
    if len(both) != 2:
        field.refuse("two numbers")
    return None if any(map(math.isnan, both)) else (both[0], both[1])


def words(field: Field) -> str:
    """Return text, "" where there is none."""
    return field.text(empty=True) if field.is_given else ""


def lines(field: Field) -> list[str]:
    """Return a list of texts, empty where there is none."""
    return [words(line) for line in field.elements()] if field.is_given else []


def number(told: float, form: str = ".3f", unit: str = "") -> str:
    """Write a number; of what is none a dash."""
    return "-" if math.isnan(told) else f"{told:{form}}{unit}"


def gain(told: float) -> str:
    """Write a speedup."""
    return number(told, ".2f", "x")


def span(both: tuple[float, float] | None, form: str = ".2f", unit: str = "x") -> str:
    """Write an interval; nothing where there is none."""
    return "" if both is None else f"{both[0]:{form}}{unit} to {both[1]:{form}}{unit}"


def in_ms(seconds: float) -> str:
    """Write a time in ms for a table."""
    return "-" if math.isnan(seconds) else ms(seconds)


def as_time(seconds: float) -> str:
    """Write a time with its unit."""
    return "-" if math.isnan(seconds) else time_text(seconds)


def percent(told: float, digits: int = 1) -> str:
    """Write a fraction in percent."""
    return "-" if math.isnan(told) else f"{told:.{digits}%}"


def mark_of(verdict: str, *, conditional: bool = False) -> str:
    """Return how a verdict is marked; one that hangs on what nobody measured is open."""
    mark = MARKS.get(verdict.removesuffix(" if"), "")
    return OPEN if mark == GOOD and (conditional or verdict.endswith(" if")) else mark


def headline(document: Field, otherwise: str) -> str:
    """Return the answer as the command said it; files of before 0.2 have none."""
    return words(document["headline"]) or otherwise


def turning_in_words(field: Field, unit: str) -> str:
    """Say at which loads speculation pays."""
    both = field["ci95"]
    known = None if not both.is_given else tuple(value(end) for end in both.elements())
    found = Turning(
        pays=field["pays"].choice((LATER, EARLIER, EVERYWHERE, NOWHERE, UNKNOWN)),
        low=value(field["low"]),
        high=value(field["high"]),
        again=field["again"].flag(default=False),
        ci95=None if known is None or len(known) != 2 else (known[0], known[1]),
        ends=words(field["ends"]),
    )
    return pays_in_words(found, unit)


def as_words(told: Any) -> str:
    """Write the value of a parameter, whatever it is."""
    if isinstance(told, list) and all(isinstance(v, int | float | str) for v in told):
        shown = [as_words(v) for v in told]
        if len(shown) > MOST_LISTED:
            return f"{', '.join(shown[:3])} ... {shown[-1]} ({len(shown):,} values)"
        return ", ".join(shown)
    if isinstance(told, Mapping) and told and all(isinstance(v, int | float | str) for v in told.values()):
        text = ", ".join(f"{name} {as_words(v)}" for name, v in told.items())
    elif isinstance(told, bool):
        text = "yes" if told else "no"
    elif isinstance(told, int | float):
        text = f"{told:,.10g}"
    else:
        text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def asked_of(parameters: Field) -> list[tuple[str, str]]:
    """Return what was asked: every parameter that somebody stated, or that has a usual value."""
    if not parameters.is_given:
        return []
    given = parameters.object().items()
    return [(name.replace("_", " "), as_words(told)) for name, told in given if told not in (None, [], {}, "")]
