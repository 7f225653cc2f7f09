"""The one checked reader of structured input: JSON, JSON a line, TOML, rows of tables.

What is read becomes a `Field`: a value that knows its file and its place in it, so that whoever takes something out
of it refuses in one line that names the file, the place, the value found and what is allowed.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from .artefacts import UserError
from .plain_text import read_text_bytes
from .ranges import allowed_numbers

# What a number of a file may be at most: sums of such counts stay finite in a float.
MAX_NUMBER = 1e300
MAX_SHOWN = 80
# Lists and objects within one another.
MAX_DEPTH = 100
# Bytes of a file of settings that somebody wrote by hand.
MAX_SETTINGS = 1 << 18
DOTTED = re.compile(r"[^\s.=,\[\]{}]+(?:[ \t]*\.[ \t]*[^\s.=,\[\]{}]+)*")


class Malformed(ValueError):
    """Text that is not the JSON we take. what: in two or three words; the message says more."""

    def __init__(self, what: str, more: str = "") -> None:
        super().__init__(what + more)
        self.what = what


def parse_json(text: str, *, any_number: bool = False) -> Any:
    """Read one JSON value; `Malformed`: a key named twice, NaN, infinity or too deep a nest among what is no JSON.

    any_number: NaN and infinities are taken, which other programs write.
    """
    try:
        how: dict[str, Any] = {} if any_number else {"parse_constant": refused, "parse_float": finite}
        value = json.loads(text, object_pairs_hook=unique, **how)
        if is_deep(value):
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        raise Malformed("not JSON", f" (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise Malformed("nested too deeply", " to be one of our files") from None
    except Malformed:
        raise
    except ValueError as error:
        # Python refuses to read integers of thousands of digits.
        raise Malformed("holds a number that cannot be read", f" ({str(error).partition(';')[0]})") from None


def is_deep(value: Any) -> bool:
    """Say whether lists and objects stand deeper within one another than any file needs them."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        if not (level := [v for part in inner for v in part if isinstance(v, dict | list)]):
            return False
    return True


def refused(number: str) -> NoReturn:
    """Refuse NaN and infinity, by name or as a number beyond all floats."""
    raise Malformed(f"holds {number[:MAX_SHOWN]}", ", expected finite numbers")


