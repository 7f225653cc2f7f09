"""What models are made of, as far as their work depends on it: matrices, attention and states of fixed size."""

from typing import NamedTuple

import numpy as np

from .step import Floats, Real

EMBEDDING, HEAD = "embed_tokens", "lm_head"


class Matrix(NamedTuple):
    """Matrices that are multiplied in one product, such as query, key and value.

    inputs: of each. parts: module and outputs of each. layers: that have it; none: it lies outside of layers.
    copies: of each layer: routed experts. used: of these by one token; 0 where decoding does not multiply it, as in an
    encoder. is_router: chooses experts. is_borrowed: it is the target's, which a drafter multiplies too.
    """

    inputs: int
    parts: tuple[tuple[str, int], ...]
    layers: tuple[int, ...] = ()
    copies: int = 1
    used: int = 1
    is_router: bool = False
    is_borrowed: bool = False

    @property
    def outputs(self) -> int:
        """Outputs of all parts."""
        return sum(outputs for _, outputs in self.parts)

    @property
    def size(self) -> int:
        """Weights of one copy."""
        return self.inputs * self.outputs

    @property
    def places(self) -> int:
        """How many layers have it; 1 outside of them."""
        return len(self.layers) or 1

    @property
    def weights(self) -> int:
        """Weights of all copies, as far as they are the model's own."""
        return 0 if self.is_borrowed else self.size * self.copies * self.places

    @property
    def per_token(self) -> int:
        """How many copies one token multiplies."""
        return self.used * self.places

    @property
    def is_expert(self) -> bool:
        """Whether a token multiplies some copies of many."""
        return self.copies > 1 and self.used > 0

    def modules(self) -> "list[tuple[str, int]]":
        """Return the module of each part in each layer, and its weights; experts are named by the first."""
        size = self.inputs * self.copies
        prefixes = [f"layers.{i}." for i in self.layers] or [""]
        return [(prefix + name, outputs * size) for prefix in prefixes for name, outputs in self.parts]


class Attention(NamedTuple):
    """Layers that attend alike.

    heads: of queries. pair_size: multiply-adds of one head for a query and a token that it sees. kv_size: numbers that
    a layer keeps of a token; 0 where it reads another's. shares: devices among which these can be divided. window:
    tokens that are seen and kept. chosen: tokens that are seen of all that are kept, where an index chooses them.
    fixed: tokens of a source that is there from the start, as in cross attention. both_ways: a token sees those behind
    it too, as in an encoder.
    """

    layers: int
    heads: int
    pair_size: int
    kv_size: int
    shares: int
    window: int | None = None
    chosen: int | None = None
    fixed: int = 0
    both_ways: bool = False

    def pairs(self, new_tokens: Floats, context: Floats) -> Floats:
        """Return the pairs of a new token and a token that it sees, of one layer."""
        n, s = new_tokens, context
        most = self.window or self.chosen
        if self.fixed:
            return np.asarray(n * self.fixed + 0 * s)
        if self.both_ways:
            return np.asarray(n * (s + n))
        if most is None:
            return np.asarray(n * s + n * (n + 1) / 2)
        growing = np.clip(most - s, 0, n)
        return np.asarray(growing * s + growing * (growing + 1) / 2 + (n - growing) * most)

    def held(self, context: Real) -> Floats:
        """Return the tokens that one layer keeps of a sequence; a window what the next token sees besides itself."""
        s = np.asarray(context, np.float64)
        if self.fixed:
            return np.full(s.shape, float(self.fixed))
        return s if self.window is None else np.minimum(s, self.window - 1)

    def read(self, new_tokens: Floats, context: Floats) -> Floats:
        """Return the tokens of a sequence that a pass over new ones reads in one layer."""
        held = self.held(context)
        return held if self.chosen is None else np.minimum(held, self.chosen * new_tokens)

    def touched(self, new_tokens: Floats, context: Floats) -> Floats:
        """Return the tokens of a sequence whose keys and values a pass reads or writes in one layer."""
        return self.read(new_tokens, context) + (0.0 if self.fixed else new_tokens)


class State(NamedTuple):
    """Layers that keep a state of fixed size of each sequence: linear attention, state spaces, short convolutions.

    size: numbers of a layer's state, in 32 bits; window: of what its convolution keeps, in 16. flops: of a token
    besides the matrices. shares: devices among which a state can be divided.
    """

    layers: int
    size: int
    window: int
    flops: int
    shares: int
    bytes_per_number: float = 4.0

    @property
    def bytes(self) -> float:
        """Bytes of one sequence in all these layers."""
        return self.layers * (self.size * self.bytes_per_number + 2 * self.window)


class Drafting(NamedTuple):
    """How a drafter proposes that is no plain language model.

    method: its name. architecture: as its file names it. longest: the longest draft that it makes; None: any.
    reads_states: it needs its target's states, of state_size numbers, and so waits for them. modules: that take turns.
    usual: the draft length that its file states; None: none. deepest: the last layer of the target whose states it
    reads, where its file says.
    """

    method: str
    architecture: str
    longest: int | None = None
    reads_states: bool = True
    state_size: int = 0
    modules: int = 1
    usual: int | None = None
    deepest: int = 0
