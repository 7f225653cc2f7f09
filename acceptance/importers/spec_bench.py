"""Answers of Spec-Bench, EAGLE, Medusa: JSONL, one question a line, with the tokens of each step, or of each turn."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, lines_of, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Records, Skipped, read_each

from .counters import Counters, import_counters
from .imported import Imported, histogram_from, settle_k
from .values import count_of, record_of

EXPECTED = (
    '{"question_id": ..., "choices": [{"accept_lengths": [3, 1, ...]}]} a line, or "new_tokens" with "idxs" or '
    '"decoding_steps" in its place'
)
WITH_BONUS = (
    "accept_lengths are the tokens that each step emitted, the target's own token in, so a step of length L "
    "accepted L - 1 drafts"
)
WITHOUT_BONUS = (
    "accept_lengths leave the target's own token out, as {evidence}, so a step of length L accepted L drafts and "
    "emitted L + 1 tokens"
)
OF_TURNS = (
    "new_tokens are the tokens of each turn, the target's own in, and idxs the index of its last step, so tokens a "
    "round are the sum of new_tokens over the sum of idxs + 1 (of decoding_steps, where those are given)"
)
NOTES = (
    "tokens past the end of the sequence may be counted in the last step of a turn",
    "steps of length 1 are rounds with no accepted draft, whether or not anything was drafted",
    "for a draft tree K is its depth, not the number of drafted tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Steps of one question by the length that the file states; tokens, steps and number of its turns, 0 without."""

    line: int
    question: str
    lengths: Counter[int]
    tokens: int
    steps: int
    turns: int


def read(path: Path, k: int | None) -> Imported:
    """Import the answers file of a run; see `import_histogram`."""
    records = read_each(path, lines_of(path), lambda text, line: read_answer(record_of(text), line), EXPECTED)
    notes = (*NOTES, *note_on_repeats(records.rows))
    with_lengths = [answer for answer in records.rows if answer.lengths]
    if not with_lengths:
        return import_turns(records, k, notes)
    reason = "no list under 'accept_lengths', as other lines have"
    left_out = [Skipped(line=a.line, reason=reason) for a in records.rows if not a.lengths]
    lengths: Counter[int] = Counter()
    for answer in with_lengths:
        lengths.update(answer.lengths)
    own, meaning = own_tokens(path, lengths, with_lengths)
    longest = max(lengths) - own
    k, source = settle_k(
        path, requested=k, stated=None, at_least=longest, evidence="the most drafts that a step accepted"
    )
    return Imported(
        histogram=histogram_from(path, [lengths[a + own] for a in range(k + 1)], k),
        definition=f"{meaning}; {source}.",
        notes=notes,
        skipped=tuple(sorted((*records.skipped, *left_out), key=lambda s: s.line)),
    )


def own_tokens(path: Path, lengths: Counter[int], answers: list[Answer]) -> tuple[int, str]:
    """Return how many of a step's length are the target's own tokens, 1 or 0, and the definition that says so.

    Raises:
        UserError: The tokens of all turns are those of neither reading.
    """
    steps, total = lengths.total(), sum(length * count for length, count in lengths.items())
    tokens, is_known = sum(answer.tokens for answer in answers), all(answer.tokens for answer in answers)
    # A turn may begin with a token of the prefill, and end within its last step.
    slack = sum(answer.turns for answer in answers) * (max(lengths) + 1)
    readings = [total + steps] if lengths[0] else [total, total + steps]
    if is_known and min(abs(tokens - reading) for reading in readings) > slack:
        expected = " or ".join(f"{reading:,}" for reading in readings)
        said = f"new_tokens sum to {tokens:,}, but accept_lengths to {total:,} in {steps:,} steps"
        raise UserError(
            f"{path}: {said}, expected about {expected} (leave new_tokens out where they are of another run)"
        )
    if lengths[0]:
        return 0, WITHOUT_BONUS.format(evidence="its zeros show")
    if is_known and abs(tokens - total - steps) < abs(tokens - total):
        return 0, WITHOUT_BONUS.format(evidence=f"{tokens:,} new_tokens in {steps:,} steps of {total:,} show")
    return 1, WITH_BONUS


def import_turns(records: Records[Answer], k: int | None, notes: tuple[str, ...]) -> Imported:
    """Reconstruct a histogram from the tokens and steps of all turns."""
    tokens, steps = (sum(getattr(answer, name) for answer in records.rows) for name in ("tokens", "steps"))
    if tokens < steps:
        raise UserError(f"{records.path}: {tokens} new_tokens in {steps} steps, expected one a step at least")
    counters = Counters(rounds=steps, drafted=None, accepted=tokens - steps, per_position=())
    return import_counters(records.path, counters, k, meaning=OF_TURNS, notes=notes, skipped=records.skipped)


def note_on_repeats(answers: tuple[Answer, ...]) -> tuple[str, ...]:
    """Return the note on questions that were answered more than once in one file."""
    repeated = len(answers) - len({answer.question for answer in answers})
    if not repeated:
        return ()
    return (f"lines that answer a question of an earlier line: {repeated}; all of them are counted",)


def read_answer(record: Field, line: int) -> Answer:
    """Read one question."""
    lengths: Counter[int] = Counter()
    tokens = steps = turns = 0
    for choice in record["choices"].elements():
        lengths.update(read_lengths(choice))
        of_turns = read_turns(choice)
        tokens, steps, turns = tokens + of_turns[0], steps + of_turns[1], turns + of_turns[2]
    if not lengths and not (tokens and steps):
        raise BadRecord("accept_lengths is empty")
    question = record["question_id"].value
    name = f"line {line}" if question is None else shortened(question)
    return Answer(line=line, question=name, lengths=lengths, tokens=tokens, steps=steps, turns=turns)


def read_lengths(choice: Field) -> list[int]:
    """Return the lengths of one choice, none where it has its turns' tokens instead; see `read_answer`."""
    # Spec-Bench writes ERROR for a turn that failed and counts the steps of the turn before it once more.
    turns = choice["turns"].value
    if isinstance(turns, list) and "ERROR" in turns:
        raise BadRecord("a turn failed (ERROR), its steps are those of another turn")
    lengths = choice["accept_lengths"]
    if not lengths.is_given and choice["new_tokens"].is_given:
        return []
    return [n.whole(0, MAX_DRAFT_LENGTH + 1) for n in lengths.elements()]


def read_turns(choice: Field) -> tuple[int, int, int]:
    """Return tokens, steps and number of one choice's turns, all 0 where it does not have them; see `read_answer`."""
    tokens, stated, last = (choice[name] for name in ("new_tokens", "decoding_steps", "idxs"))
    steps = [count_of(n) for n in stated.elements()] if stated.is_given else []
    if not steps and last.is_given:
        steps = [count_of(n) + 1 for n in last.elements()]
    if not tokens.is_given or not steps:
        return 0, 0, 0
    counts = [count_of(n) for n in tokens.elements()]
    if len(counts) != len(steps):
        raise BadRecord(f"{tokens.place} has {len(counts)} turns, but {len(steps)} have steps")
    return sum(counts), sum(steps), len(counts)
