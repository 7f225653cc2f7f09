"""Encoders of a target and its draft: whether they are one, and what of an encoder's pass is a decoder's own."""

from dataclasses import replace

from .formats import Storage
from .work import ModelShape

# Modules of cross attention, which a decoder has of its own.
CROSSING = "encoder_attn."


def is_crossing(name: str) -> bool:
    """Whether a module is of cross attention."""
    return name.startswith(CROSSING)


def sizes(encoder: ModelShape) -> tuple[object, ...]:
    """Return what tells an encoder from others, whatever decoder is behind it."""
    own = tuple(m for m in encoder.matrices if not is_crossing(m.parts[0][0]))
    return encoder.hidden_size, encoder.vectors, own, encoder.attentions[0]


def crossing(encoder: ModelShape) -> ModelShape:
    """Return the part of an encoder's pass that makes keys and values of cross attention."""
    own = tuple(m for m in encoder.matrices if is_crossing(m.parts[0][0]))
    made = encoder.attentions[1]
    return replace(encoder, layers=made.layers, matrices=own, vectors=0, attentions=(made,))


def are_one(target: ModelShape, draft: ModelShape) -> bool:
    """Whether a draft's encoder is taken as its target's: of the very same sizes, as distil-whisper has it."""
    if target.encoder is None or draft.encoder is None:
        return False
    return sizes(target.encoder) == sizes(draft.encoder)


def shared_bytes(target: ModelShape, draft: ModelShape, storage: str | Storage) -> float:
    """Return the bytes of a draft's weights that lie in memory with its target's already."""
    if draft.encoder is None or not are_one(target, draft):
        return 0.0
    return draft.encoder.weight_bytes(storage) - crossing(draft.encoder).weight_bytes(storage)
