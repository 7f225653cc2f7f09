"""Checks JSON values against a JSON Schema (draft 2020-12), each breach in one line."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artefacts import read_bytes
from .fields import shortened
from .sound import MAX_WHOLE, is_integer, is_number, sound

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

MAX_SHOWN = 60


def load_schema(path: Path) -> dict[str, Any]:
    """Return the schema that a file holds."""
    schema: dict[str, Any] = json.loads(read_bytes(path))
    return schema


def check_items(checks: Any, rule: Any, values: Any, _: object) -> Iterator["ValidationError"]:
    """Check the elements of a list; of numbers and texts that are equal only the first, unless that is wrong.

    Rounds are lists of thousands of small numbers.
    """
    passed: set[object] = set()
    for index, value in enumerate(values if isinstance(values, list) else ()):
        scalar = (type(value), value) if isinstance(value, int | str) else None
        if scalar is None or scalar not in passed:
            wrong = list(checks.descend(value, rule, path=index))
            yield from wrong
            passed |= {scalar} if scalar and not wrong else set()


@cache
def validator_class() -> Any:
    """Return the checker of draft 2020-12 with our numbers; of its keywords `prefixItems` is not for us."""
    from jsonschema import Draft202012Validator, validators

    extend: Any = validators.extend
    kinds = {"integer": lambda _, value: is_integer(value), "number": lambda _, value: is_number(value)}
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(kinds)
    return extend(Draft202012Validator, {"items": check_items}, type_checker=types)


class Checks:
    """What checks values against a schema. Those that are sound, as most are, are told so a hundred times as fast."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema, self.sound = schema, sound(schema)

    @cached_property
    def validator(self) -> "Validator":
        """What says why a value is not sound."""
        made: Validator = validator_class()(self.schema)
        return made


def checker(schema: Mapping[str, Any]) -> Checks:
    """Return what checks values against a schema, to be used again for many."""
    return Checks(schema)


def breaches(checks: Checks, value: Any) -> Iterator[str]:
    """Say where a value breaks the schema of a checker: the place, what is there and what is allowed."""
    if checks.sound is not None and checks.sound(value):
        return
    from jsonschema.exceptions import best_match

    # Of alternatives the one that fits best; of several missing keys each is a breach that names them all.
    errors = (best_match([error]) or error for error in checks.validator.iter_errors(value))
    yield from dict.fromkeys(line for error in errors for line in breach_lines(error))


def breach_lines(error: "ValidationError") -> Iterator[str]:
    """Say what a breach is; of keys, each by itself."""
    at = place_of(error)
    value: Any = error.instance
    rule: Any = error.schema
    if error.validator == "required":
        yield from (f"{joined(at, key)} is missing" for key in rule["required"] if key not in value)
    elif error.validator == "additionalProperties":
        known = rule.get("properties", {})
        yield from (f"{joined(at, key)} is not known" for key in value if key not in known)
    else:
        yield f"{at or 'the line'} is {shown(value)}, expected {expected(error)}"


def place_of(error: "ValidationError") -> str:
    """Return where in the whole value a breach is, such as "rounds.drafted[3]"."""
    at = ""
    for part in error.absolute_path:
        at = f"{at}[{part}]" if isinstance(part, int) else joined(at, part)
    return at


def joined(at: str, key: str) -> str:
    """Return the place of a key."""
    return f"{at}.{key}" if at else key


def expected(error: "ValidationError") -> str:
    """Say what is allowed where a breach is."""
    rule: Any = error.schema
    limit: Any = error.validator_value
    match error.validator:
        case "type" if isinstance(error.instance, int) and abs(error.instance) > MAX_WHOLE:
            return "a number of at most 64 bits"
        case "type":
            return limit if isinstance(limit, str) else " or ".join(limit)
        case "const":
            return repr(limit)
        case "enum":
            return f"one of {', '.join(map(repr, limit))}"
        case "pattern":
            return f"a text like {limit}"
        case "minimum" | "maximum":
            return f"{rule.get('minimum', -math.inf):g} to {rule.get('maximum', math.inf):g}"
        case "minItems" | "maxItems":
            return f"{rule.get('minItems', 0)} to {rule.get('maxItems', 'any number of')} items"
        case "minLength":
            return "a longer text"
        case _:
            return f"what {error.validator} says ({shortened(error.message, MAX_SHOWN)})"


def shown(value: Any) -> str:
    """Write a value as JSON, cut where it is long."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:
        return shortened(value, MAX_SHOWN)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
