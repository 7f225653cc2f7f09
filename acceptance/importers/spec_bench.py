"""Answers of Spec-Bench: JSONL, one question a line, with the tokens that each step emitted."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from simulator.ground.fields import Field, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, read_jsonl

from .imported import Imported, histogram_from, settle_k

EXPECTED = '{"question_id": ..., "choices": [{"accept_lengths": [3, 1, ...]}]} a line'
MEANING = (
    "accept_lengths are the tokens that each step emitted, the target's own token in, so a step of length L "
    "accepted L - 1 drafts"
)
NOTES = (
    "tokens past the end of the sequence may be counted in the last step of a turn",
    "steps of length 1 are rounds with no accepted draft, whether or not anything was drafted",
    "for a draft tree K is its depth, not the number of drafted tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Steps of one question by the tokens that they emitted."""

    question: str
    lengths: Counter[int]


def read(path: Path, k: int | None) -> Imported:
    """Import the answers file of a Spec-Bench run; see `import_histogram`."""
    records = read_jsonl(path, read_answer, EXPECTED)
    lengths: Counter[int] = Counter()
    for answer in records.rows:
        lengths.update(answer.lengths)
    evidence = "the most drafts that a step accepted"
    k, source = settle_k(path, requested=k, stated=None, at_least=max(lengths) - 1, evidence=evidence)
    return Imported(
        histogram=histogram_from(path, [lengths[a + 1] for a in range(k + 1)], k),
        definition=f"{MEANING}; {source}.",
        notes=(*NOTES, *note_on_repeats(records.rows)),
        skipped=records.skipped,
    )


def note_on_repeats(answers: tuple[Answer, ...]) -> tuple[str, ...]:
    """Return the note on questions that were answered more than once in one file."""
    repeated = len(answers) - len({answer.question for answer in answers})
    if not repeated:
        return ()
    return (f"lines that answer a question of an earlier line: {repeated}; all of them are counted",)


def read_answer(record: Field, line: int) -> Answer:
    """Read one question."""
    lengths: Counter[int] = Counter()
    for choice in record["choices"].elements():
        lengths.update(read_choice(choice))
    if not lengths:
        raise BadRecord("accept_lengths is empty")
    question = record["question_id"].value
    return Answer(question=f"line {line}" if question is None else shortened(question), lengths=lengths)


def read_choice(choice: Field) -> list[int]:
    """Return the lengths of one choice; see `read_answer`."""
    # Spec-Bench writes ERROR for a turn that failed and counts the steps of the turn before it once more.
    turns = choice["turns"].value
    if isinstance(turns, list) and "ERROR" in turns:
        raise BadRecord("a turn failed (ERROR), its steps are those of another turn")
    return [n.whole(1, MAX_DRAFT_LENGTH + 1) for n in choice["accept_lengths"].elements()]
