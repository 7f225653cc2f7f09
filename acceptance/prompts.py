"""Prompts from a file: JSONL of {"prompt": ...}, or plain text with one prompt a line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.artefacts import UserError, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text for the target to continue, and where it came from."""

    text: str
    source: str


def load_prompts(path: Path) -> list[Prompt]:
    """Read prompts; the suffix .jsonl decides the format.

    Raises:
        UserError: Names the file, the line and what is wrong, or says that no prompt is in it.
    """
    read = read_jsonl_line if path.suffix == ".jsonl" else read_plain_line
    # Not splitlines(): JSON strings may hold U+2028, which is no line end to a JSONL writer.
    lines = enumerate(read_text(path).split("\n"), 1)
    prompts = [read(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path}: holds no prompts, expected at least one")
    return prompts


def read_plain_line(line: str, where: str) -> Prompt:
    return Prompt(text=line, source=where)


def read_jsonl_line(line: str, where: str) -> Prompt:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f'{where}: not JSON, expected {{"prompt": "..."}}') from None
    text = record.get("prompt") if isinstance(record, dict) else None
    if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{where}: prompt holds half a surrogate pair, expected Unicode text")
    if not isinstance(text, str) or not text:
        raise UserError(f'{where}: no text under "prompt", expected {{"prompt": "..."}}')
    return Prompt(text=text, source=str(record.get("source", where)))
