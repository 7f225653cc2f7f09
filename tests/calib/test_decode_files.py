"""Files of bench-decode that are not what they say: refused by their line or place."""

import json
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.results.validate import checks_of
from calibration.published.cases import SCHEMA as CASES
from calibration.sources.decode import load_decode
from simulator.ground.artefacts import UserError
from simulator.ground.schema import Checks, checker, load_schema
from simulator.rounds.pairs import FILE as PAIRS

from .made_decode import write_decode
from .published_files import made_case


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("methods.1.knobs.k", 2.7, r"parameters.methods\[1\].knobs.k is 2.7, expected a whole number from 1 to 1024"),
        ("methods.1.knobs", {}, r"parameters.methods\[1\].knobs.k is missing"),
        ("models.draft", {}, r"parameters.models.draft.name is missing, expected text"),
        ("models.target.name", 3, r"parameters.models.target.name is 3, expected text"),
        ("batch_size", [1], r"parameters.batch_size is \[1\], expected integer"),
        ("inflate_target", "4", r"parameters.inflate_target is '4', expected a number"),
    ],
)
def test_a_header_that_was_edited_is_refused_by_its_place(
    tmp_path: Path, where: str, value: object, words: str
) -> None:
    path = write_decode(tmp_path / "d.jsonl", prompts=2, lengths=(1, 2))
    first, *records = path.read_text().splitlines()
    header = json.loads(first)
    *keys, last = where.split(".")
    place = header["parameters"]
    for key in keys:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    path.write_text("\n".join([json.dumps(header), *records]) + "\n")
    with pytest.raises(UserError, match=words):
        load_decode(path)


def test_records_that_cannot_be_are_refused_by_their_line(tmp_path: Path) -> None:
    path = write_decode(tmp_path / "d.jsonl", prompts=1, lengths=(2,))
    header, plain, chain = path.read_text().splitlines()
    for name, value, words in (
        ("accepted", 9, "line 3: round 0 accepted 9 of 2 drafted tokens"),
        ("accepted", 2**62, "line 3: round 0 accepted"),
        ("drafted", 10**18, "line 3: round 0 is 2 deep"),
        ("decode_s", 1e308, "line 3: decode_s is 1e"),
        ("decode_s", 0, "line 3: decode_s is 0"),
        ("rounds", None, "line 3: generated_tokens is 64, but 0"),
        ("accepted", None, "line 3: rounds are of different numbers"),
    ):
        record = json.loads(chain)
        if name in record and value is not None:
            record[name] = value
        elif name == "rounds":
            record[name] = {key: [] for key in record[name]}
        else:
            record["rounds"][name] = (
                record["rounds"][name][1:] if value is None else [value, *record["rounds"][name][1:]]
            )
        path.write_text("\n".join([header, plain, json.dumps(record)]) + "\n")
        with pytest.raises(UserError, match=words):
            load_decode(path)


def test_a_run_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    for failed, words in (
        ([("baseline", n) for n in range(2)], "no records of baseline and speculative decoding"),
        ([(f"k{k}", n) for k in (1, 2) for n in range(2)], "no records of baseline and speculative decoding"),
        ([("baseline", 0), ("k1", 1)], "k1 and baseline have no prompt in common"),
    ):
        path = write_decode(tmp_path / "d.jsonl", prompts=2, lengths=(1, 2), failed=failed)
        with pytest.raises(UserError, match=words):
            load_decode(path)


ODD = [None, True, False, 0, 1, 1.0, -1, 2**63, 10**400, math.nan, math.inf, "", "a", [], [1, True, 1.5], {}, {"a": 1}]


def spoilt(value: Any) -> Iterator[Any]:
    """A value with each of its parts, at any depth, taken out, or with an odd one in its place."""
    yield from ODD
    if isinstance(value, dict):
        yield value | {"more": 1}
        for key, of in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from (value | {key: odd} for odd in spoilt(of))
    elif isinstance(value, list) and value:
        yield from ([odd, *value[1:]] for odd in spoilt(value[0]))


def check_sound(checks: Checks, *values: Any) -> None:
    """Check that what is told sound at once is what jsonschema finds sound, of values and of all that spoils them."""
    assert checks.sound is not None
    for value in values:
        assert checks.sound(value)
        for odd in spoilt(value):
            assert checks.sound(odd) == checks.validator.is_valid(odd), odd


def test_what_is_told_sound_at_once_is_what_the_slow_way_finds_sound(tmp_path: Path) -> None:
    """Of every schema that comes along, and of lines, cases and pairs that somebody spoilt."""
    lines = write_decode(tmp_path / "d.jsonl", prompts=1, lengths=(1,), tokens=3).read_text().splitlines()
    for line in lines[:2]:
        value = json.loads(line)
        check_sound(checks_of(value["kind"]), value)
    check_sound(checker(load_schema(CASES)), {"cases": [made_case()]})
    pairs = PAIRS.with_suffix(".schema.json")
    check_sound(checker(load_schema(pairs)), dict(list(tomllib.loads(PAIRS.read_text()).items())[:1]))
    # What is not told of here is found the slow way.
    assert checker({"prefixItems": []}).sound is None
    assert checker({"const": {}}).sound is None
