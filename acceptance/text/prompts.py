"""Prompts from a file: questions, conversations, records of any of the usual keys, tables, lines of text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from acceptance.models.bundled import BUNDLED, place_of
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, lines_in
from simulator.ground.plain_text import PARQUET, as_text, read_unpacked
from simulator.ground.records import BadRecord, Records, as_record, read_each, record_of

from .said import REQUESTS, TALKS, category_of, in_known_case, key_of, source_of, turns_of
from .tables import DELIMITERS, delimiter_of, is_table, parquet_rows, table_rows

T = TypeVar("T")
Items = Iterator[tuple[int, Any]]

# Text whose lines are no prompts, and that is not read.
OTHER_FORMATS = (".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".ini")
# Of a folder: data sets come in several files, beside descriptions in JSON.
FOLDER_KINDS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
PACKINGS = (".gz", ".zst", ".xz", ".bz2")


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
class PromptFile(Records[Prompt]):
    """Prompts of a file, and what the file was taken for; "" where nobody needs to be told.

    parts: of a folder, its files.
    """

    read_as: str = ""
    parts: tuple["PromptFile", ...] = ()

    def notes(self) -> list[str]:
        """Return a line that says what the file was taken for, and one of records that were skipped; of each part."""
        if self.parts:
            return [line for part in self.parts for line in part.notes()]
        read_as = [f"{self.path}: read as {self.read_as}"] if self.read_as else []
        return [*read_as, *Records.notes(self)]


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
ANY = Layout(
    keys=("turns", *TALKS, *REQUESTS, "prompt", "question", "instruction", "query", "problem", "input", "text"),
    expected='records with "turns", "conversations", "messages", "prompt" or "instruction", or --column NAME',
)
LAYOUTS = {
    "auto": ANY,
    "mt-bench": QUESTION,
    "spec-bench": QUESTION,
    "sharegpt": Layout(
        keys=("conversations", "messages"),
        expected='{"conversations": [{"from": "human", "value": "..."}]} or {"messages": [{"role": "user", ...}]}',
    ),
    "messages": Layout(
        keys=("messages", *REQUESTS),
        expected='{"messages": [{"role": "user", "content": "..."}]}, alone or as "body" of a batch request',
    ),
    "alpaca": Layout(keys=("instruction",), expected='{"instruction": "...", "input": "..."}'),
    "humaneval": Layout(keys=("prompt", "text"), expected='{"task_id": "...", "prompt": "..."}', required=("task_id",)),
    "jsonl": Layout(keys=("turns", "prompt"), expected='{"prompt": "..."} or {"turns": ["..."]}'),
    "csv": ANY,
    "tsv": ANY,
    "parquet": ANY,
    "text": Layout(keys=("prompt",), expected="one prompt a line"),
}
DATASETS = tuple(LAYOUTS)
# Formats that are a kind of file; the others say what stands in a record.
KINDS = ("jsonl", "csv", "tsv", "parquet", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A file that is open: (place, what stands there), what makes a record of it, and what it was taken for.

    place: what a place is: a "line", or a "record" of a list or table.
    """

    items: Items
    parse: Callable[[Any], Field]
    place: str
    kind: str


