"""Drafts from the text itself, without a draft model: n-grams counted as it grows, and prompt look-up.

What is proposed depends on the past alone and is a point mass. So the exact rule accepts x with probability p(x) and
replaces it from p without x; drawing the replacement from p itself would make x too likely.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from acceptance.models.source import source_tokens

from .batch import Batch, Floats, Ints
from .chain import Proposal, Verdict
from .method import Begin, Method, Models, Options, chains


class Memory(Protocol):
    """What is known of one sequence."""

    def learn(self, text: Sequence[int], at: int, considered: Sequence[int]) -> None:
        """Take note of text[at], and of what the target considered for that place."""

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """Continue a text by at most so many tokens."""


class Store:
    """N-grams of one sequence: how often each token followed contexts of 1 to n - 1 tokens.

    The longest known context decides, by its most frequent token; of equally frequent ones the first that was.
    """

    def __init__(self, n: int, under: "Store | None" = None) -> None:
        """Begin with what another store has counted, which stays as it is; or with nothing.

        The longest n-gram is of n >= 2 tokens, context and token, in both.
        """
        self.widest, self.under = n - 1, under
        self.counts: dict[tuple[int, ...], dict[int, int]] = {}
        self.best: dict[tuple[int, ...], int] = {}

    def learn(self, text: Sequence[int], at: int, considered: Sequence[int]) -> None:
        """Count text[at] and each token that was considered, behind every context before it."""
        for width in range(1, min(self.widest, at) + 1):
            context = tuple(text[at - width : at])
            counts = self.counts.get(context)
            if counts is None:
                counts = self.counts[context] = dict(self.under.counts.get(context, {})) if self.under else {}
            known = self.best_behind(context)
            best = text[at] if known is None else known
            for token in (text[at], *considered):
                counts[token] = counts.get(token, 0) + 1
                if counts[token] > counts[best]:
                    best = token
            self.best[context] = best

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """Follow the most frequent token, again and again, up to an unknown context."""
        before, drafted = list(text[-self.widest :]), list[int]()
        while len(drafted) < most and (token := self.next_token(before)) is not None:
            drafted.append(token)
            before.append(token)
        return drafted

    def next_token(self, before: Sequence[int]) -> int | None:
        """Return the most frequent token behind the longest known context; None if not even the last token is known."""
        for width in range(min(self.widest, len(before)), 0, -1):
            token = self.best_behind(tuple(before[-width:]))
            if token is not None:
                return token
        return None

    def best_behind(self, context: tuple[int, ...]) -> int | None:
        """Return the most frequent token behind a context; None if it is unknown."""
        token = self.best.get(context)
        return self.under.best.get(context) if token is None and self.under else token


class Suffixes(Store):
    """Suffix decoding (Oliaro et al. 2024, arXiv 2411.04975), by the usual settings of vLLM's.

    What followed the text's last 1 to DEPTH tokens where they stood before is followed as far as they are long, token
    by token the most frequent, while its share of what was seen stays LEAST; the most tokens to be hoped for win.
    """

    DEPTH, LEAST = 24, 0.1

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """Follow the ends of the text, the shortest first; what is unknown behind one is so behind all longer ones."""
        drafted, hoped = list[int](), 0.0
        for width in range(1, min(self.widest, len(text)) + 1):
            if self.best_behind(tuple(text[-width:])) is None:
                break
            found, hope = self.follow(list(text[-width:]), min(most, width))
            if hope >= hoped:
                drafted, hoped = found, hope
        return drafted

    def follow(self, before: list[int], most: int) -> tuple[list[int], float]:
        """Return the tokens behind a context, and how many of them to expect by what was seen."""
        begin, share, hope = len(before), 1.0, 0.0
        while len(before) < min(begin + most, self.widest + 1):
            context = tuple(before)
            token = self.best_behind(context)
            if token is None:
                break
            counts = self.counts.get(context) or (self.under.counts[context] if self.under else {})
            share *= counts[token] / sum(counts.values())
            if share < self.LEAST:
                break
            hope += share
            before.append(token)
        return before[begin:], hope


class Index:
    """Where each n-gram of one sequence first went on."""

    def __init__(self, most: int) -> None:
        """Begin with nothing read; the longest n-gram that is looked up is of `most` tokens, >= 1."""
        self.most = most
        self.first: dict[tuple[int, ...], int] = {}

    def learn(self, text: Sequence[int], at: int, considered: Sequence[int]) -> None:
        """Note that the n-grams before text[at] go on there, unless one did before."""
        for width in range(1, min(self.most, at) + 1):
            self.first.setdefault(tuple(text[at - width : at]), at)

    def draft(self, text: Sequence[int], most: int) -> list[int]:
        """Copy what followed the first occurrence of the longest suffix that occurred before."""
        for width in range(min(self.most, len(text)), 0, -1):
            at = self.first.get(tuple(text[-width:]))
            if at is not None:
                return list(text[at : at + most])
        return []


class TextDraft:
    """Proposes what a memory of each row's own text says."""

    def __init__(self, memory: Callable[[], Memory], *, filler_top_k: int = 1) -> None:
        """Say what makes the memory of a row.

        With filler_top_k above 1, so many first choices of the target, by its logits, are learnt at each committed
        position, too; the committed token, if it is one of them, a second time. At 1 it alone is learnt.
        """
        self.memory, self.fillers = memory, filler_top_k if filler_top_k > 1 else 0

    def start(self, batch: Batch, prompts: Sequence[Sequence[int]]) -> None:
        """Learn the prompts, behind what an encoder reads of them."""
        self.leads = [len(source_tokens(prompt)) for prompt in prompts]
        self.texts = [[*source_tokens(prompt), *prompt] for prompt in prompts]
        self.memories = [self.memory() for _ in prompts]
        for text, memory in zip(self.texts, self.memories, strict=True):
            for at in range(len(text)):
                memory.learn(text, at, ())

    def propose(self, batch: Batch, lengths: Ints, numbers: Floats) -> Proposal:
        """Ask each row's memory."""
        rows = zip(self.memories, self.texts, lengths.tolist(), strict=True)
        drafts = [memory.draft(text, length) for memory, text, length in rows]
        drafted = np.array([len(d) for d in drafts])
        tokens = np.zeros((len(drafts), int(drafted.max())), np.int64)
        for row, draft in zip(tokens, drafts, strict=True):
            row[: len(draft)] = draft
        return Proposal(tokens=torch.from_numpy(tokens), lengths=drafted, passes=np.zeros_like(drafted))

    def learn(self, batch: Batch, verdict: Verdict, committed: Ints) -> None:
        """Learn what is committed, and what else the target considered there."""
        logits = verdict.seen.logits
        most = min(self.fillers, logits.shape[-1])
        considered = logits.topk(most).indices.tolist() if most else None
        ends = batch.lengths.tolist()
        for row, (text, memory, end) in enumerate(zip(self.texts, self.memories, ends, strict=True)):
            begin, lead = len(text), self.leads[row]
            text.extend(batch.tokens[row, begin - lead : end].tolist())
            for at in range(begin, lead + end):
                memory.learn(text, at, considered[row][at - begin] if considered else ())

    def select(self, rows: Ints) -> None:
        """Keep only these rows."""
        self.leads, self.texts = [self.leads[row] for row in rows], [self.texts[row] for row in rows]
        self.memories = [self.memories[row] for row in rows]


