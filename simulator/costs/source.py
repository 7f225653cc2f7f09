"""What reading a source takes: the pass of an encoder, before the first token of an answer and never again.

An encoder's pass also makes the keys and values of cross attention, which every later pass reads.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simulator.ground.artefacts import UserError

from .encoders import are_one, crossing
from .model_costs import ModelPair, Placed
from .parts import PassParts
from .step import Floats
from .work import ModelShape


class SourcePass(NamedTuple):
    """A pass over one source. role: of the model. placed: its encoder. source: tokens or frames.

    is_shared: the encoder is the target's, whose states are there; what is left is the drafter's cross attention.
    """

    role: str
    placed: Placed
    source: int
    is_shared: bool = False

    def seconds(self, like: Floats) -> Floats:
        """Return the seconds of a source, [*samples, *S]; like: of shape S."""
        return self.placed.total_s(self.placed.done(np.ones(np.shape(like)), self.source, 0, 0))

    @property
    def parts(self) -> PassParts:
        """The same of one source, by where they go."""
        return self.placed.parts(1, self.source, 0, 0)


def source_passes(models: ModelPair | Placed) -> Iterator[SourcePass]:
    """Yield the passes that a source takes: the target's, and a draft's.

    An encoder of the very same sizes is taken as the target's own, as distil-whisper has it: it is run once.
    """
    target = models if isinstance(models, Placed) else models.placed_target
    if target.shape.encoder:
        yield SourcePass("target", replace(target, shape=target.shape.encoder), target.shape.source)
    draft = None if isinstance(models, Placed) or not models.has_weights else models.placed_draft
    if draft is None or draft.shape.encoder is None:
        return
    is_shared = are_one(target.shape, draft.shape)
    shape = crossing(draft.shape.encoder) if is_shared else draft.shape.encoder
    yield SourcePass("draft", replace(draft, shape=shape), draft.shape.source, is_shared)


def sourced(shape: ModelShape, source: int | None, option: str) -> ModelShape:
    """Return a model behind a source of a stated length; None: as its file says.

    Raises:
        UserError: It has no encoder, or one that reads fewer.
    """
    if source is None:
        if shape.encoder is None or shape.encoder.longest_context == shape.source:
            return shape
        said = f"a source is taken as {shape.source:,} tokens, as nobody states it (--source)"
        return replace(shape, assumed="; ".join(filter(None, (shape.assumed, said))))
    if shape.encoder is None:
        raise UserError(f"--source: {source:,}, but {option} {shape.name} has no encoder, expected no such option")
    longest = shape.encoder.longest_context
    if longest is not None and source > longest:
        raise UserError(f"--source: {source:,}, but the encoder of {shape.name} reads {longest:,} at most")
    return shape.with_source(source)
