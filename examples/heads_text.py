"""What heads learn from: windows of a stream of text, or whole texts that their target wrote itself.

Helps train_heads.py; does nothing by itself.
"""

import hashlib
import json
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from train_tiny_pair import (
    HELD_OUT_ONE_IN,
    batches,
    describe_data,
    encode,
    is_held_out,
    read_sources,
    read_texts,
)
from training import Recipe

from acceptance.models.model import Model
from acceptance.text.texts import load_texts
from simulator.ground.artefacts import UserError

# Batches of whole texts of about one length are cut from so many at a time.
SORTED_BATCHES = 16
# How features are kept.
KEPT = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens to learn from, [rows, n]; which of the laws behind them count, [rows, n]; and which texts the rows are."""

    tokens: torch.Tensor
    counts: torch.Tensor
    texts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A text of a target's own: its tokens, and how many of them it was given."""

    tokens: list[int]
    given: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What is learned from, and what is held out: streams of tokens, or whole texts; and what is said of them."""

    learned: Any
    held_out: Any
    about: dict[str, Any]

    def windows(self, recipe: Recipe) -> Iterator[Window]:
        """Yield batches to learn from, without end."""
        if isinstance(self.learned, torch.Tensor):
            return map(of_stream, batches(self.learned, recipe))
        return batches_of_texts(self.learned, recipe)

    def measured(self, recipe: Recipe, most: int, *, learned: bool = False) -> Iterator[Window]:
        """Yield windows from all over what is held out, or learned; at most so many."""
        source = self.learned if learned else self.held_out
        if isinstance(source, torch.Tensor):
            usable = source[: len(source) // recipe.seq_len * recipe.seq_len].view(-1, recipe.seq_len)
            yield from map(of_stream, usable[spread(len(usable), most)].to(recipe.device).split(recipe.batch_size))
            return
        for row in spread(len(source), most).tolist():
            yield window_of(source, [row], recipe, kept=False)

    def common_tokens(self, size: int, vocabulary: int) -> torch.Tensor:
        """Return the tokens that a target writes most; of equals those with the lower names, which BPE found first."""
        texts = self.learned
        counts: Counter[int] = Counter(
            texts.tolist() if isinstance(texts, torch.Tensor) else (t for w in texts for t in w.tokens[w.given :])
        )
        return torch.tensor(sorted(range(vocabulary), key=lambda token: (-counts[token], token))[:size])

    def share_of(self, tokens: torch.Tensor) -> float:
        """Return how much of what is held out is among these tokens."""
        texts = self.held_out
        held = (
            texts if isinstance(texts, torch.Tensor) else torch.tensor([t for w in texts for t in w.tokens[w.given :]])
        )
        return float(torch.isin(held, tokens).double().mean())


def spread(count: int, most: int) -> torch.Tensor:
    """Return at most so many numbers below `count`, evenly spread."""
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, most).astype(int)))


def of_stream(tokens: torch.Tensor) -> Window:
    """Return a window of a stream, all of whose laws count."""
    return Window(tokens, torch.ones_like(tokens, dtype=torch.bool))


def window_of(texts: Sequence[Written], rows: Sequence[int], recipe: Recipe, *, kept: bool = True) -> Window:
    """Return some texts as a window: what the target wrote counts, and its end does not."""
    tokens = [torch.tensor(texts[row].tokens[: recipe.seq_len]) for row in rows]
    counts = [torch.arange(len(t)) >= texts[row].given - 1 for t, row in zip(tokens, rows, strict=True)]
    for count in counts:
        count[-1] = False
    padded = (pad_sequence(part, batch_first=True).to(recipe.device) for part in (tokens, counts))
    return Window(*padded, tuple(rows) if kept else ())


def batches_of_texts(texts: Sequence[Written], recipe: Recipe) -> Iterator[Window]:
    """Yield batches of texts of about one length, round after round, each time in another order."""
    rng = np.random.default_rng(recipe.seed)
    rows = min(recipe.batch_size, len(texts))
    while True:
        order = rng.permutation(len(texts))
        for first in range(0, len(order), rows * SORTED_BATCHES):
            some = sorted(order[first : first + rows * SORTED_BATCHES].tolist(), key=lambda row: len(texts[row].tokens))
            starts = list(range(0, len(some), rows))
            for start in rng.permutation(starts).tolist():
                yield window_of(texts, some[start : start + rows], recipe)


def read(text: Path | None, tokenizer: Callable[[], Any], seq_len: int) -> Learned:
    """Read a folder of texts, or a file of what the target wrote; the standard library's sources if there is none.

    tokenizer: loads it, where texts are no token ids yet.
    """
    if text and text.is_file():
        return read_written(text, tokenizer, seq_len)
    return read_streams(text, tokenizer(), seq_len)


def read_written(path: Path, tokenizer: Callable[[], Any], seq_len: int) -> Learned:
    """Read what the target wrote; of a prompt with several answers all are held out, or none."""
    written: dict[bool, list[Written]] = {False: [], True: []}
    try:
        texts = load_texts(path).rows
    except UserError as error:
        raise UserError(f"--text {error}") from None
    for text in texts:
        given, output = (
            list(part) if isinstance(part, tuple) else tokenizer()(part, add_special_tokens=special).input_ids
            for part, special in ((text.prompt, True), (text.output, False))
        )
        if len(given) + 1 < seq_len and len(output) > 1:
            written[is_held_out(json.dumps(given))].append(Written([*given, *output], len(given)))
    learned, held_out = written[False], written[True]
    if not learned or not held_out:
        count = len(learned) + len(held_out)
        raise UserError(f"--text {path}: {count} texts are too few, some have to be held out")
    about = {
        "texts": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "texts_train": len(learned),
        "texts_held_out": len(held_out),
        "split": f"held out when sha256(prompt) mod {HELD_OUT_ONE_IN} == 0",
    }
    names = {"tokens_train": learned, "tokens_held_out": held_out}
    about |= {name: sum(min(len(w.tokens), seq_len) - w.given for w in part) for name, part in names.items()}
    return Learned(learned, held_out, about)


def read_streams(text: Path | None, tokenizer: Any, seq_len: int) -> Learned:
    """Read a folder of texts as streams."""
    sources = read_texts(text) if text else read_sources(Path(sysconfig.get_path("stdlib")))
    held_out = {p: t for p, t in sources.items() if is_held_out(p)}
    learned = [t for p, t in sources.items() if p not in held_out]
    if not learned or not held_out:
        raise UserError(f"--text {text}: {len(sources)} files are too few, some have to be held out")
    streams = encode(tokenizer, learned), encode(tokenizer, list(held_out.values()))
    if min(map(len, streams)) < seq_len + 2:
        least = min(map(len, streams))
        raise UserError(f"--text {text}: {least} tokens are too few, expected more than --seq-len {seq_len}")
    about = describe_data(sources, held_out) | {"tokens_train": len(streams[0]), "tokens_held_out": len(streams[1])}
    if text:
        about |= {"corpus": text.name, "left_out": []}
    return Learned(*streams, about)


class Reading:
    """A target that reads windows; what it made of whole texts is kept, up to so many bytes."""

    def __init__(self, target: Model, room: int) -> None:
        """Begin with nothing kept."""
        self.target, self.room, self.kept = target, room, dict[int, torch.Tensor]()

    @torch.no_grad()
    def __call__(self, window: Window) -> torch.Tensor:
        """Return the target's hidden states at every position of a window, [rows, n, d]."""
        if window.texts and all(text in self.kept for text in window.texts):
            rows = [self.kept[text] for text in window.texts]
            return pad_sequence(rows, batch_first=True).to(window.tokens.device, self.target.module.dtype)
        # Padding stands behind the texts, where they do not see it.
        read = self.target.module(window.tokens, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        hidden: torch.Tensor = read.hidden_states[-1]
        if window.texts:
            hidden = hidden.to(KEPT).to(hidden.dtype)
        lengths = window.counts.shape[1] - window.counts.flip(1).int().argmax(1)
        for text, row, length in zip(window.texts, hidden, lengths.tolist(), strict=False):
            # One behind the last that counts: a head learns to say it too.
            held = row[: length + 1].to("cpu", KEPT)
            if text not in self.kept and held.nbytes <= self.room:
                self.kept[text], self.room = held.clone(), self.room - held.nbytes
        return hidden
