"""Whether JSON values are sound by a JSON Schema, without saying why: made once, for files of thousands of lines."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Nothing that is measured takes more; arithmetic with larger ones overflows.
MAX_WHOLE = 2**63 - 1
Test = Callable[[Any], bool]
# Keywords that say nothing of values, or are told of together.
SAYS_NOTHING = frozenset(("$schema", "$defs", "title", "description", "properties", "additionalProperties"))


class Unknown(Exception):
    """A keyword, or a use of one, that is not told of here."""


def is_number(value: object) -> bool:
    """Whether a value is a finite number of at most 64 bits; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_WHOLE if isinstance(value, int) else math.isfinite(value)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number as it is written: 1.0 is none."""
    return isinstance(value, int) and is_number(value)


def is_of(kind: type) -> Test:
    """Return what says whether a value is of a type."""
    return lambda value: isinstance(value, kind)


TYPES: dict[str, Test] = {
    **{"integer": is_integer, "number": is_number, "null": lambda value: value is None},
    **{name: is_of(kind) for name, kind in (("string", str), ("boolean", bool), ("object", dict), ("array", list))},
}


def sound(schema: Mapping[str, Any]) -> Test | None:
    """Return what says whether a value is sound by a schema; None where the schema has what is not told of here."""
    try:
        return Maker(schema).of(schema)
    except Unknown:
        return None


class Maker:
    """Makes tests of the parts of a schema; what `$ref` names is made once, and may name itself."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.whole: dict[str, Test] = {}
        self.inner: dict[str, Callable[[Any], Test]] = {"$ref": self.referred, "items": self.items}
        self.inner |= {"oneOf": self.one_of, "anyOf": self.any_of}

    def of(self, rule: Any) -> Test:
        """Return the test of a part."""
        if isinstance(rule, bool):
            return lambda value: rule
        tests = [self.by(key, of) for key, of in rule.items() if key not in SAYS_NOTHING]
        if "properties" in rule or "additionalProperties" in rule:
            tests.append(self.members(rule))
        return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)

    def by(self, key: str, of: Any) -> Test:
        """Return the test of a keyword."""
        if key in self.inner:
            return self.inner[key](of)
        if key == "type":
            return any_test([TYPES[name] for name in ([of] if isinstance(of, str) else of)])
        if key in ("const", "enum"):
            return among([of] if key == "const" else of)
        if key not in PLAIN:
            raise Unknown(key)
        is_meant, compared = PLAIN[key]
        return lambda value: not is_meant(value) or compared(value, of)

    def referred(self, name: str) -> Test:
        """Return the test of what a name stands for."""
        if name not in self.whole:
            self.whole[name] = lambda value: self.whole[name](value)
            place: Any = self.schema
            for part in name.removeprefix("#/").split("/"):
                place = place[part]
            self.whole[name] = self.of(place)
        return lambda value: self.whole[name](value)

    def items(self, rule: Any) -> Test:
        """Return the test of all elements of lists."""
        each = self.of(rule)
        return lambda value: not isinstance(value, list) or all(map(each, once(value)))

    def one_of(self, rules: Any) -> Test:
        """Return the test of alternatives of which one is meant."""
        each = [self.of(rule) for rule in rules]
        return lambda value: sum(test(value) for test in each) == 1

    def any_of(self, rules: Any) -> Test:
        """Return the test of alternatives."""
        return any_test([self.of(rule) for rule in rules])

    def members(self, rule: Mapping[str, Any]) -> Test:
        """Return the test of the members of objects: those that are named, and others."""
        named = {key: self.of(of) for key, of in rule.get("properties", {}).items()}
        others = self.of(rule.get("additionalProperties", True))
        return lambda value: not isinstance(value, dict) or all(named.get(k, others)(v) for k, v in value.items())


def once(values: list[Any]) -> Iterable[Any]:
    """Return whole numbers each once, as counts of rounds are few different ones; all else as it is."""
    return set(values) if set(map(type, values)) == {int} else values


def any_test(tests: list[Test]) -> Test:
    """Return what says whether a value passes one of some tests."""
    return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)


def among(known: list[Any]) -> Test:
    """Return what says whether a value is one of some texts, numbers, truths or null; true is not 1."""
    if any(isinstance(one, dict | list) for one in known):
        raise Unknown("const")
    return lambda value: any(
        one is value if isinstance(one, bool) or isinstance(value, bool) else one == value for one in known
    )


# Keywords that look at a value alone: of which values, and what is compared with what the schema says.
PLAIN: dict[str, tuple[Test, Callable[[Any, Any], bool]]] = {
    "required": (TYPES["object"], lambda value, names: all(name in value for name in names)),
    "pattern": (TYPES["string"], lambda value, pattern: re.search(pattern, value) is not None),
    "minimum": (is_number, operator.ge),
    "maximum": (is_number, operator.le),
    "exclusiveMinimum": (is_number, operator.gt),
    "minLength": (TYPES["string"], lambda value, least: len(value) >= least),
    "minProperties": (TYPES["object"], lambda value, least: len(value) >= least),
    "minItems": (TYPES["array"], lambda value, least: len(value) >= least),
    "maxItems": (TYPES["array"], lambda value, most: len(value) <= most),
}