def load_prompts(
    path: Path, dataset: str = "auto", *, column: str | None = None, turns: int | None = 1, limit: int | None = None
) -> PromptFile:
    """Read prompts, skipping records that cannot be used.

    A record is refused for any of its turns, kept or not, so that `turns` does not change which prompts are read.
    Files that are packed (gzip, xz, bzip2, zstd) or in UTF-16 are read as well.

    Args:
        path: The file; or a folder, of which the files of one kind are read, in the order of their names.
        dataset: One of DATASETS. auto: by what the file holds, JSON and tables by the keys of each record.
        column: The key or column that holds the prompt; None: the first of the usual ones.
        turns: At most so many user turns of each conversation; None: all.
        limit: The first so many usable prompts; None: all. What follows them is not read.

    Raises:
        UserError: The file cannot be read or holds no usable prompt, or an argument is out of range.
    """
    if dataset not in LAYOUTS:
        raise UserError(f"dataset is {dataset!r}, expected {', '.join(DATASETS)}")
    check_at_least_one("turns", turns)
    if path.is_dir():
        how: dict[str, Any] = {"column": column, "turns": turns}
        return of_folder(path, lambda file, left: load_prompts(file, dataset, limit=left, **how), limit)
    layout = LAYOUTS[dataset]
    if column is not None:
        layout = replace(layout, keys=(column,), expected=f"records with {column!r}")
    opened = open_prompts(path, dataset, layout.keys, "" if column is None else "--column")
    keys: dict[str, None] = {}

    def read(item: Any, where: str) -> Prompt:
        record = in_known_case(opened.parse(item), layout.keys)
        for key in layout.required:
            if not record[key].is_given:
                raise BadRecord(f"no {key}")
        key = key_of(record, layout.keys)
        said = turns_of(record, key)
        keys.setdefault(key)
        return Prompt(turns=said[:turns], source=source_of(record, where), category=category_of(record))

    records = read_first(path, opened.items, read, limit, layout.expected, opened.place)
    names = unique_names(p.source for p in records.rows)
    rows = tuple(replace(p, source=n) for p, n in zip(records.rows, names, strict=True))
    read_as = opened.kind
    if opened.parse is not line_record:
        read_as += f", {'column' if opened.parse is table_record else 'key'} {' and '.join(keys)}"
    return PromptFile(path=path, rows=rows, skipped=records.skipped, place=records.place, read_as=read_as)


def of_folder(
    folder: Path,
    load: Callable[[Path, int | None], PromptFile],
    limit: int | None,
    files: Sequence[Path] | None = None,
) -> PromptFile:
    """Read the files of a folder, one after another, until there are enough prompts.

    load: takes a file and how many prompts of it are wanted at most. files: where they are not those of `files_in`.

    Raises:
        UserError: It holds no file of prompts, or one that cannot be read.
    """
    check_at_least_one("limit", limit)
    parts: list[PromptFile] = []
    for file in files_in(folder) if files is None else files:
        left = None if limit is None else limit - sum(len(part.rows) for part in parts)
        if left == 0:
            break
        parts.append(load(file, left))
    rows = [prompt for part in parts for prompt in part.rows]
    names = unique_names(prompt.source for prompt in rows)
    named = tuple(replace(prompt, source=name) for prompt, name in zip(rows, names, strict=True))
    return PromptFile(path=folder, rows=named, parts=tuple(parts))


