"""Which of a draft's mismatches matter, mined as in AutoJudge (arXiv 2504.20039): swap one in, compare the answers.

y is the target's greedy answer to a prompt. At each position where the draft's first choice differs from y, from left
to right, the draft's token is put in its place and the target goes on greedily. If the answer stays the same the
mismatch is unimportant, and the walk goes on along the new text; otherwise it is important and y stays. Features are
what a decoder will have at that token: the last hidden states of both models as they read it, behind the same text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.decoders import baseline
from acceptance.models.context import Context, padded
from acceptance.models.model import Model, hidden_size_of
from acceptance.models.rule import SamplingRule

Features = NDArray[np.float32]
# Of a text and the one with a draft's token in it, both from the first answered token on: is it the same answer?
SameAnswer = Callable[[Sequence[int], Sequence[int]], bool]
GREEDY = SamplingRule(temperature=0.0)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """The answer is the last number in the text, as in GSM8K; a text without one equals none.

    tokenizer: turns tokens into text.
    """

    tokenizer: Any

    def __call__(self, reference: Sequence[int], alternative: Sequence[int]) -> bool:
        """Compare two answers."""
        texts = (self.tokenizer.decode(t, skip_special_tokens=True) for t in (reference, alternative))
        expected, answer = map(last_number, texts)
        return expected is not None and answer == expected


def last_number(text: str) -> float | None:
    """Return the last number in a text, which may have commas between its digits."""
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoin:
    """For text without an answer: the alternative has to return to the reference's own text.

    With s the first position that differs, it does if alternative[i : i + least] = reference[j : j + least] for some
    i > s and j >= s with |i - j| <= shift, both pieces within the `window` tokens from s on. Where both texts end
    before the window does, it is enough that all of the alternative behind s is the end of the reference.

    window: tokens from the swap on, itself among them. least: tokens that have to be equal. shift: tokens that the
    alternative may be longer or shorter by.
    """

    window: int = 64
    least: int = 16
    shift: int = 4

    def __call__(self, reference: Sequence[int], alternative: Sequence[int]) -> bool:
        """Compare two texts."""
        swap = shared(reference, alternative)
        expected, actual = (list(t[swap : swap + self.window]) for t in (reference, alternative))
        if len(expected) < self.window and len(actual) < self.window:
            tails = (expected[j:] for j in range(min(self.shift + 2, len(expected))))
            if any(actual[1:] == tail for tail in tails):
                return True
        for shift in range(-self.shift, self.shift + 1):
            first = max(1, -shift)
            equal = [a == b for a, b in zip(actual[first:], expected[first + shift :], strict=False)]
            if longest_run(equal) >= self.least:
                return True
        return False


def longest_run(flags: Sequence[bool]) -> int:
    """Return the length of the longest stretch of true ones."""
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """Mismatches.

    features: hidden states of the draft, then of the target, at the draft's token, [mismatches, d_draft + d_target].
    important: whether the answer changed. prompt, position: where, as indices. token: the draft's.
    """

    features: Features
    important: NDArray[np.bool_]
    prompt: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]


class Reader:
    """A model and the texts it has read, one a row; the next texts are read from where they differ."""

    def __init__(self, model: Model, rows: int) -> None:
        """Begin with nothing read."""
        self.context = Context(model, rows, keep_hidden=True)
        self.texts: list[list[int]] = [[] for _ in range(rows)]

    def read(self, texts: Sequence[list[int]], least: Sequence[int]) -> Any:
        """Read texts, of each at least so many of its last tokens anew.

        Returns:
            Logits behind as many last tokens as `least` is at most, [rows, most, vocabulary].
        """
        kept = [min(shared(old, new), len(new) - n) for old, new, n in zip(self.texts, texts, least, strict=True)]
        self.context.roll_back(np.array(kept))
        tokens, valid = padded([text[n:] for text, n in zip(texts, kept, strict=True)], self.context.model.device)
        self.texts = [list(text) for text in texts]
        return self.context.read(tokens, valid, max(least))

    def hidden(self) -> Features:
        """Return the hidden states at the last token of each text, [rows, d]."""
        assert self.context.hidden is not None
        return np.asarray(self.context.hidden[:, -1].float().cpu().numpy(), np.float32)

    def go_on(self, logits: Any, lengths: Sequence[int]) -> list[list[int]]:
        """Continue the texts greedily behind logits, [rows, vocabulary], up to lengths or their ends; return them."""
        budgets = [n - len(text) for text, n in zip(self.texts, lengths, strict=True)]
        more = baseline.go_on(self.context, logits, budgets, rule=GREEDY, keep_rows=True)
        texts = [text + new for text, new in zip(self.texts, more, strict=True)]
        self.texts = [text + new[:-1] for text, new in zip(self.texts, more, strict=True)]
        return texts

    def select(self, rows: NDArray[np.int64]) -> None:
        """Keep only these rows."""
        self.context.select(rows)
        self.texts = [self.texts[row] for row in rows]


@dataclass(slots=True, kw_only=True)
class Walk:
    """Where the walk over one prompt's answer is.

    index: of the prompt. begin: where the answer begins. text: the prompt and the answer as it stands. at: the position
    in `text` that is looked at next. end: the one behind the last to look at. most: tokens that the text may have.
    """

    index: int
    begin: int
    text: list[int]
    at: int
    end: int
    most: int


class Miner:
    """Walks the answers to some prompts at once, a mismatch of each at a time."""

    def __init__(
        self, target: Model, draft: Model, prompts: dict[int, list[int]], max_new_tokens: int, lookahead: int
    ) -> None:
        """Let the target answer; see `mine`."""
        self.draft, self.target = Reader(draft, len(prompts)), Reader(target, len(prompts))
        self.features: list[Features] = []
        self.rows: list[tuple[bool, int, int, int]] = []
        lengths = [len(p) + max_new_tokens + lookahead for p in prompts.values()]
        logits = self.target.read(list(prompts.values()), [1] * len(prompts))
        texts = self.target.go_on(logits[:, -1], lengths)
        self.walks = [
            Walk(index=i, begin=len(p), text=text, at=len(p), end=min(len(p) + max_new_tokens, len(text)), most=most)
            for (i, p), text, most in zip(prompts.items(), texts, lengths, strict=True)
        ]
        self.max_new_tokens = max_new_tokens

    def select(self, rows: Sequence[bool]) -> bool:
        """Keep only these walks; say whether there are any."""
        kept = np.flatnonzero(rows)
        if 0 < len(kept) < len(rows):
            self.draft.select(kept)
            self.target.select(kept)
        self.walks = [self.walks[row] for row in kept]
        return bool(len(kept))

    def find(self) -> list[int | None]:
        """Walk on to the draft's next mismatches; return its tokens there, none where it says what stands there."""
        left = [walk.end - walk.at for walk in self.walks]
        logits = self.draft.read([walk.text[: walk.end - 1] for walk in self.walks], left)
        mismatches: list[int | None] = []
        for walk, n, choices in zip(self.walks, left, logits.argmax(-1).tolist(), strict=True):
            ahead = shared(walk.text[walk.at : walk.end], choices[-n:])
            mismatches.append(choices[-n:][ahead] if ahead < n else None)
            walk.at += ahead
        return mismatches

    def label(self, tokens: Sequence[int], same_answer: SameAnswer) -> None:
        """Swap these tokens in, let the target go on, compare, and walk on along the text that stands."""
        texts = [[*walk.text[: walk.at], token] for walk, token in zip(self.walks, tokens, strict=True)]
        self.draft.read(texts, [1] * len(texts))
        logits = self.target.read(texts, [1] * len(texts))
        self.features.append(np.concatenate((self.draft.hidden(), self.target.hidden()), axis=1))
        ends = self.target.context.model.ends
        lengths = [0 if t in ends else walk.most for walk, t in zip(self.walks, tokens, strict=True)]
        texts = self.target.go_on(logits[:, -1], lengths)
        for walk, token, text in zip(self.walks, tokens, texts, strict=True):
            same = same_answer(walk.text[walk.begin :], text[walk.begin :])
            self.rows.append((not same, walk.index, walk.at - walk.begin, token))
            if same:
                walk.text, walk.end = text, min(walk.begin + self.max_new_tokens, len(text))
            walk.at += 1

    def run(self, same_answer: SameAnswer) -> None:
        """Walk all answers to their ends."""
        while self.select([walk.at < walk.end for walk in self.walks]):
            mismatches = self.find()
            if self.select([token is not None for token in mismatches]):
                self.label([token for token in mismatches if token is not None], same_answer)


