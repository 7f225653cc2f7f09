"""The work of one forward pass of a model: parameters, FLOPs and bytes from its sizes (model §2). NumPy alone.

All of it is the work of one device: tensor parallelism, which divides it and adds all-reduces, is the cost function's.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .formats import Storage, bytes_per_weight, storage_of
from .layers import EMBEDDING, HEAD, Attention, Drafting, Matrix, State
from .step import Floats, Real, spread

# What latent attention projects hidden states to; no other attention has it.
LATENT_MODULES = ("kv_a_proj_with_mqa", "kv_a_proj")
# Families whose models are of one kind.
KIN = {"mt5": "t5", "umt5": "t5", "mbart": "bart"}
Count = int | NDArray[np.int64] | Floats


class Work(NamedTuple):
    """What passes are over, summed over the sequences of each, whatever these do: decode, verify, read a prompt.

    Fields broadcast. tokens: new ones. pairs, kv_tokens: of each kind of attention of the shape, the pairs of a new
    token and a token that it sees, and the tokens whose keys and values are read or written. sequences: in the pass.
    logit_rows: tokens through the output head. following: tokens behind another of their own sequence in the pass,
    which choose experts alike. prompts: sequences whose prompt is in the pass, which no graph replays.
    """

    tokens: Floats
    pairs: tuple[Floats, ...]
    kv_tokens: tuple[Floats, ...]
    sequences: Floats
    logit_rows: Floats
    following: Floats | float = 0.0
    prompts: Floats | float = 0.0

    def beside(self, other: "Work") -> "Work":
        """Return the work of passes that do both."""
        return Work(
            self.tokens + other.tokens,
            tuple(a + b for a, b in zip(self.pairs, other.pairs, strict=True)),
            tuple(a + b for a, b in zip(self.kv_tokens, other.kv_tokens, strict=True)),
            self.sequences + other.sequences,
            self.logit_rows + other.logit_rows,
            self.following + other.following,
            self.prompts + other.prompts,
        )


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model, as far as the work of decoding depends on them; sums over them are reckoned once.

    matrices: all that are multiplied. vectors: elements of norms, biases and the like. tied_embeddings: output head and
    embeddings are one. embedding_size: of a token's vector. table_sizes: weights of a token's rows in further tables
    that are looked up (positions, embeddings of each layer); tables: of these tables whole. attentions, states: what is
    kept of a sequence. longest_context: positions the model was made for, None where its file does not say.
    storage: how the weights are stored, where the file says; unread: what it says of them that no one reads.
    kv_dtype: of the KV cache, where the file says. predictors: modules that predict further tokens, beside the weights.
    encoder: what reads a source before the first token, once, and makes the keys and values of cross attention of it.
    drafting: set where it is a drafter of another kind than a language model. unstated: sizes that nobody states, by
    their keys in files.
    assumed: what the file does not say and was assumed. stated_name: as typed, where the catalogue has another for it.
    """

    name: str
    family: str
    layers: int
    hidden_size: int
    heads: int
    vocabulary: int
    tied_embeddings: bool
    embedding_size: int
    matrices: tuple[Matrix, ...]
    vectors: int
    tables: int = 0
    row_size: int = 0
    attentions: tuple[Attention, ...] = ()
    states: tuple[State, ...] = ()
    longest_context: int | None = None
    storage: Storage | None = None
    unread: str = ""
    kv_dtype: str | None = None
    predictors: int = 0
    encoder: "ModelShape | None" = None
    drafting: Drafting | None = None
    unstated: tuple[str, ...] = ()
    assumed: str = ""
    stated_name: str = ""

    def __hash__(self) -> int:
        """Tell apart what most models differ in: all of it has thousands of numbers."""
        return hash((self.name, self.layers, self.hidden_size, self.vocabulary))

    @cached_property
    def experts(self) -> int:
        """Routed experts of a layer, 0 without."""
        return max((m.copies for m in self.matrices if m.is_expert), default=0)

    def layers_with(self, kind: str) -> int:
        """Return how many layers have something of `engine.LAYER_KINDS`."""
        return self.layers_of_experts if kind == "experts" else self.layers_of_latents

    @cached_property
    def layers_of_experts(self) -> int:
        """Layers that have routed experts."""
        return len({i for m in self.matrices if m.is_expert for i in m.layers})

    @cached_property
    def layers_of_latents(self) -> int:
        """Layers that attend to latent vectors."""
        return len({i for m in self.matrices if has_latent(m) for i in m.layers})

    @cached_property
    def look_up_size(self) -> int:
        """Weights of the tables that are looked up and not multiplied."""
        return self.tables + (0 if self.tied_embeddings else self.vocabulary * self.embedding_size)

    @property
    def kind(self) -> str:
        """What its drafts have to be as well: a decoder alone, or an encoder-decoder of some kind."""
        return f"an encoder-decoder ({KIN.get(self.family, self.family)})" if self.encoder else "a decoder alone"

    @property
    def source(self) -> int:
        """Tokens or frames of the source that an encoder reads, 0 without one."""
        return max((a.fixed for a in self.attentions), default=0)

    def with_source(self, source: int) -> "ModelShape":
        """Return it behind a source of another length."""
        kinds = tuple(a._replace(fixed=source) if a.fixed else a for a in self.attentions)
        return replace(self, attentions=kinds)

    @property
    def borrowed_size(self) -> int:
        """Weights of its target that a drafter reads: the output head, and the embeddings of heads on its states."""
        reads = self.drafting is not None and self.drafting.reads_states
        return sum(m.size for m in self.matrices if m.is_borrowed) + reads * self.vocabulary * self.embedding_size

    @cached_property
    def parameters(self) -> int:
        """All weights; a table that is embedding and output head in one counts once."""
        encoder = self.encoder.vectors if self.encoder else 0
        return sum(m.weights for m in self.matrices) + self.look_up_size + self.vectors + encoder

    @cached_property
    def active_parameters(self) -> int:
        """N_active of model §2: weights that one token multiplies.

        The output head and a token's own experts count; look-ups, norms, biases and the other experts do not.
        """
        return sum(m.size * m.per_token for m in self.matrices)

    def weight_bytes(self, storage: str | Storage) -> float:
        """Return the bytes of all weights.

        Quantized formats hold for the matrices of the layers; embeddings, output head, routers, norms and biases stay
        at 16 bits, unless the storage says otherwise.

        Raises:
            UserError: The number format is not known.
        """
        return stored(self, as_storage(storage)).all_bytes

    def expert_bytes(self, storage: str | Storage) -> float:
        """Return the bytes of the routed experts among them."""
        return sum(size for _, size in stored(self, as_storage(storage)).experts)

    @cached_property
    def head_size(self) -> int:
        """Weights of the output head, which only tokens that are asked for multiply."""
        return sum(m.size for m in self.matrices if m.parts[0][0] == HEAD)

    def work(self, batch: Real, new_tokens: Real, context: Real, logit_rows: Real | None = None) -> Work:
        """Return the work of passes over sequences that are alike; the arguments broadcast.

        Args:
            batch: Sequences.
            new_tokens: Tokens of each that the pass computes: 1 in decoding, K + 1 in verification, a prompt's.
            context: Tokens of each that the KV cache holds before.
            logit_rows: Of the new tokens, those through the output head; None: all.
        """
        b, n, s = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (batch, new_tokens, context)))
        tokens = b * n
        return Work(
            tokens=tokens,
            pairs=tuple(b * a.pairs(n, s) for a in self.attentions),
            kv_tokens=tuple(b * a.touched(n, s) for a in self.attentions),
            sequences=b,
            logit_rows=tokens if logit_rows is None else b * np.asarray(logit_rows, np.float64),
            following=b * np.maximum(n - 1, 0) if self.experts else 0.0,
        )

    def flops_of(self, work: Work, attention: Real = 1.0) -> Floats:
        """Return the FLOPs of passes: 2 a weight and token, attention and states, [*samples, *S].

        Latent attention is counted in the absorbed form that decoding uses: queries meet the latent vectors themselves.

        attention: What FLOPs of it count, which may take longer than others; samples of that.
        """
        a_token = 2 * self.active_parameters + sum(state.layers * state.flops for state in self.states)
        asked = a_token * work.tokens
        if work.logit_rows is not work.tokens:
            asked = asked - 2 * self.head_size * (work.tokens - work.logit_rows)
        seen = self.attention_flops_of(work)
        return np.asarray(asked + spread(attention, seen.ndim) * seen, np.float64)

    def attention_flops_of(self, work: Work) -> Floats:
        """Return those of attention among them."""
        kinds = zip(self.attentions, work.pairs, strict=True)
        seen = (2 * a.layers * a.heads * a.pair_size * pairs for a, pairs in kinds)
        return np.asarray(sum(seen, np.float64(0)), np.float64)

    def flops(self, batch: Real, new_tokens: Real, context: Real, logit_rows: Real | None = None) -> Floats:
        """Return the FLOPs of a pass over sequences that are alike; see `work`."""
        return self.flops_of(self.work(batch, new_tokens, context, logit_rows))

    def kv_bytes_per_token(self, kv_dtype: str) -> float:
        """Return the bytes that one token adds to the KV cache of all layers, while no sliding window is full.

        Raises:
            UserError: The dtype is not known.
        """
        return sum(a.layers * a.kv_size for a in self.attentions if not a.fixed) * bytes_per_weight(kv_dtype)

    @cached_property
    def state_bytes(self) -> float:
        """Bytes of one sequence's states of fixed size."""
        return sum(state.bytes for state in self.states)

    def kv_bytes(self, batch: Count, context: Count, kv_dtype: str, devices: int = 1) -> Floats:
        """Return the bytes of what is kept of sequences on each of some devices: KV cache and states.

        Raises:
            UserError: The dtype is not known.
        """
        width, b = bytes_per_weight(kv_dtype), np.asarray(batch, np.float64)
        kept = sum(
            (a.layers * a.kv_size * width * a.held(context) / min(devices, a.shares) for a in self.attentions), 0.0
        )
        return np.asarray(b * (kept + self.divided_states(devices)))

    def divided_states(self, devices: int) -> float:
        """Return the bytes of one sequence's states on each of some devices."""
        return sum(state.bytes / min(devices, state.shares) for state in self.states)

    @cached_property
    def activation_size(self) -> int:
        """Return the numbers that the matrix products of one token read and write.

        Queries, keys and values are one product, gate and up another; what lies between products counts as fused.
        """
        return sum((m.inputs + m.outputs) * m.per_token for m in self.matrices)

    @cached_property
    def head_words(self) -> int:
        """Words that the output head tells apart."""
        return sum(m.outputs for m in self.matrices if m.parts[0][0] == HEAD)

    @cached_property
    def head_activations(self) -> int:
        """Numbers of these at the output head."""
        return sum(m.inputs + m.outputs for m in self.matrices if m.parts[0][0] == HEAD)

    def bytes_of(
        self,
        work: Work,
        storage: str | Storage,
        kv_dtype: str | None = None,
        devices: int = 1,
        expert_overlap: float = 0.0,
        replicas: int = 1,
    ) -> Floats:
        """Return the bytes that one device reads and writes in passes.

        Weights are read once, of the experts those touched; K and V once per sequence, however many of its tokens are
        new; states are read and written once; activations are of 16 bits at least.

        Args:
            work: Of the passes.
            storage: Of the weights, as in `weight_bytes`.
            kv_dtype: Of the KV cache; that of unquantized weights when None.
            devices: That share the model (tensor parallelism).
            expert_overlap: By how much a further token of a sequence counts less as experts are touched.
            replicas: Groups of these devices that each hold all but the experts, for a share of the sequences.

        Raises:
            UserError: A number format is not known.
        """
        storage = as_storage(storage)
        weights, wide = stored(self, storage), storage.plain.bits / 8
        choosing = work.tokens - expert_overlap * work.following if expert_overlap else work.tokens
        touched = sum((size * touched_share(m, choosing) for m, size in weights.experts), np.float64(0))
        rows = work.tokens * (self.row_bytes(storage) + self.activation_size * wide)
        if work.logit_rows is not work.tokens:
            rows = rows - (work.tokens - work.logit_rows) * (self.head_activations * wide)
        kv_wide = wide if kv_dtype is None else bytes_per_weight(kv_dtype)
        kept = sum(
            (
                a.layers * a.kv_size * tokens / (replicas * min(devices // replicas, a.shares))
                for a, tokens in zip(self.attentions, work.kv_tokens, strict=True)
            ),
            np.float64(0),
        )
        moved = (weights.always_bytes * replicas + touched + rows) / devices + kept * kv_wide
        states = 2 * self.divided_states(devices // replicas) / replicas
        return np.asarray(moved + states * work.sequences if self.states else moved)

    def bytes_moved(
        self,
        batch: Count,
        new_tokens: Count,
        context: Count,
        storage: str | Storage,
        kv_dtype: str | None = None,
        devices: int = 1,
        logit_rows: Real | None = None,
    ) -> Floats:
        """Return the bytes of a pass over sequences that are alike; see `work` and `bytes_of`."""
        return self.bytes_of(self.work(batch, new_tokens, context, logit_rows), storage, kv_dtype, devices)

    def row_bytes(self, storage: Storage) -> float:
        """Return the bytes of a token's rows in all tables."""
        bits = storage.of(EMBEDDING, is_outer=True).bits
        return (self.embedding_size + self.row_size) * bits / 8


def has_latent(matrix: Matrix) -> bool:
    """Whether a layer with this matrix attends to latent vectors."""
    return any(name.endswith(LATENT_MODULES) for name, _ in matrix.parts)


def as_storage(storage: str | Storage) -> Storage:
    """Return how weights are stored, from the name of a number format or as it is."""
    return storage_of(storage) if isinstance(storage, str) else storage


class Stored(NamedTuple):
    """The bytes of a model's weights: all, those that every pass reads, and those of experts by matrix."""

    all_bytes: float
    always_bytes: float
    experts: tuple[tuple[Matrix, float], ...]


@lru_cache(maxsize=256)
def stored(shape: ModelShape, storage: Storage) -> Stored:
    """Return the bytes of a model's weights as they are stored."""
    experts, always, idle, borrowed = [], shape.vectors * storage.plain.bits / 8, 0.0, 0.0
    # A head that is the embeddings goes by their name.
    is_one = shape.tied_embeddings and not (shape.drafting and shape.drafting.reads_states)
    for matrix in shape.matrices:
        size = matrix_bytes(matrix, storage, EMBEDDING if is_one and storage.rule_of(EMBEDDING) else HEAD)
        if matrix.is_borrowed:
            borrowed += matrix.size * storage.plain.bits / 8
        elif matrix.is_expert:
            experts.append((matrix, size))
        elif matrix.used:
            always += size
        else:
            idle += size
    idle += (shape.encoder.vectors if shape.encoder else 0) * storage.plain.bits / 8
    idle += shape.look_up_size * storage.of(EMBEDDING, is_outer=True).bits / 8
    return Stored(always + idle + sum(size for _, size in experts), always + borrowed, tuple(experts))


def matrix_bytes(matrix: Matrix, storage: Storage, head: str = HEAD) -> float:
    """Return the bytes of all copies of a matrix; head: the module whose rules hold for the output head."""
    kind = {"is_expert": matrix.is_expert, "is_outer": not matrix.layers, "is_router": matrix.is_router}
    if not storage.rules:
        return matrix.weights * storage.of(matrix.parts[0][0], **kind).bits / 8
    modules = ((head if name == HEAD else name, weights) for name, weights in matrix.modules())
    return sum(weights * storage.of(name, **kind).bits / 8 for name, weights in modules)


def touched_share(matrix: Matrix, tokens: Count) -> Floats:
    """Return the expected share of a layer's experts that so many tokens touch.

    Tokens choose independently and every expert is as likely; real routing is correlated and touches fewer.
    """
    missed = 1 - matrix.used / matrix.copies
    return np.asarray(1 - missed ** np.asarray(tokens, np.float64), np.float64)
