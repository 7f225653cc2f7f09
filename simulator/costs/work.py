"""The work of one forward pass of a model: parameters, FLOPs and bytes from its sizes (model §2). NumPy alone.

All of it is the work of one device: tensor parallelism, which divides it and adds all-reduces, is the cost function's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from .step import Floats

Count = int | NDArray[np.int64] | Floats

# Scales and zero points of quantized weights are not counted: 3 % more for int4 in groups of 128.
BYTES_PER_WEIGHT = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}


def bytes_per_weight(dtype: str) -> float:
    """Return the bytes of one number; a UserError says that the dtype is none of `BYTES_PER_WEIGHT`."""
    if dtype not in BYTES_PER_WEIGHT:
        raise UserError(f"dtype: {dtype!r} is not known, expected one of {', '.join(BYTES_PER_WEIGHT)}")
    return BYTES_PER_WEIGHT[dtype]


def bytes_unquantized(dtype: str) -> float:
    """Return the bytes of one number of what quantization leaves alone, which stays at 16 bits."""
    return max(2.0, bytes_per_weight(dtype))


class Matrix(NamedTuple):
    """Matrices of one size: `copies` of them exist, a token multiplies `per_token` of them."""

    inputs: int
    outputs: int
    copies: int
    per_token: int

    @property
    def size(self) -> int:
        """Weights of one copy."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """DeepSeek's attention, MLA (arXiv 2405.04434, §2.1): one low-rank vector a token stands for its keys and values.

    query_rank: rank of the query projection, None where it is one full matrix. kv_rank: of keys and values.
    rope_size: the part of a head's key that carries the position, shared by all heads. value_size: of a head's value.
    """

    query_rank: int | None
    kv_rank: int
    rope_size: int
    value_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder-only model, as far as its work depends on them.

    head_dim: of a query and a key. ffn_size: inner size of the dense feed-forward layers; gated_ffn: they have a gate
    matrix besides. embedding_size: of a token's vector, where it is not hidden_size. positions: rows of a table of
    learned positions. sliding_layers: layers whose attention sees no more than sliding_window tokens. layer_vectors:
    elements of one layer's norms and biases; outer_vectors: of those outside the layers. experts: of one of the
    expert_layers; the other layers are dense. shared_ffn_size: inner size of all shared experts of a layer together;
    shared_gate: a gate weighs them. latent: set where attention is MLA.
    """

    name: str
    family: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    vocabulary: int
    tied_embeddings: bool
    layer_vectors: int
    outer_vectors: int
    gated_ffn: bool = True
    embedding_size: int
    positions: int = 0
    sliding_window: int | None = None
    sliding_layers: int = 0
    expert_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn_size: int = 0
    shared_ffn_size: int = 0
    shared_gate: bool = False
    latent: LatentAttention | None = None

    @property
    def dense_layers(self) -> int:
        """Layers without experts."""
        return self.layers - self.expert_layers

    def attention_matrices(self) -> Iterator[Matrix]:
        """Yield the projections of the attention layers."""
        hidden, all_layers = self.hidden_size, (self.layers, self.layers)
        query_size = self.heads * self.head_dim
        if self.latent is None:
            yield Matrix(hidden, query_size + 2 * self.kv_heads * self.head_dim, *all_layers)
            yield Matrix(query_size, hidden, *all_layers)
            return
        latent = self.latent
        if latent.query_rank is None:
            yield Matrix(hidden, query_size, *all_layers)
        else:
            yield Matrix(hidden, latent.query_rank, *all_layers)
            yield Matrix(latent.query_rank, query_size, *all_layers)
        yield Matrix(hidden, latent.kv_rank + latent.rope_size, *all_layers)
        expanded = self.head_dim - latent.rope_size + latent.value_size
        yield Matrix(latent.kv_rank, self.heads * expanded, *all_layers)
        yield Matrix(self.heads * latent.value_size, hidden, *all_layers)

    def ffn_matrices(self) -> Iterator[Matrix]:
        """Yield the feed-forward matrices that every token multiplies: dense layers, routers, shared experts."""
        for inner, layers in ((self.ffn_size, self.dense_layers), (self.shared_ffn_size, self.expert_layers)):
            if inner and layers:
                yield Matrix(self.hidden_size, (1 + self.gated_ffn) * inner, layers, layers)
                yield Matrix(inner, self.hidden_size, layers, layers)
        if self.expert_layers:
            yield Matrix(self.hidden_size, self.experts + self.shared_gate, self.expert_layers, self.expert_layers)

    def expert_matrices(self) -> Iterator[Matrix]:
        """Yield the matrices of the routed experts."""
        if self.expert_layers:
            copies, used = self.expert_layers * self.experts, self.expert_layers * self.experts_per_token
            yield Matrix(self.hidden_size, (1 + self.gated_ffn) * self.expert_ffn_size, copies, used)
            yield Matrix(self.expert_ffn_size, self.hidden_size, copies, used)

    def outer_matrices(self) -> Iterator[Matrix]:
        """Yield the output head, and the projections about it where embeddings have a size of their own."""
        yield Matrix(self.embedding_size, self.vocabulary, 1, 1)
        if self.embedding_size != self.hidden_size:
            yield Matrix(self.embedding_size, self.hidden_size, 1, 1)
            yield Matrix(self.hidden_size, self.embedding_size, 1, 1)

    def matrices(self) -> tuple[Matrix, ...]:
        """Return all that a pass multiplies."""
        return (*self.attention_matrices(), *self.ffn_matrices(), *self.expert_matrices(), *self.outer_matrices())

    @property
    def look_up_size(self) -> int:
        """Weights of the tables that are looked up and not multiplied: untied embeddings, learned positions."""
        table = 0 if self.tied_embeddings else self.vocabulary * self.embedding_size
        return table + self.positions * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights; a table that is embedding and output head in one counts once."""
        vectors = self.layers * self.layer_vectors + self.outer_vectors
        return sum(m.size * m.copies for m in self.matrices()) + self.look_up_size + vectors

    @property
    def active_parameters(self) -> int:
        """N_active of model §2: weights that one token multiplies.

        The output head and a token's own experts count; look-ups, norms, biases and the other experts do not.
        """
        return sum(m.size * m.per_token for m in self.matrices())

    def weight_bytes(self, dtype: str) -> float:
        """Return the bytes of all weights.

        Quantized dtypes (fp8, int8, int4) hold for the matrices of the layers; embeddings, output head, norms and
        biases stay at 16 bits, as in the checkpoints of the usual quantizers.
        """
        inner = sum(m.size * m.copies for m in self.matrices()) - sum(m.size for m in self.outer_matrices())
        return inner * bytes_per_weight(dtype) + (self.parameters - inner) * bytes_unquantized(dtype)

    def experts_touched(self, tokens: Count) -> Floats:
        """Return the expected number of a layer's experts that so many tokens touch; 0 without experts.

        Tokens choose independently and every expert is as likely; real routing is correlated and touches fewer.
        """
        missed = 1 - self.experts_per_token / max(self.experts, 1)
        return np.asarray(self.experts * (1 - missed ** np.asarray(tokens, np.float64)), np.float64)

    def flops(self, batch: Count, new_tokens: Count, context: Count) -> Floats:
        """Return the FLOPs of one pass: 2 a weight and token, and attention; the arguments broadcast.

        Latent attention is counted in the absorbed form that decoding uses: queries meet the latent vectors themselves.

        Args:
            batch: Sequences.
            new_tokens: Tokens of each that the pass computes: 1 in decoding, K + 1 in verification.
            context: Tokens of each that the KV cache holds before.
        """
        b, n, s = (np.asarray(v, np.float64) for v in (batch, new_tokens, context))
        a_pair = 2 * self.head_dim
        if self.latent:
            a_pair = 2 * self.latent.kv_rank + self.latent.rope_size
        return np.asarray(2 * b * (self.active_parameters * n + self.heads * a_pair * self.pairs(n, s)), np.float64)

    def pairs(self, new_tokens: Floats, context: Floats) -> Floats:
        """Return the pairs of a new token and a token that it attends to, summed over the layers."""
        n, s = new_tokens, context
        full = n * s + n * (n + 1) / 2
        if self.sliding_window is None:
            return self.layers * full
        growing = np.clip(self.sliding_window - s, 0, n)
        sliding = growing * s + growing * (growing + 1) / 2 + (n - growing) * self.sliding_window
        return np.asarray((self.layers - self.sliding_layers) * full + self.sliding_layers * sliding)

    def kv_size(self) -> int:
        """Return the numbers that one layer keeps of one token."""
        return self.latent.kv_rank + self.latent.rope_size if self.latent else 2 * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, kv_dtype: str) -> float:
        """Return the bytes that one token adds to the KV cache of all layers, while no sliding window is full."""
        return self.layers * self.kv_size() * bytes_per_weight(kv_dtype)

    def kv_bytes(self, batch: Count, context: Count, kv_dtype: str) -> Floats:
        """Return the bytes of a KV cache; a sliding window keeps what the next token may see besides itself."""
        return np.asarray(np.asarray(batch) * self.held(context) * self.kv_size() * bytes_per_weight(kv_dtype))

    def held(self, context: Count) -> Floats:
        """Return the tokens of one sequence that the KV cache holds, summed over the layers."""
        s = np.asarray(context, np.float64)
        if self.sliding_window is None:
            return self.layers * s
        sliding = np.minimum(s, self.sliding_window - 1)
        return np.asarray((self.layers - self.sliding_layers) * s + self.sliding_layers * sliding)

    def activation_size(self) -> int:
        """Return the numbers that the matrix products of one token read and write.

        Queries, keys and values are one product, gate and up another; what lies between products counts as fused.
        """
        return sum((m.inputs + m.outputs) * m.per_token for m in self.matrices())

    def bytes_moved(
        self, batch: Count, new_tokens: Count, context: Count, dtype: str, kv_dtype: str | None = None
    ) -> Floats:
        """Return the bytes that one pass reads and writes; the counts broadcast, as those of `flops`.

        Weights are read once, of the experts those touched; K and V once per sequence, however many of its tokens are
        new; activations are of 16 bits at least. kv_dtype: that of unquantized weights when None.
        """
        wide = bytes_unquantized(dtype)
        tokens = np.asarray(batch, np.float64) * new_tokens
        expert_bytes = sum(m.size * m.copies for m in self.expert_matrices()) * bytes_per_weight(dtype)
        touched = expert_bytes * self.experts_touched(tokens) / max(self.experts, 1)
        always = self.weight_bytes(dtype) - expert_bytes - self.look_up_size * wide
        rows = self.embedding_size + (self.hidden_size if self.positions else 0)
        kv_wide = wide if kv_dtype is None else bytes_per_weight(kv_dtype)
        kv = (np.asarray(batch) * self.held(context) + tokens * self.layers) * self.kv_size() * kv_wide
        return np.asarray(always + touched + tokens * (rows + self.activation_size()) * wide + kv)