def files_in(folder: Path) -> list[Path]:
    """Return a folder's files of prompts: of the first kind in FOLDER_KINDS that it has."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    for kind in FOLDER_KINDS:
        found = [f for f in files if next((s for s in reversed(f.suffixes) if s not in PACKINGS), "") == kind]
        if found:
            return found
    raise UserError(f"{folder}: holds no file of prompts, expected one in {', '.join(FOLDER_KINDS)}")


def given_prompts(given: str, dataset: str, **how: Any) -> PromptFile:
    """Read prompts as a command is given them: from a file, or the bundled ones; `how` as in `load_prompts`."""
    prompts = load_prompts(Path(place_of(given, "prompts.jsonl")), dataset, **how)
    return replace(prompts, read_as="") if given == BUNDLED else prompts


def open_prompts(path: Path, dataset: str, keys: Sequence[str], option: str) -> Opened:
    """Open a file as what it is; a `dataset` among KINDS says what it has to be.

    keys: columns that may hold prompts. option: how they were asked for, "" where they are the usual ones.
    """
    # Read once: the path may be a pipe.
    content = read_unpacked(path)
    if content.data.startswith(PARQUET):
        if dataset in KINDS and dataset != "parquet":
            raise UserError(f"{path}: Parquet, but --format is {dataset}, expected parquet or auto")
        rows = parquet_rows(path, content.data, keys, option)
        return Opened(items=rows, parse=table_record, place="row", kind=", ".join([*content.how, "Parquet"]))
    content = as_text(path, content)
    lines = list(lines_in(content.data))
    text = "\n".join(line for _, line in lines)
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() not in PACKINGS), "")
    kind = kind_of(dataset, suffix, text, keys, named=bool(option)) if lines else "text"
    how = "".join(f"{name}, " for name in content.how)
    if kind in OTHER_FORMATS:
        formats = "text (JSON, CSV or Parquet are read as well); --format text takes its lines as prompts"
        raise UserError(f"{path}: {kind} is no format of prompts, expected {formats}")
    if kind == "parquet":
        raise UserError(f"{path}: no Parquet, expected --format auto")
    if kind == "text":
        if option and lines:
            raise UserError(f"{option}: {path} is text, a prompt a line, expected CSV, JSON or Parquet")
        return Opened(items=iter(lines), parse=line_record, place="line", kind=f"{how}text, a prompt a line")
    if kind in ("csv", "tsv"):
        text = content.data.decode("utf-8", "surrogateescape")
        delimiter = delimiter_of(text, keys, "\t" if kind == "tsv" else tuple(DELIMITERS))
        rows = table_rows(path, text, delimiter, keys, option)
        return Opened(items=rows, parse=table_record, place="line", kind=how + DELIMITERS[delimiter])
    opened = open_json(path, lines, text, suffix, keys)
    return replace(opened, kind=how + opened.kind)


def kind_of(dataset: str, suffix: str, text: str, keys: Sequence[str], *, named: bool) -> str:
    """Return what a text file is: "json", "csv", "tsv", "text"; or what `dataset` says it has to be.

    keys: columns that may hold prompts, `named` by the user or the usual ones; a table is told by them, or by its name.
    Two lines of a .txt may be prose with a comma in each: where nobody names a column, three tell a table.
    """
    if dataset in KINDS:
        return "json" if dataset == "jsonl" else dataset
    if suffix in (".json", ".jsonl", ".ndjson") or looks_like_json(text):
        return "json"
    if suffix in (".csv", ".tsv", ".tab"):
        return "csv" if suffix == ".csv" else "tsv"
    if is_table(text, keys, columns=1 if named else 2, rows=3 if suffix == ".txt" and not named else 1):
        return "csv"
    if suffix in OTHER_FORMATS and dataset == "auto":
        return suffix
    return "text" if dataset == "auto" else "json"


def check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name} is {value}, expected at least 1")


def line_record(line: str) -> Field:
    """Return a line of text as a record."""
    return as_record({"prompt": line})


def table_record(row: Any) -> Field:
    """Return a row of a table as a record; text says what is wrong with one."""
    if isinstance(row, str):
        raise BadRecord(row)
    return as_record(row)


def looks_like_json(text: str) -> bool:
    """Say whether text begins with a JSON object, or with a list of them."""
    first = text.partition("\n")[0].strip()
    if not first.startswith(("{", "[")):
        return False
    try:
        value, is_all = record_of(first).value, text.strip() == first
    except BadRecord:
        if first.startswith("[{"):
            return True
        try:
            value, is_all = record_of(text).value, True
        except BadRecord:
            return False
    if isinstance(value, list):
        # A line of a program may be a list of texts: then other lines follow.
        is_texts = is_all and bool(value) and all(isinstance(v, str) for v in value)
        return is_texts or any(isinstance(v, dict) for v in value)
    return isinstance(value, dict)


def open_json(path: Path, lines: list[tuple[int, str]], text: str, suffix: str, keys: Sequence[str]) -> Opened:
    """Open JSON: one value a line, or, in a file not named .jsonl, one list or object over all its lines."""
    by_line = Opened(items=iter(lines), parse=record_of, place="line", kind="JSON a line")
    first = lines[0][1].lstrip() if lines else ""
    if suffix in (".jsonl", ".ndjson") or not first.startswith(("[", "{")):
        return by_line
    try:
        value = record_of(text).value
    except BadRecord as error:
        if first.startswith("{"):
            return by_line
        raise UserError(f"{path}: {error}, expected a list of {ANY.expected}") from None
    if isinstance(value, dict):
        if len(lines) == 1 and any(key in value for key in keys):
            return by_line
        value = members_of(value, keys)
    return Opened(items=enumerate(value, 1), parse=member_record, place="record", kind="JSON")


def member_record(value: Any) -> Field:
    """Return a member of a list as a record: text is a prompt."""
    return line_record(value) if isinstance(value, str) else as_record(value)


def members_of(value: dict[str, Any], keys: Sequence[str]) -> list[Any]:
    """Return the records of an object: itself, or those of its only list of objects or of texts."""
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(m, dict | str) for m in v)]
    return lists[0] if len(lists) == 1 and not any(key in value for key in keys) else [value]


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


def sha256_of(items: Sequence[Any]) -> str:
    """Return the hash of what is measured: prompts, or texts."""
    return sha256(repr(tuple(items)).encode(errors="surrogatepass")).hexdigest()
