"""What families of a Hugging Face config.json share: checked sizes, and the stack of layers that these build."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from simulator.ground.fields import Field

from .layers import HEAD, Attention, Matrix, State
from .work import ModelShape

MAX_SIZE = 10**9
MAX_LAYERS = 10_000
MAX_COUNT = 10**6
FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"
# Names of kinds of layers, and the older ones of the same.
KINDS = {FULL: FULL, SLIDING: SLIDING, CHUNKED: CHUNKED, LINEAR: LINEAR, "indexed_attention": FULL}
KINDS |= {"attention": FULL, "mamba": LINEAR, "conv": LINEAR, "hybrid": FULL, "global": FULL, "local": SLIDING}

KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
}
# What files call the number of modules that predict further tokens, and families whose files do not count theirs.
PREDICTORS = (
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "num_mtp_modules",
    "num_mtp_layers",
    "mtp_num_layers",
)
UNCOUNTED = ("qwen3_next",)
Fact = bool | str
Layers = tuple[int, ...]


def size(config: Field, key: str, default: int | None = None) -> int:
    """Return a size; without a default it has to be there."""
    return config[key].whole(1, MAX_SIZE, default=default)


def predictors(config: Field) -> int:
    """Return how many modules that predict further tokens (MTP) come with a model, by the first key that counts."""
    stated = next((config[key] for key in PREDICTORS if config[key].is_given), None)
    return int(config["model_type"].value in UNCOUNTED) if stated is None else stated.whole(0, MAX_LAYERS)


def flag(config: Field, fact: Fact) -> bool:
    """Return a fact of a family, or the flag of its files that tells."""
    return config[fact].flag(False) if isinstance(fact, str) else fact


def refuse_other(config: Field, key: str, value: object) -> None:
    """Refuse a value other than the one that the shape knows how to count."""
    if config[key].is_given and config[key].value != value:
        config[key].refuse(repr(value))


def check_multiple(config: Field, key: str, value: int, divisor_key: str, divisor: int) -> None:
    """Refuse a value that is no multiple of another one."""
    if value % divisor:
        config[key].refuse(f"a multiple of {divisor_key} ({divisor})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a family's models hold besides the sizes that their files state; a text names the flag that tells.

    keys: of its files, where they are others than `KEYS`. tied: whether embeddings and output head are one table where
    the file does not say. gated: feed-forward layers have a gate. norms: of a layer over hidden_size; layer_norm: norms
    have a bias; plain_norms: they have no elements at all. head_norms: query and key of each head have a norm;
    wide_norms: of all heads together. query_gate: queries come with a gate of their size. sinks: each head has one.
    kinds: whether a layer has a window, by its index, where the file has no list; kinds_if: the flag without which none
    has. window: the key of its size.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    gated: Fact = True
    norms: int = 2
    layer_norm: bool = False
    plain_norms: bool = False
    final_norm: Fact = True
    head_norms: Fact = False
    wide_norms: bool = False
    qkv_bias: Fact = False
    output_bias: Fact = False
    ffn_bias: Fact = False
    head_bias: Fact = False
    router_bias: bool = False
    expert_bias: bool = False
    query_gate: bool = False
    sinks: bool = False
    shared_gate: bool = False
    kinds: Callable[[Field, int], bool] | None = None
    kinds_if: str = ""
    window: str = "sliding_window"


class Stack:
    """The layers of a model while its file is read."""

    def __init__(self, config: Field, layout: Layout) -> None:
        keys = {**KEYS, **layout.keys}
        self.config, self.layout, self.keys = config, layout, keys
        self.layers = config[keys["layers"]].whole(1, MAX_LAYERS)
        self.hidden, self.heads, self.vocabulary = (size(config, keys[k]) for k in ("hidden", "heads", "vocabulary"))
        self.embedding = self.hidden
        self.matrices: list[Matrix] = []
        self.attentions: list[Attention] = []
        self.states: list[State] = []
        self.encoder: ModelShape | None = None
        self.vectors = self.tables = self.row_size = 0
        self.all = tuple(range(self.layers))

    def flag(self, fact: Fact) -> bool:
        """Return a fact of the family, or what the file says of it."""
        return flag(self.config, fact)

    def size(self, key: str, default: int | None = None) -> int:
        """Return a size of the file."""
        return size(self.config, key, default)

    @property
    def head_dim(self) -> int:
        """The size of a head: hidden_size / heads where the file does not state it."""
        if self.config["head_dim"].is_given:
            return self.size("head_dim")
        check_multiple(self.config, self.keys["hidden"], self.hidden, self.keys["heads"], self.heads)
        return self.hidden // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: as many as of queries where the file does not say."""
        return self.size(self.keys["kv_heads"], self.heads)

    @property
    def inner(self) -> int:
        """The inner size of dense feed-forward layers."""
        return self.size(self.keys["ffn"])

    @property
    def norm(self) -> int:
        """Elements of a norm over hidden_size."""
        return self.widened(self.hidden)

    def widened(self, elements: int) -> int:
        """Return the elements of a norm over so many numbers."""
        return 0 if self.layout.plain_norms else elements * (2 if self.layout.layer_norm else 1)

    def matrix(self, inputs: int, parts: Mapping[str, int], at: Layers, copies: int = 1, used: int = 1) -> None:
        """Add a matrix of some layers, by the modules merged in it and their outputs."""
        if at and all(parts.values()):
            self.matrices.append(Matrix(inputs, tuple(parts.items()), at, copies, used))

    def router(self, name: str, outputs: int, at: Layers) -> None:
        """Add what chooses or weighs experts, which quantizers leave alone."""
        if at:
            self.matrices.append(Matrix(self.hidden, ((name, outputs),), at, is_router=True))

    def attention(self, at: Layers, window: int | None = None, head_dim: int | None = None) -> None:
        """Add attention to layers."""
        if not at:
            return
        layout, kv_heads, head_dim = self.layout, self.kv_heads, head_dim or self.head_dim
        check_multiple(self.config, self.keys["heads"], self.heads, self.keys["kv_heads"], kv_heads)
        queries, keys = self.heads * head_dim, kv_heads * head_dim
        gate = queries * layout.query_gate
        parts = {"self_attn.q_proj": queries + gate, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        self.matrix(self.hidden, parts, at)
        self.matrix(queries, {"self_attn.o_proj": self.hidden}, at)
        vectors = self.flag(layout.qkv_bias) * (queries + 2 * keys) + self.flag(layout.output_bias) * self.hidden
        if self.flag(layout.head_norms):
            vectors += queries + keys if layout.wide_norms else 2 * self.widened(head_dim)
        self.vectors += len(at) * (vectors + layout.sinks * self.heads)
        self.attentions.append(Attention(len(at), self.heads, 2 * head_dim, 2 * keys, kv_heads, window))

    def latent(self, at: Layers) -> None:
        """Add latent attention to layers, MLA (arXiv 2405.04434, §2.1): one low-rank vector a token for all heads."""
        config, heads = self.config, self.heads
        rope, nope, value, rank = (
            self.size(k) for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank")
        )
        query_rank = self.size("q_lora_rank") if config["q_lora_rank"].is_given else 0
        queries = heads * (nope + rope)
        if query_rank:
            self.matrix(self.hidden, {"self_attn.q_a_proj": query_rank}, at)
            self.matrix(query_rank, {"self_attn.q_b_proj": queries}, at)
        else:
            self.matrix(self.hidden, {"self_attn.q_proj": queries}, at)
        self.matrix(self.hidden, {"self_attn.kv_a_proj_with_mqa": rank + rope}, at)
        self.matrix(rank, {"self_attn.kv_b_proj": heads * (nope + value)}, at)
        self.matrix(heads * value, {"self_attn.o_proj": self.hidden}, at)
        biases = self.flag("attention_bias") * (query_rank + rank + rope + self.hidden)
        self.vectors += len(at) * (query_rank + rank + biases)
        chosen = self.size("index_topk") if config["index_topk"].is_given else None
        self.attentions.append(Attention(len(at), heads, 2 * rank + rope, rank + rope, 1, chosen=chosen))

    def index(self, at: Layers) -> None:
        """Add what chooses the tokens that sparse attention sees (DeepSeek-V3.2): a small key of every token."""
        heads, width, rank = self.size("index_n_heads"), self.size("index_head_dim"), self.size("q_lora_rank")
        self.matrix(rank, {"self_attn.indexer.wq_b": heads * width}, at)
        self.matrix(self.hidden, {"self_attn.indexer.wk": width, "self_attn.indexer.weights_proj": heads}, at)
        self.vectors += len(at) * 2 * width
        self.attentions.append(Attention(len(at), heads, width, width, 1))

    def ffn(self, at: Layers, inner: int, name: str = "mlp") -> None:
        """Add a dense feed-forward part to layers."""
        gated = self.flag(self.layout.gated)
        gate = {f"{name}.gate_proj": inner} if gated else {}
        self.matrix(self.hidden, gate | {f"{name}.up_proj": inner}, at)
        self.matrix(inner, {f"{name}.down_proj": self.hidden}, at)
        self.vectors += self.flag(self.layout.ffn_bias) * len(at) * ((1 + gated) * inner + self.hidden)

    def experts(self, at: Layers, count: int, used: int, inner: int, shared: int = 0, width: int = 0) -> None:
        """Add routed experts to layers, a router, and what experts all tokens share, of that inner size together.

        Args:
            at: Layers.
            count: Experts of each.
            used: Of these by a token.
            inner: Inner size of one.
            shared: Inner size of the shared ones together.
            width: Numbers that an expert takes and gives, where these are not hidden_size.
        """
        layout, gated, width = self.layout, self.flag(self.layout.gated), width or self.hidden
        gate = {"mlp.experts.0.gate_proj": inner} if gated else {}
        self.router("mlp.gate", count, at)
        self.matrix(width, gate | {"mlp.experts.0.up_proj": inner}, at, count, used)
        self.matrix(inner, {"mlp.experts.0.down_proj": width}, at, count, used)
        if shared:
            self.ffn(at, shared, "mlp.shared_expert")
        if layout.shared_gate:
            self.router("mlp.shared_expert_gate", 1, at)
        biases = layout.router_bias * count + layout.expert_bias * count * ((1 + gated) * inner + width)
        self.vectors += len(at) * biases

    def kinds(self, key: str = "layer_types") -> list[str]:
        """Return the kind of every layer, of the file's list or by the family's rule."""
        listed, rule = self.config[key], self.layout.kinds
        if self.layout.kinds_if and not self.flag(self.layout.kinds_if):
            return [FULL] * self.layers
        if listed.is_given:
            kinds = [KINDS[layer.choice(tuple(KINDS))] for layer in listed.elements()]
            if len(kinds) != self.layers:
                listed.refuse(f"{FULL} or {SLIDING} for each of {self.layers} layers")
            return kinds
        return [SLIDING if rule is not None and rule(self.config, i) else FULL for i in self.all]

    def windowed(self) -> None:
        """Add attention to all layers, each with a window or none."""
        kinds, window = self.kinds(), None
        if SLIDING in kinds or CHUNKED in kinds:
            key = "attention_chunk_size" if CHUNKED in kinds else self.layout.window
            window = self.size(key) if self.config[key].is_given else None
        self.attention(where(kinds, FULL))
        self.attention(where(kinds, SLIDING) + where(kinds, CHUNKED), window)

    def finish(self) -> ModelShape:
        """Return the shape, which has no name yet."""
        layout, config = self.layout, self.config
        outer = [Matrix(self.embedding, ((HEAD, self.vocabulary),))]
        if self.embedding != self.hidden:
            outer += [Matrix(self.embedding, (("project_in", self.hidden),))]
            outer += [Matrix(self.hidden, (("project_out", self.embedding),))]
        norms = (self.layers * layout.norms + self.flag(layout.final_norm)) * self.norm
        return ModelShape(
            name="",
            family=config["model_type"].text(),
            layers=self.layers,
            hidden_size=self.hidden,
            heads=self.heads,
            vocabulary=self.vocabulary,
            tied_embeddings=config["tie_word_embeddings"].flag(layout.tied),
            embedding_size=self.embedding,
            matrices=(*self.matrices, *outer),
            vectors=self.vectors + norms + self.flag(layout.head_bias) * self.vocabulary,
            tables=self.tables,
            row_size=self.row_size,
            attentions=tuple(self.attentions),
            states=tuple(self.states),
            encoder=self.encoder,
        )


def where(kinds: Sequence[str], kind: str) -> Layers:
    """Return the layers of a kind."""
    return tuple(i for i, one in enumerate(kinds) if one == kind)
