"""The checked readers: what they take comes back as it stands; what they refuse is named by file, place and value."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, lines_of, parse_json, read_json, read_toml
from simulator.ground.records import BadRecord
from simulator.ground.schema import breaches, checker, load_schema

numbers = st.integers(-(10**30), 10**30) | st.floats(-1e30, 1e30)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=6)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def taken(field: Field) -> Any:
    """A value taken out of a field piece by piece, by the kind that it is of."""
    if isinstance(field.value, dict):
        return {key: taken(own) for key, own in field.items()}
    if isinstance(field.value, list):
        return [taken(own) for own in field.elements()]
    if isinstance(field.value, bool):
        return field.flag()
    if isinstance(field.value, str):
        return field.text(empty=True)
    if isinstance(field.value, int):
        return field.whole(-(10**30))
    return field.value if field.value is None else field.number(-math.inf)


@given(values)
def test_what_is_written_is_what_is_taken(value: Any) -> None:
    assert taken(Field(parse_json(json.dumps(value)), "f.json")) == value


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 50), st.booleans(), st.floats(0.001, 0.999))
def test_a_whole_number_is_taken_between_its_bounds_alone(
    value: int, least: int, span: int, as_float: bool, part: float
) -> None:
    field = Field(float(value) if as_float else value, "f", "n")
    if least <= value <= least + span:
        assert field.whole(least, least + span) == value
        assert type(field.whole(least, least + span)) is int
        assert field.number(least, least + span) == value
    else:
        with pytest.raises(UserError, match=rf"^f: n is .*, expected a whole number from {least} to {least + span}$"):
            field.whole(least, least + span)
        with pytest.raises(UserError, match="expected a number from"):
            field.number(least, least + span)
    with pytest.raises(UserError, match="expected a whole number of at least"):
        Field(value + part, "f", "n").whole(-100)


READERS: dict[str, Callable[[Field], object]] = {
    "text": Field.text,
    "flag": Field.flag,
    "number": lambda f: f.number(-math.inf),
    "whole": lambda f: f.whole(-(10**31)),
    "object": Field.object,
    "list": Field.elements,
    "choice": lambda f: f.choice(("one", "two")),
}
TAKES = {str: {"text"}, bool: {"flag"}, dict: {"object"}, list: {"list"}, int: {"number", "whole"}, float: {"number"}}


@given(values.filter(lambda v: v not in ("", "one", "two")))
def test_each_reader_takes_values_of_its_own_kind_alone(value: Any) -> None:
    """Booleans are no numbers, numbers no flags, texts neither; nothing stands for null."""
    field = Field(value, "f.json", "a[2].b")
    for name, read in READERS.items():
        if name in TAKES.get(type(value), set()) or (name == "whole" and isinstance(value, float) and value % 1 == 0):
            read(field)
        else:
            with pytest.raises(UserError, match=r"^f\.json: a\[2\]\.b is (?s:.*), expected ") as error:
                read(field)
            assert len(str(error.value)) < 200


NO_JSON = {
    "{": "not JSON (line 1: ",
    "NaN": "holds NaN, expected finite numbers",
    '{"a": [-Infinity]}': "holds -Infinity, expected finite",
    '{"a": 1e999}': "holds 1e999, expected finite",
    "[-1e400]": "holds -1e400, expected finite",
    '{"a": {"k": 1, "k": 1}}': "key 'k' appears twice",
    "1" + 5000 * "0": "holds a number that cannot be read",
    100_000 * "[": "nested too deeply",
}


def test_what_is_no_json_of_ours_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    for text, message in NO_JSON.items():
        path.write_text(text)
        with pytest.raises(Malformed) as plain:
            parse_json(text)
        with pytest.raises(UserError) as error:
            read_json(path)
        assert str(error.value) == f"{path}: {plain.value}"
        assert message in str(error.value)
        assert "\n" not in str(error.value)


FILE = Field({"a": {"b": [1, None, 10**400]}, "n": None, "s": ""}, "f.json")
MESSAGES: list[tuple[Callable[[], object], str]] = [
    (lambda: Field(3, "f.json").object(), "f.json: the file is 3, expected an object"),
    (lambda: FILE["c"].number(), "f.json: c is missing, expected a number of at least 0"),
    (lambda: FILE["a"]["c"].whole(1), "f.json: a.c is missing, expected a whole number of at least 1"),
    (lambda: FILE["n"].number(0, 1), "f.json: n is None, expected a number from 0 to 1"),
    (lambda: FILE["n"].number(0, 1, above=True), "f.json: n is None, expected a number above 0, at most 1"),
    (lambda: FILE["a"]["b"].elements()[0].number(1, above=True), "f.json: a.b[0] is 1, expected a number above 1"),
    (lambda: FILE["a"]["b"].elements()[1].text(), "f.json: a.b[1] is None, expected text"),
    (lambda: FILE["a"]["b"].elements()[2].number(), f"f.json: a.b[2] is 1{76 * '0'}..., expected a number of"),
    (lambda: FILE["s"].text(), "f.json: s is '', expected text"),
    (lambda: FILE["s"].choice(("x", "y")), "f.json: s is '', expected 'x' or 'y'"),
    (lambda: FILE["a"].choice(list("vwxyz")), ", expected one of v, w, x, y, z"),
    (lambda: FILE["a"].only(["c", "d"]), "f.json: a.b is not a key, expected c, d"),
    (lambda: FILE["n"]["m"], "f.json: n is None, expected an object"),
]


def test_a_refusal_names_file_place_value_and_what_is_allowed() -> None:
    for read, message in MESSAGES:
        with pytest.raises(UserError) as error:
            read()
        assert message in str(error.value)
    with pytest.raises(BadRecord, match=r"^tokens\[1\] is '3', expected a whole number of at least 0$"):
        [token.whole() for token in Field({"tokens": [2, "3"]}, error=BadRecord)["tokens"].elements()]


def test_a_default_stands_for_what_is_missing_or_null_and_for_nothing_else() -> None:
    for key in ("n", "absent"):
        assert not FILE[key].is_given
        assert (FILE[key].flag(True), FILE[key].number(default=0.5), FILE[key].whole(3, default=0)) == (True, 0.5, 0)
    assert FILE["n"].is_stated
    assert not FILE["absent"].is_stated
    with pytest.raises(UserError, match="s is ''"):
        FILE["s"].flag(True)


def test_toml_reads_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[methods.k3]\nk = 3\nalpha = nan\n")
    assert read_toml(path)["methods"]["k3"]["k"].whole() == 3
    with pytest.raises(UserError, match=rf"^{path}: methods\.k3\.alpha is nan, expected a number of at least 0$"):
        read_toml(path)["methods"]["k3"]["alpha"].number()
    path.write_text("k =")
    with pytest.raises(UserError, match="not TOML"):
        read_toml(path)


def test_lines_are_split_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf1\r\n \n"a\xe2\x80\xa8b"\n\xff')
    assert list(lines_of(path)) == [(1, "1"), (3, '"a\u2028b"'), (4, "\udcff")]


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
