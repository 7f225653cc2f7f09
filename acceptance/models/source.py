"""What stands before an output of an encoder-decoder model: a source, read once by the encoder, and first tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from . import compat
from .model import Model, Pair

# Token ids, or the features of a piece of sound, [channels, frames].
Source: TypeAlias = "tuple[int, ...] | torch.Tensor"


class Begun(tuple[int, ...]):
    """Tokens that a decoder begins with, and the source that stands before them: it stays whatever is added."""

    source: Source

    def __new__(cls, tokens: Iterable[int], source: Source) -> "Begun":
        """Take the decoder's first tokens, and what the encoder reads."""
        begun = super().__new__(cls, tokens)
        begun.source = source
        return begun

    @property
    def source_tokens(self) -> tuple[int, ...]:
        """The source as far as it is text."""
        return () if isinstance(self.source, torch.Tensor) else self.source

    def __add__(self, more: Iterable[int]) -> "Begun":  # type: ignore[override]
        """Return it with further tokens."""
        return Begun((*self, *more), self.source)

    def __eq__(self, other: object) -> bool:
        """Whether tokens and source are the same; features are where they are one tensor."""
        return isinstance(other, Begun) and tuple(self) == tuple(other) and self.key == other.key

    def __ne__(self, other: object) -> bool:
        """Whether anything differs."""
        return not self == other

    def __hash__(self) -> int:
        """Return the hash of both."""
        return hash((tuple(self), self.key))

    @property
    def key(self) -> tuple[int, ...] | int:
        """What tells the source from others."""
        return id(self.source) if isinstance(self.source, torch.Tensor) else self.source


def begun(model: Model, tokens: Sequence[int]) -> Sequence[int]:
    """Return how a model begins behind a text: its tokens, or of an encoder-decoder model the decoder's first."""
    return Begun(model.first, tuple(tokens)) if model.encodes else list(tokens)


def source_tokens(prompt: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens that an encoder reads; none where there is no encoder, or it reads features."""
    return prompt.source_tokens if isinstance(prompt, Begun) else ()


def read_tokens(prompt: Sequence[int]) -> list[int]:
    """Return all tokens that are read of a prompt: by an encoder, if there is one, and by what writes."""
    return [*source_tokens(prompt), *prompt]


def is_empty(prompt: Sequence[int]) -> bool:
    """Whether a user said nothing."""
    return len(prompt.source if isinstance(prompt, Begun) else prompt) == 0


def longer(prompt: Sequence[int], more: Sequence[int]) -> Sequence[int]:
    """Return a prompt with further tokens behind it."""
    return prompt + more if isinstance(prompt, Begun) else [*prompt, *more]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What an encoder made of the sources of a batch.

    states: [rows, longest, d]. mask: 1 where a source has a token, [rows, longest]; None where all are as long.
    """

    encoder: Any
    states: torch.Tensor
    mask: torch.Tensor | None

    def select(self, rows: NDArray[np.int64]) -> "Encoded":
        """Return that of these rows alone, in this order."""
        index = torch.from_numpy(rows).to(self.states.device)
        return Encoded(self.encoder, self.states[index], None if self.mask is None else self.mask[index])


@torch.inference_mode()
def encode(model: Model, prompts: Sequence[Sequence[int]], beside: Encoded | None = None) -> Encoded | None:
    """Let a model's encoder read the sources of prompts, padded on the right; None where it has no encoder.

    beside: what another model's encoder made of the same prompts, which is taken where it is the same encoder.
    """
    if not model.encodes:
        return None
    encoder = model.module.get_encoder()
    if beside is not None and beside.encoder is encoder:
        return beside
    sources = [prompt.source for prompt in prompts if isinstance(prompt, Begun)]
    if len(sources) < len(prompts):
        raise TypeError("a prompt of an encoder-decoder model has no source")
    features = [s.to(model.device, model.module.dtype) for s in sources if isinstance(s, torch.Tensor)]
    if features:
        return Encoded(encoder, encoder(torch.stack(features)).last_hidden_state, None)
    lengths = np.array([len(s) for s in sources])
    longest = int(lengths.max())
    tokens = torch.tensor([[*s, *[0] * (longest - len(s))] for s in sources], device=model.device)
    valid = np.arange(longest) < lengths[:, None]
    mask = None if valid.all() else torch.from_numpy(valid).to(model.device).long()
    return Encoded(encoder, encoder(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)


def some_prompts(model: Model, rows: Sequence[list[int]], rng: np.random.Generator) -> list[Sequence[int]]:
    """Return prompts that end in these tokens, behind random sources where a model reads one."""
    if not model.encodes:
        return list(rows)
    shape = compat.feature_shape(model.module)
    if shape:
        drawn = [torch.from_numpy(rng.standard_normal(shape)) for _ in rows]
        return [Begun(row, source) for row, source in zip(rows, drawn, strict=True)]
    lengths = range(5, 5 + 3 * len(rows), 3)
    texts = [rng.integers(model.vocabulary, size=n).tolist() for n in lengths]
    return [Begun(row, tuple(text)) for row, text in zip(rows, texts, strict=True)]


def read_whole(model: Model, tokens: Sequence[int], encoded: Encoded | None) -> torch.Tensor:
    """Return the logits behind every token of one prompt, read without a cache, [tokens, rows of the head]."""
    row = torch.tensor([list(tokens)], device=model.device)
    if encoded is None:
        logits: torch.Tensor = model.module(row).logits[0]
        return logits
    read: torch.Tensor = compat.decode_on(model.module, row, None, encoded.states, encoded.mask).logits[0]
    return read


def check_kinds(target: Model, draft: Model, names: tuple[str, str]) -> None:
    """Refuse a pair of which one has an encoder and the other has none, or one that reads something else.

    names: what the two are called.
    """
    kinds = [compat.kind(m.module) for m in (target, draft)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"--draft {names[1]}: {kinds[1]}, but --target {names[0]} is {kinds[0]}, expected two of a kind"
        )


def encoder_of(pair: Pair) -> dict[str, Any]:
    """Return what decides the numbers of a pair with encoders: how decoders begin, whether both read by one encoder."""
    if not pair.target.encodes:
        return {}
    shared = pair.draft.module.get_encoder() is pair.target.module.get_encoder()
    return {"encoder": {"decoder_begins_with": list(pair.target.first), "is_shared": shared}}


def share_encoder(target: Any, draft: Any) -> None:
    """Have a draft use its target's encoder where both have the same weights: a source is then read once."""
    one, other = target.get_encoder(), draft.get_encoder()
    ours, theirs = one.state_dict(), other.state_dict()
    if ours.keys() != theirs.keys() or any(
        ours[n].shape != theirs[n].shape or ours[n].device != theirs[n].device or not torch.equal(ours[n], theirs[n])
        for n in ours
    ):
        return
    for parent in draft.modules():
        for name, child in parent.named_children():
            if child is other:
                setattr(parent, name, one)