def finite(number: str) -> float:
    """Return a float that is no infinity."""
    value = float(number)
    return refused(number) if math.isinf(value) else value


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object none of whose keys is named twice."""
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise Malformed(f"key {key!r} appears twice")
        members[key] = value
    return members


def shortened(value: Any, most: int = 40) -> str:
    """Return a value as Python writes it, at most so many characters."""
    try:
        text = repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= most else text[: most - 3] + "..."


@dataclass(frozen=True, slots=True)
class Field:
    """A value and where it stands; a missing value and null are the same, unless `is_stated` is asked.

    Attributes:
        value: As read; None where it is missing.
        path: File, for messages; "" for a record whose reader names the file itself.
        where: Place in the file, such as "passes.bfloat16.knots[2]"; "" for the whole.
        is_stated: Whether the file has the key at all.
        error: What `refuse` raises.
    """

    value: Any
    path: str | Path = ""
    where: str = ""
    is_stated: bool = True
    error: type[ValueError] = UserError

    def refuse(self, expected: str) -> NoReturn:
        """Raise an error (of the class `error`) that says what is wrong with this value."""
        state = "is missing" if not self.is_stated else f"is {shortened(self.value, MAX_SHOWN)}"
        raise self.error(f"{self.place} {state}, expected {expected}")

    @property
    def place(self) -> str:
        """File and place in it, as messages begin."""
        return f"{self.path}: {self.where or 'the file'}" if str(self.path) else self.where or "it"

    @property
    def is_given(self) -> bool:
        """Whether there is a value other than null."""
        return self.value is not None

    def __getitem__(self, key: str) -> "Field":
        """Return a field of an object; its value is None where it is missing."""
        members, where = self.object(), f"{self.where}.{key}" if self.where else key
        return Field(members.get(key), self.path, where, key in members, self.error)

    def object(self) -> dict[str, Any]:
        """Return an object."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return self.value

    def but(self, **members: Any) -> "Field":
        """Return the same object with some members changed."""
        return replace(self, value=self.object() | members)

    def items(self) -> list[tuple[str, "Field"]]:
        """Return the fields of an object by key."""
        return [(key, self[key]) for key in self.object()]

    def elements(self) -> list["Field"]:
        """Return the elements of a list."""
        if not isinstance(self.value, list):
            self.refuse("a list")
        return [Field(v, self.path, f"{self.where}[{i}]", True, self.error) for i, v in enumerate(self.value)]

    def only(self, keys: Sequence[str]) -> None:
        """Refuse an object with keys that are not among these."""
        for key, member in self.items():
            if key not in keys:
                member.error_about_key(keys)

    def error_about_key(self, keys: Sequence[str]) -> NoReturn:
        """Raise an error about this field's own name."""
        raise self.error(f"{self.place} is not a key, expected {', '.join(keys)}")

    def text(self, *, empty: bool = False) -> str:
        """Return text that is Unicode; that of no characters only where it may be `empty`."""
        if not isinstance(self.value, str) or not (self.value or empty):
            self.refuse("text")
        if any("\ud800" <= c <= "\udfff" for c in self.value):
            self.refuse("text in Unicode")
        return self.value

    def choice(self, allowed: Sequence[str]) -> str:
        """Return one of some words."""
        if not isinstance(self.value, str) or self.value not in allowed:
            self.refuse(" or ".join(map(repr, allowed)) if len(allowed) < 5 else f"one of {', '.join(allowed)}")
        return self.value

    def flag(self, default: bool | None = None) -> bool:
        """Return true or false; `default`, where there is one, for a value that is missing or null."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def number(
        self, least: float = 0.0, most: float = MAX_NUMBER, *, above: bool = False, default: float | None = None
    ) -> float:
        """Return a finite number of at least (or `above`) `least` and at most `most`; `default` as in `flag`."""
        if self.value is None and default is not None:
            return default
        value = math.nan
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            with suppress(OverflowError):
                value = float(self.value)
        if not least <= value <= most or (above and value == least):
            bounds = None if least == -math.inf else least, None if most == MAX_NUMBER else most
            self.refuse(allowed_numbers(*bounds, whole=False, above=above))
        return value

    def whole(self, least: int = 0, most: int | None = None, *, default: int | None = None) -> int:
        """Return a whole number from `least` to `most`, written with or without `.0`; `default` as in `flag`."""
        if self.value is None and default is not None:
            return default
        value = self.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= (MAX_NUMBER if most is None else most):
            self.refuse(f"a whole number {f'of at least {least}' if most is None else f'from {least} to {most}'}")
        return value


def text_of(path: str | Path) -> str:
    """Return the text of a file, see `plain_text`; a UserError says why it has none."""
    try:
        return read_text_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_json(path: str | Path, *, any_number: bool = False) -> Field:
    """Read a file that holds one JSON value; a UserError names the file and what is wrong. any_number: see above."""
    try:
        return Field(parse_json(text_of(path), any_number=any_number), path)
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; a UserError names the file and what is wrong."""
    value = read_json(path).value
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_toml(path: str | Path) -> Field:
    """Read a TOML file; a UserError says that it is none, or cannot be read."""
    import tomllib

    text = text_of(path)
    if len(text) > MAX_SETTINGS:
        raise UserError(f"{path}: holds {len(text):,} characters, expected at most {MAX_SETTINGS:,}")
    try:
        # The parser's time and memory grow with the square of these.
        if any(dotted.group().count(".") > MAX_DEPTH for dotted in DOTTED.finditer(text)):
            raise RecursionError
        value = tomllib.loads(text)
        if is_deep(value):
            raise RecursionError
        return Field(value, path)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be one of our files") from None
    except ValueError as error:  # numbers of thousands of digits as well
        raise UserError(f"{path}: not TOML ({shortened(str(error), MAX_SHOWN)})") from None


def lines_of(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines of a text file that are not blank; see `plain_text` and `lines_in`."""
    yield from lines_in(read_text_bytes(path))


def lines_in(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are not blank; bytes that are no UTF-8 become lone surrogates."""
    # Not splitlines(): JSON strings may hold U+2028, which is no line end to whoever writes JSON a line.
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line.decode("utf-8", "surrogateescape").removesuffix("\r")
