"""Texts that the target has already generated, as a server logged them: what stood before and what it wrote."""

from dataclasses import dataclass, replace
from pathlib import Path

from simulator.ground.fields import Field, lines_of
from simulator.ground.records import BadRecord, Records, record_of

from .prompts import read_first, unique_names
from .said import category_of, source_of

PROMPT_IDS, PROMPT_TEXTS = ("prompt_token_ids",), ("prompt",)
OUTPUT_IDS, OUTPUT_TEXTS = ("output_token_ids", "token_ids"), ("output", "response", "completion", "text")
# A trace keeps tokens in 32 bits.
LARGEST_ID = 2**31 - 1
EXPECTED = '{"prompt": "...", "output": "..."} or {"prompt_token_ids": [...], "output_token_ids": [...]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A prompt and what the target wrote after it.

    prompt, output: Text, or token ids.
    ended: Whether the target ended a text with end of sequence, which the text does not show; False for token ids,
        which hold it themselves.
    source: Finds it again, and no other: the record's own id if it has one, else "FILE-NAME:LINE".
    category: The kind of task, or "".
    """

    prompt: str | tuple[int, ...]
    output: str | tuple[int, ...]
    ended: bool
    source: str
    category: str = ""


def load_texts(path: Path, *, limit: int | None = None) -> Records[Text]:
    """Read logged texts from JSONL, skipping lines that cannot be used.

    Where a record holds token ids and text, the ids count: they are what the target wrote, whereas a text may be
    split into other tokens.

    Args:
        path: The file.
        limit: The first so many usable texts; None: all. What follows them is not read.

    Raises:
        UserError: The file cannot be read or holds no usable text, or `limit` is out of range.
    """
    records = read_first(path, lines_of(path), read_line, limit, EXPECTED)
    names = unique_names(t.source for t in records.rows)
    return replace(records, rows=tuple(replace(t, source=n) for t, n in zip(records.rows, names, strict=True)))


def read_line(line: str, where: str) -> Text:
    record = record_of(line)
    output = text_or_ids(record, OUTPUT_IDS, OUTPUT_TEXTS)
    return Text(
        prompt=text_or_ids(record, PROMPT_IDS, PROMPT_TEXTS),
        output=output,
        ended=ended_by_itself(record) and isinstance(output, str),
        source=source_of(record, where),
        category=category_of(record),
    )


def text_or_ids(record: Field, id_keys: tuple[str, ...], text_keys: tuple[str, ...]) -> str | tuple[int, ...]:
    """Return what stands under the first key that is there, those of token ids before those of text."""
    key = next((k for k in (*id_keys, *text_keys) if record[k].is_given), None)
    if key is None:
        raise BadRecord(f"no {' or '.join((*text_keys, *id_keys))}")
    if record[key].value in ("", []):
        raise BadRecord(f"{key} is empty")
    return record[key].text() if key in text_keys else tuple(t.whole(0, LARGEST_ID) for t in record[key].elements())


def ended_by_itself(record: Field) -> bool:
    """Return whether a record says that the target stopped of its own accord; one that says nothing does not."""
    reason = record["finish_reason"]
    return reason.is_given and reason.text(empty=True) == "stop"
