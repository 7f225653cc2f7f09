"""What n-gram, look-up and suffix drafts accept of texts that are written: replayed, and no model runs.

Such a draft is a point mass. The exact rule accepts it where the target's own draw is it, and else keeps that draw. So
a text that the target wrote, at whatever temperature, is what decoding with these drafts would have written, and says
by itself how far each would have got.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.decoders.ngram import Index, Memory, Store, Suffixes
from acceptance.importers.imported import Imported
from acceptance.importers.request_rounds import RequestRounds, import_requests
from acceptance.importers.values import add_counts
from acceptance.models.load import load_tokenizer
from acceptance.text.texts import load_texts
from simulator.ground.records import Records

MEANING = (
    "texts of the target, replayed: a round drafts what the text so far says, up to K tokens, and accepts those that "
    "are the text's own; the histogram is of the rounds that drafted K tokens"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A text in tokens: what stood before, and what the target wrote; category: its kind of task."""

    before: Sequence[int]
    tokens: Sequence[int]
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The rounds of one output: drafted and accepted tokens of each."""

    drafted: Sequence[int]
    accepted: Sequence[int]

    @property
    def sums(self) -> NDArray[np.float64]:
        """Rounds, tokens, drafted and accepted ones, and rounds that drafted any."""
        drafted, accepted = np.array(self.drafted), np.array(self.accepted)
        count = len(drafted)
        return np.array([count, count + accepted.sum(), drafted.sum(), accepted.sum(), (drafted > 0).sum()], float)

    def by_length(self) -> dict[int, tuple[int, ...]]:
        """Return rounds by drafted tokens, of each by accepted ones."""
        rows: dict[int, list[int]] = {}
        for drafted, accepted in zip(self.drafted, self.accepted, strict=True):
            rows.setdefault(drafted, [0] * (drafted + 1))[accepted] += 1
        return {drafted: tuple(row) for drafted, row in rows.items()}


def total(rounds: Sequence[Replayed]) -> NDArray[np.float64]:
    """Return the sums of several outputs."""
    return np.asarray(np.sum([r.sums for r in rounds], axis=0), np.float64)


def read_outputs(path: Path, target: str) -> tuple[list[Output], list[str]]:
    """Read texts in tokens, those of `target` where they are no ids; and what there is to say of the file."""
    found = load_texts(path)
    in_ids = all(isinstance(part, tuple) for text in found.rows for part in (text.prompt, text.output))
    tokenizer: Any = None if in_ids else load_tokenizer("--target", target)

    def ids(part: str | tuple[int, ...], *, first: bool) -> Sequence[int]:
        return part if isinstance(part, tuple) else list(tokenizer(part, add_special_tokens=first).input_ids)

    outputs = [
        Output(before=ids(t.prompt, first=True), tokens=ids(t.output, first=False), category=t.category)
        for t in found.rows
    ]
    return outputs, found.notes()


def memories(ngram: int) -> Mapping[str, Callable[[], Memory]]:
    """Return what remembers a text, by the name of its method; ngram: longest n-gram, context and token."""
    return {
        "anpd": lambda: Store(ngram),
        "suffix": lambda: Suffixes(Suffixes.DEPTH + 1),
        "prompt-lookup": lambda: Index(ngram - 1),
    }


def replay(memory: Memory, output: Output, k: int) -> Replayed:
    """Decode a text that is known with drafts of at most K tokens; none reaches the last, which a round always adds."""
    text, whole = list[int](), [*output.before, *output.tokens]

    def read_to(end: int) -> None:
        while len(text) < end:
            text.append(whole[len(text)])
            memory.learn(text, len(text) - 1, ())

    drafted, accepted = list[int](), list[int]()
    read_to(len(output.before))
    while (at := len(text)) < len(whole):
        draft = memory.draft(text, min(k, len(whole) - at - 1))
        right = 0
        while right < len(draft) and draft[right] == whole[at + right]:
            right += 1
        drafted.append(len(draft))
        accepted.append(right)
        read_to(at + right + 1)
    return Replayed(drafted=drafted, accepted=accepted)


def histogram_of(path: Path, rounds: Sequence[Replayed], k: int) -> Imported:
    """Return all rounds as a histogram; path: where the texts are.

    Raises:
        UserError: No round drafted K tokens.
    """
    rows = [
        RequestRounds(line=line, k=k, counts=add_counts(list(table.values())), by_length=table, drafted=None)
        for line, table in enumerate((r.by_length() for r in rounds), 1)
    ]
    return import_requests(Records(path=path, rows=tuple(rows)), k, meaning=MEANING, notes=())
