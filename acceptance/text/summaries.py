"""Texts to sum up and what a person made of each, in any format that prompts come in."""

from dataclasses import dataclass, replace
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.records import BadRecord

from .prompts import DATASETS, Prompt, PromptFile, open_prompts, read_first, unique_names
from .said import category_of, in_known_case, key_of, source_of

# What CNN/DailyMail, XSum, SAMSum, PubMed and others call them.
TEXTS = ("article", "document", "dialogue", "text", "prompt", "input")
REFERENCES = ("highlights", "summary", "abstract", "reference", "target", "output")
HOLE = "{text}"
PLAIN, CHAT = f"{HOLE}\n\nSummary:", f"Summarize the following text in three sentences.\n\n{HOLE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summaries(PromptFile):
    """Prompts that ask for a summary, and the reference of each in the same order."""

    references: tuple[str, ...]


def load_summaries(
    path: Path,
    template: str,
    dataset: str = "auto",
    *,
    column: str | None = None,
    reference: str | None = None,
    limit: int | None = None,
) -> Summaries:
    """Read texts with their references, skipping records that lack either.

    Args:
        path: The file, in any format that `prompts.load_prompts` reads but text.
        template: How a text is put to the model; HOLE stands for it.
        dataset: One of prompts.DATASETS that is a kind of file, or "auto".
        column, reference: The key or column of the text, and of the reference; None: the first of the usual ones.
        limit: The first so many usable records; None: all.

    Raises:
        UserError: The file cannot be read or holds no usable record, or an argument is not allowed.
    """
    if dataset not in DATASETS:
        raise UserError(f"dataset is {dataset!r}, expected {', '.join(DATASETS)}")
    if HOLE not in template:
        raise UserError(f"--template: {template!r} has no place for the text, expected {HOLE} in it")
    texts = TEXTS if column is None else (column,)
    references = REFERENCES if reference is None else (reference,)
    opened = open_prompts(path, dataset, texts, "" if column is None else "--column")
    keys: dict[str, None] = {}

    def read(item: object, where: str) -> tuple[Prompt, str]:
        record = in_known_case(in_known_case(opened.parse(item), texts), references)
        key, key_of_reference = key_of(record, texts), first_of(record, references)
        keys.setdefault(f"{key} with {key_of_reference}")
        turn = template.replace(HOLE, record[key].text())
        prompt = Prompt(turns=(turn,), source=source_of(record, where), category=category_of(record))
        return prompt, record[key_of_reference].text()

    expected = f'{{"{texts[0]}": "...", "{references[0]}": "..."}}'
    records = read_first(path, opened.items, read, limit, expected, opened.place)
    names = unique_names(prompt.source for prompt, _ in records.rows)
    return Summaries(
        path=path,
        rows=tuple(replace(prompt, source=name) for name, (prompt, _) in zip(names, records.rows, strict=True)),
        skipped=records.skipped,
        place=records.place,
        read_as=f"{opened.kind}, {' and '.join(keys)}",
        references=tuple(text for _, text in records.rows),
    )


def first_of(record: Field, keys: tuple[str, ...]) -> str:
    """Return under which key a reference stands."""
    key = next((k for k in keys if record[k].is_given), None)
    if key is None:
        raise BadRecord(f"no reference under {' or '.join(keys)}")
    return key
