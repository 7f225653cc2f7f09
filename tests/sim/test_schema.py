"""A breach of a JSON Schema is one line: the place, what is there, what is allowed."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.schema import breaches, checker, load_schema

ROUND = {"type": "object", "properties": {"accepted": {"type": "integer", "minimum": 0, "maximum": 4}}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["kind", "seed"],
    "additionalProperties": False,
    "properties": {
        "kind": {"const": "run"},
        "seed": {"type": ["integer", "null"]},
        "share": {"type": "number"},
        "name": {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
        "rounds": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/round"}},
        "level": {"enum": ["low", 1]},
        "either": {"oneOf": [{"type": "string"}, {"type": "object", "required": ["x"]}]},
    },
    "$defs": {"round": ROUND},
}
SOUND = {"kind": "run", "seed": 1}


def wrong(value: Any) -> list[str]:
    return list(breaches(checker(SCHEMA), value))


BREACHES = [
    ({"seed": "x"}, 'seed is "x", expected integer or null'),
    ({"seed": 1.0}, "seed is 1.0, expected integer or null"),
    ({"seed": True}, "seed is true, expected integer or null"),
    ({"seed": 10**400}, "seed is 1000"),
    ({"share": math.nan}, "share is NaN, expected number"),
    ({"share": -math.inf}, "share is -Infinity, expected number"),
    ({"share": 2**63}, "expected a number of at most 64 bits"),
    ({"kind": 1}, "kind is 1, expected 'run'"),
    ({"level": True}, "level is true, expected one of 'low', 1"),
    ({"name": "a"}, 'name is "a", expected a longer text'),
    ({"name": "A1"}, 'name is "A1", expected a text like ^[a-z]+$'),
    ({"rounds": []}, "rounds is [], expected 1 to 2 items"),
    ({"rounds": [{}, {"accepted": 5}]}, "rounds[1].accepted is 5, expected 0 to 4"),
    ({"either": {}}, "either.x is missing"),
    ({"more": 1}, "more is not known"),
]


def test_each_breach_is_one_line() -> None:
    for changes, expected in BREACHES:
        (line,) = wrong(SOUND | changes)
        assert expected in line
        assert "\n" not in line
        assert len(line) < 160


def test_keys_are_named_one_by_one_and_a_sound_value_is_none(tmp_path: Path) -> None:
    assert wrong({"b": 1, "a": 2}) == ["kind is missing", "seed is missing", "b is not known", "a is not known"]
    assert wrong([]) == ["the line is [], expected object"]
    assert wrong(SOUND) == []
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    assert load_schema(tmp_path / "s.json") == SCHEMA


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3), st.lists))
def test_what_is_refused_is_what_jsonschema_refuses(value: Any) -> None:
    plain = jsonschema.Draft202012Validator(SCHEMA)
    for key in SCHEMA["properties"]:
        spoilt = SOUND | {key: value}
        assert bool(wrong(spoilt)) != plain.is_valid(spoilt)
