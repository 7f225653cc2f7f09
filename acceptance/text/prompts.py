"""Prompts from a file: MT-Bench and Spec-Bench questions, ShareGPT conversations, plain JSON records, lines of text."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, lines_of
from simulator.ground.records import BadRecord, Records, as_record, read_each, record_of

T = TypeVar("T")
Items = Iterator[tuple[int, Any]]

IDS = ("question_id", "id", "source")
HUMAN = ("human", "user")
SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a user says in a conversation with the target.

    turns: What the user says, turn after turn; at least one.
    source: Finds it again, and no other: the record's own id if it has one, else "FILE-NAME:LINE".
    category: The kind of task its data set gives it, or "".
    """

    turns: tuple[str, ...]
    source: str
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a data set writes a record.

    keys: Where the prompt stands; the first that is there counts.
    required: What has to be there as well.
    expected: A record, for messages.
    """

    keys: tuple[str, ...]
    expected: str
    required: tuple[str, ...] = ()


QUESTION = Layout(
    keys=("turns",),
    expected='{"question_id": ..., "category": "...", "turns": ["..."]}',
    required=("question_id", "category"),
)
LAYOUTS = {
    "auto": Layout(
        keys=("turns", "conversations", "messages", "prompt"),
        expected='records with "turns", "conversations", "messages" or "prompt"',
    ),
    "mt-bench": QUESTION,
    "spec-bench": QUESTION,
    "sharegpt": Layout(
        keys=("conversations", "messages"),
        expected='{"conversations": [{"from": "human", "value": "..."}]} or {"messages": [{"role": "user", ...}]}',
    ),
    "jsonl": Layout(keys=("turns", "prompt"), expected='{"prompt": "..."} or {"turns": ["..."]}'),
    "text": Layout(keys=("prompt",), expected="one prompt a line"),
}
DATASETS = tuple(LAYOUTS)


def load_prompts(
    path: Path, dataset: str = "auto", *, turns: int | None = 1, limit: int | None = None
) -> Records[Prompt]:
    """Read prompts, skipping records that cannot be used.

    A record is refused for any of its turns, kept or not, so that `turns` does not change which prompts are read.

    Args:
        path: The file.
        dataset: One of DATASETS. auto: what begins with JSON by the keys of each record, other files as text.
        turns: At most so many user turns of each conversation; None: all.
        limit: The first so many usable prompts; None: all. What follows them is not read.

    Raises:
        UserError: The file cannot be read or holds no usable prompt, or an argument is out of range.
    """
    if dataset not in LAYOUTS:
        raise UserError(f"dataset is {dataset!r}, expected {', '.join(DATASETS)}")
    check_at_least_one("turns", turns)
    # Read once: the path may be a pipe.
    lines = list(lines_of(path))
    if dataset == "auto" and path.suffix.lower() not in (".json", ".jsonl") and not looks_like_json(lines):
        dataset = "text"
    layout = LAYOUTS[dataset]

    def read(item: Any, where: str) -> Prompt:
        record = parse(item)
        for key in layout.required:
            if not record[key].is_given:
                raise BadRecord(f"no {key}")
        user_turns = turns_of(record, layout.keys)
        return Prompt(turns=user_turns[:turns], source=source_of(record, where), category=category_of(record))

    items, parse, place = (
        (iter(lines), line_record, "line") if dataset == "text" else json_items(path, lines, layout.expected)
    )
    records = read_first(path, items, read, limit, layout.expected, place)
    names = unique_names(p.source for p in records.rows)
    return replace(records, rows=tuple(replace(p, source=n) for p, n in zip(records.rows, names, strict=True)))


def check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name} is {value}, expected at least 1")


def line_record(line: str) -> Field:
    return as_record({"prompt": line})


def looks_like_json(lines: list[tuple[int, str]]) -> bool:
    """Say whether a file of some other suffix begins with a JSON object, or with a list of them."""
    try:
        first = record_of(lines[0][1]).value if lines else None
    except BadRecord:
        return lines[0][1].lstrip().startswith("[{")
    return isinstance(first, dict) or (isinstance(first, list) and any(isinstance(v, dict) for v in first))


def json_items(path: Path, lines: list[tuple[int, str]], expected: str) -> tuple[Items, Callable[[Any], Field], str]:
    """Return what stands in a file with its place, what makes a record of it, and what a place is.

    A file not named .jsonl may hold one list over all its lines.
    """
    if path.suffix.lower() == ".jsonl" or not lines or not lines[0][1].lstrip().startswith("["):
        return iter(lines), record_of, "line"
    try:
        values = record_of("\n".join(line for _, line in lines)).value
    except BadRecord as error:
        raise UserError(f"{path}: {error}, expected a list of {expected}") from None
    return enumerate(values, 1), as_record, "record"


def read_first(
    path: Path, items: Items, read: Callable[[Any, str], T], limit: int | None, expected: str, place: str = "line"
) -> Records[T]:
    """Read items, (line, what stands there), until `limit` of them could be used; see `read_each`.

    `read` makes a record of an item and of its place, "FILE-NAME:LINE", or raises BadRecord.
    """
    check_at_least_one("limit", limit)
    rows: list[T] = []

    def keep(item: Any, line: int) -> T:
        rows.append(read(item, f"{path.name}:{line}"))
        return rows[-1]

    return read_each(path, takewhile(lambda _: len(rows) != limit, items), keep, expected, place)


def turns_of(record: Field, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the user's turns that stand under the first of `keys` that is there."""
    key = next((k for k in keys if record[k].is_given), None)
    if key is None:
        raise BadRecord(f"no {' or '.join(keys)}")
    if key == "prompt":
        return (record[key].text(),)
    if not record[key].elements():
        raise BadRecord(f"{key} is empty")
    return tuple(t.text() for t in record[key].elements()) if key == "turns" else human_turns(record[key].elements())


def human_turns(messages: list[Field]) -> tuple[str, ...]:
    """Return what the human says in a list of messages; a leading system message is left out."""
    roles = [role_of(m) for m in messages]
    first = int(roles[0] in SYSTEM)
    # A conversation split in parts: this one answers, or goes on from, what is not here.
    if first == len(roles) or roles[first] not in HUMAN:
        raise BadRecord("does not begin with a human turn")
    spoken = [m for m, role in zip(messages, roles, strict=True) if role in HUMAN]
    return tuple((m["value"] if m["value"].is_stated else m["content"]).text() for m in spoken)


def role_of(message: Field) -> str:
    return (message["from"] if message["from"].is_stated else message["role"]).text(empty=True)


def name_of(value: Any) -> str | None:
    """Return a whole number or a printable text as a name; None: it is neither."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    # Names stand in one-line messages; line ends and half surrogate pairs are not printable.
    return name if isinstance(name, str) and name and name.isprintable() else None


def source_of(record: Field, where: str) -> str:
    """Return a record's own id, or where it stands if it has none that can be a name."""
    return next((name for key in IDS if (name := name_of(record[key].value))), where)


def category_of(record: Field) -> str:
    """Return a record's category, or ""."""
    value = record["category"].value
    if value is None or value == "":
        return ""
    name = name_of(value)
    if name is None:
        raise BadRecord("category is no printable text")
    return name


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names, those that came before numbered: "81", "81#2"."""
    counts: dict[str, int] = {}
    for name in names:
        unique = name
        while unique in counts:
            counts[name] += 1
            unique = f"{name}#{counts[name]}"
        counts[unique] = 1
    return list(counts)