def over_text(
    name: str,
    summary: str,
    memory: Callable[[Models, Options], Callable[[], Memory]],
    filler_top_k: Callable[[Options], int] = lambda options: 1,
) -> Method:
    """Return a method that drafts from what a memory of the text says."""

    def begin(models: Models, options: Options) -> Begin:
        fillers, begun = filler_top_k(options), memory(models, options)
        return chains(models.target, lambda: TextDraft(begun, filler_top_k=fillers), options.k, sampler=options.sampler)

    return Method(name=name, summary=summary, batched=True, begin=begin)


def stores(models: Models, n: int, kind: type[Store] = Store) -> Callable[[], Memory]:
    """Return what begins a store of one sequence: all begin with what the texts say, and none learns of another."""
    if not models.texts:
        return lambda: kind(n)
    known = kind(n)
    for text in models.texts:
        for at in range(len(text)):
            known.learn(text, at, ())
    return lambda: kind(n, known)


# ANPD (Ou et al. 2024, arXiv 2404.08698) counts the prompt and what is committed. NASD also counts, at every verified
# position that is committed, the target's first choices: those it did not take may be what follows next time.
METHODS = (
    over_text(
        "ngram",
        "n-grams of the text so far and of what the target considered (NASD), no draft model",
        lambda models, options: stores(models, options.ngram),
        lambda options: options.filler_top_k,
    ),
    over_text(
        "anpd",
        "n-grams of the text so far (ANPD), no draft model",
        lambda models, options: stores(models, options.ngram),
    ),
    over_text(
        "suffix",
        "what followed the longest ends of the text before (suffix decoding), no draft model",
        lambda models, _: stores(models, Suffixes.DEPTH + 1, Suffixes),
    ),
    # A longest n-gram of 3, context and token, looks up 2 tokens.
    over_text(
        "prompt-lookup",
        "copies what followed the text's last tokens where they first occurred, no draft model",
        lambda _, options: lambda: Index(options.ngram - 1),
    ),
)
# Methods whose memory is a Store.
OF_STORES = ("ngram", "anpd", "suffix")