def mine(
    target: Model,
    draft: Model,
    prompts: Sequence[Sequence[int]],
    same_answer: SameAnswer,
    *,
    max_new_tokens: int,
    lookahead: int,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda prompts: None,
) -> Mined:
    """Label every mismatch in the target's greedy answers to prompts.

    Args:
        target: A causal language model.
        draft: Another with the same vocabulary.
        prompts: Token ids, none empty.
        same_answer: What makes two answers the same.
        max_new_tokens: Positions of an answer that are walked.
        lookahead: Tokens that are generated behind those, for `same_answer` to see: `window` of `Rejoin`, else 0.
        batch_size: Prompts at a time.
        progress: Called with how many prompts are done, whenever there are more.

    Returns:
        The mismatches by prompt and position.
    """
    width = hidden_size_of(draft) + hidden_size_of(target)
    features, rows = [np.zeros((0, width), np.float32)], list[tuple[bool, int, int, int]]()
    for first in range(0, len(prompts), batch_size):
        batch = {first + i: list(p) for i, p in enumerate(prompts[first : first + batch_size])}
        miner = Miner(target, draft, batch, max_new_tokens, lookahead)
        miner.run(same_answer)
        features += miner.features
        rows += miner.rows
        progress(first + len(batch))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    order = np.lexsort((columns[2], columns[1]))
    important, prompt, position, token = columns[:, order]
    return Mined(
        features=np.concatenate(features)[order],
        important=important.astype(bool),
        prompt=prompt,
        position=position,
        token=token,
    )
