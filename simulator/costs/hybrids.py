"""Families whose layers are not alike: recurrent layers beside attention, convolutions, encoders beside decoders."""

from dataclasses import replace

from simulator.ground.fields import Field

from . import recurrent
from .config_json import FULL, LINEAR, MAX_COUNT, MAX_LAYERS, SLIDING, Layers, Layout, Stack, where
from .layers import Attention, Matrix
from .work import ModelShape

MAMBA2 = {"heads": "mamba_n_heads", "head_dim": "mamba_d_head", "groups": "mamba_n_groups", "state": "mamba_d_state"}
MAMBA2 |= {"kernel": "mamba_d_conv", "conv_bias": "mamba_conv_bias", "bias": "mamba_proj_bias"}
# Tokens of the text that an encoder has read, where nothing says how many.
SOURCE_TOKENS = 512


def linear_and_full(stack: Stack) -> None:
    """Add gated delta nets and full attention, every fourth layer by default."""
    listed, step = stack.config["layer_types"], stack.size("full_attention_interval", 4)
    kinds = stack.kinds() if listed.is_given else [LINEAR if (i + 1) % step else FULL for i in stack.all]
    recurrent.gated_delta(stack, where(kinds, LINEAR))
    stack.attention(where(kinds, FULL))


def kimi_layers(config: Field) -> Field:
    """Put Kimi Linear's kinds of layers, which its files count from 1, and sizes of heads as others do."""
    own = config["linear_attn_config"]
    if not own.is_given:
        return config
    layers = config["num_hidden_layers"].whole(1, MAX_LAYERS)
    full = [e.whole(1, layers) - 1 for e in own["full_attn_layers"].elements()]
    sizes = {"head_dim": "linear_head_dim", "num_heads": "linear_num_heads", "short_conv_kernel_size": KERNEL}
    stated = {name: own[key].value for key, name in sizes.items() if own[key].is_given}
    kinds = [FULL if i in full else LINEAR for i in range(layers)]
    return config.but(**stated, layer_types=config["layer_types"].value or kinds)


KERNEL = "linear_conv_kernel_dim"


def kimi_linear(stack: Stack) -> None:
    """Read Kimi Linear: layers of delta attention, and a latent one now and then."""
    listed = stack.config["layer_types"]
    kinds = stack.kinds() if listed.is_given else [FULL if i and i % 4 == 0 else LINEAR for i in stack.all]
    recurrent.kimi_delta(stack, where(kinds, LINEAR))
    if FULL in kinds:
        stack.latent(where(kinds, FULL))
    count, inner = stack.size("num_experts"), stack.size("moe_intermediate_size")
    listed = stack.config["mlp_layer_types"]
    first = stack.config["first_k_dense_replace"].whole(0, stack.layers, default=1)
    forms = ["dense" if i < first else "sparse" for i in stack.all]
    if listed.is_given:
        forms = [form.choice(("dense", "sparse")) for form in listed.elements()]
    if where(forms, "dense"):
        stack.ffn(where(forms, "dense"), stack.inner)
    used = stack.config["num_experts_per_token"].whole(1, count)
    shared = stack.config["num_shared_experts"].whole(0, MAX_COUNT, default=0) * inner
    stack.experts(where(forms, "sparse"), count, used, inner, shared)


def laguna(stack: Stack) -> None:
    """Read Laguna: heads by layer, each with a gate or one for each number, experts after a dense layer."""
    config, kinds = stack.config, stack.kinds()
    listed, stated = config["num_attention_heads_per_layer"], stack.heads
    heads = [e.whole(1, MAX_COUNT) for e in listed.elements()] if listed.is_given else [stated] * stack.layers
    if len(heads) != stack.layers:
        listed.refuse(f"heads of each of {stack.layers} layers")
    for kind, count in sorted({*zip(kinds, heads, strict=True)}):
        at = tuple(i for i in where(kinds, kind) if heads[i] == count)
        stack.heads = count
        stack.attention(at, stack.size("sliding_window") if kind == SLIDING else None)
        width = 1 if config["gating"].value in (True, "per-head") else stack.head_dim
        stack.matrix(stack.hidden, {"self_attn.g_proj": count * width}, at)
    stack.heads = stated
    forms = config["mlp_layer_types"]
    dense = [f.choice(("dense", "sparse")) == "dense" for f in forms.elements()] if forms.is_given else [True]
    sparse = tuple(i for i in stack.all if not (i < len(dense) and dense[i]))
    experts = stack.size("num_experts")
    used, shared = config["num_experts_per_tok"].whole(1, experts), stack.size("shared_expert_intermediate_size")
    stack.experts(sparse, experts, used, stack.size("moe_intermediate_size"), shared)
    stack.vectors += len(sparse) * experts
    stack.ffn(tuple(i for i in stack.all if i not in sparse), stack.inner)


def minimax(stack: Stack) -> None:
    """Read MiniMax-01: lightning attention beside full."""
    kinds = stack.kinds() if stack.config["layer_types"].is_given else [LINEAR if i % 2 else FULL for i in stack.all]
    recurrent.lightning(stack, where(kinds, LINEAR))
    stack.attention(where(kinds, FULL))
    count = stack.size("num_local_experts")
    used = stack.config["num_experts_per_tok"].whole(1, count)
    stack.experts(stack.all, count, used, stack.inner)


def automatic(stack: Stack, key: str, heads: str, inner: int) -> int:
    """Return the size of a Mamba head, which may be "auto"."""
    value = stack.config[key]
    return inner // stack.size(heads) if value.value in (None, "auto") else stack.size(key)


def mamba_beside(stack: Stack, at: Layers, *, normed: bool = True) -> None:
    """Add Mamba-2 as Granite 4, Bamba and Falcon-H1 spell it."""
    inner = stack.size("mamba_expand", 2) * stack.hidden
    if stack.config["mamba_d_ssm"].is_given:
        inner = stack.size("mamba_d_ssm")
    head_dim = automatic(stack, "mamba_d_head", "mamba_n_heads", inner)
    stack.config = stack.config.but(mamba_d_head=head_dim)
    recurrent.mamba2(stack, at, MAMBA2, normed=normed, inner=inner)


def granite(stack: Stack) -> None:
    """Read Granite 4: Mamba-2 beside full attention; experts beside a shared part, or the shared part alone."""
    kinds = stack.kinds() if stack.config["layer_types"].is_given else [LINEAR] * stack.layers
    mamba_beside(stack, where(kinds, LINEAR))
    stack.attention(where(kinds, FULL))
    count, shared = stack.config["num_local_experts"].whole(0, MAX_COUNT), stack.size("shared_intermediate_size")
    if count:
        used = stack.config["num_experts_per_tok"].whole(1, count)
        stack.experts(stack.all, count, used, stack.inner, shared)
    else:
        stack.ffn(stack.all, shared)


def bamba(stack: Stack) -> None:
    """Read Bamba: Mamba-2, and attention in the layers that are listed."""
    listed = stack.config["attn_layer_indices"]
    full = tuple(i.whole(0, stack.layers - 1) for i in listed.elements()) if listed.is_given else ()
    if stack.config["layer_types"].is_given:
        full = where(stack.kinds(), FULL)
    mamba_beside(stack, tuple(i for i in stack.all if i not in full))
    stack.attention(full)
    stack.ffn(stack.all, stack.inner)


def falcon_h1(stack: Stack) -> None:
    """Read Falcon-H1: Mamba-2 and attention side by side in every layer."""
    mamba_beside(stack, stack.all, normed=stack.config["mamba_rms_norm"].flag(False))
    stack.attention(stack.all)
    stack.ffn(stack.all, stack.inner)


def jamba(stack: Stack) -> None:
    """Read Jamba: Mamba with an attention layer now and then, experts in every other layer."""
    periods = {key: stack.size(f"{key}_layer_period") for key in ("attn", "expert")}
    offsets = {key: stack.config[f"{key}_layer_offset"].whole() for key in periods}
    full, sparse = (tuple(i for i in stack.all if i % periods[key] == offsets[key]) for key in ("attn", "expert"))
    count = stack.size("num_experts")
    sparse = sparse if count > 1 else ()
    inner = stack.size("mamba_expand") * stack.hidden
    rank = stack.config["mamba_dt_rank"]
    steps = -(-stack.hidden // 16) if rank.value in (None, "auto") else stack.size("mamba_dt_rank")
    others = tuple(i for i in stack.all if i not in full)
    recurrent.mamba1(stack, others, MAMBA2, inner=inner, rank=steps, normed=True)
    stack.attention(full)
    stack.experts(sparse, count, stack.config["num_experts_per_tok"].whole(1, count), stack.inner)
    stack.ffn(tuple(i for i in stack.all if i not in sparse), stack.inner)


PATTERN = {"M": LINEAR, "*": FULL, "-": "mlp", "E": "moe"}
BLOCKS = {"mamba": LINEAR, "linear_attention": LINEAR, "attention": FULL, "full_attention": FULL}
BLOCKS |= {"mlp": "mlp", "moe": "moe"}
NEMOTRON = {"heads": "mamba_num_heads", "head_dim": "mamba_head_dim", "groups": "n_groups", "state": "ssm_state_size"}
NEMOTRON |= {"kernel": "conv_kernel", "conv_bias": "use_conv_bias", "bias": "mamba_proj_bias"}


def nemotron_kinds(config: Field) -> list[str]:
    """Return what each layer of Nemotron-H is: one of Mamba, attention, a feed-forward part or experts."""
    listed = next((config[k] for k in ("layers_block_type", "layer_types") if config[k].is_given), None)
    if listed is not None:
        return [BLOCKS[layer.choice(tuple(BLOCKS))] for layer in listed.elements()]
    text = config["hybrid_override_pattern"].text()
    if set(text) - set(PATTERN):
        config["hybrid_override_pattern"].refuse(f"a letter for each layer, of {', '.join(PATTERN)}")
    return [PATTERN[letter] for letter in text]


def nemotron_layers(config: Field) -> Field:
    """Count the layers of Nemotron-H, which its pattern tells."""
    kinds, stated = nemotron_kinds(config), config["num_hidden_layers"]
    if stated.is_given and stated.whole() != len(kinds):
        stated.refuse(f"{len(kinds)}, the layers that this nemotron_h lists")
    return config.but(num_hidden_layers=len(kinds))


def nemotron_h(stack: Stack) -> None:
    """Read Nemotron-H: each layer is one thing."""
    kinds = nemotron_kinds(stack.config)
    recurrent.mamba2(stack, where(kinds, LINEAR), NEMOTRON)
    if FULL in kinds:
        stack.attention(where(kinds, FULL))
    if "mlp" in kinds:
        stack.ffn(where(kinds, "mlp"), stack.inner)
    if "moe" not in kinds:
        return
    at, count = where(kinds, "moe"), stack.size("n_routed_experts")
    used = stack.config["num_experts_per_tok"].whole(1, count)
    width = stack.size("moe_latent_size") if stack.config["moe_latent_size"].is_given else 0
    has_shared = stack.config["n_shared_experts"].whole(0, MAX_COUNT, default=1) > 0
    shared = stack.size("moe_shared_expert_intermediate_size") if has_shared else 0
    stack.experts(at, count, used, stack.size("moe_intermediate_size"), shared, width)
    if width:
        stack.matrix(stack.hidden, {"mlp.fc1_latent_proj": width}, at)
        stack.matrix(width, {"mlp.fc2_latent_proj": stack.hidden}, at)


def lfm2_ties(config: Field) -> Field:
    """Put whether embeddings are tied as others do, where a file has LFM2's own word."""
    own = config["tie_embedding"]
    return config.but(tie_word_embeddings=own.flag()) if own.is_given else config


def lfm2(stack: Stack) -> None:
    """Read LFM2: short convolutions beside attention; experts after some dense layers in its mixtures."""
    config, listed = stack.config, stack.config["full_attn_idxs"]
    full = tuple(i.whole(0, stack.layers - 1) for i in listed.elements()) if listed.is_given else stack.all
    if config["layer_types"].is_given:
        full = where(stack.kinds(), FULL)
    recurrent.short_convolution(stack, tuple(i for i in stack.all if i not in full))
    stack.attention(full)
    inner = stack.inner
    if config["block_auto_adjust_ff_dim"].flag(False):
        unit = stack.size("block_multiple_of")
        inner = int(config["block_ffn_dim_multiplier"].number(default=1.0) * int(2 * inner / 3))
        inner = -(-inner // unit) * unit
    sparse: Layers = ()
    if config["num_experts"].is_given:
        first, count = config["num_dense_layers"].whole(0, stack.layers), stack.size("num_experts")
        sparse, used = stack.all[first:], config["num_experts_per_tok"].whole(1, count)
        stack.experts(sparse, count, used, stack.size("moe_intermediate_size"))
    stack.ffn(tuple(i for i in stack.all if i not in sparse), inner)


def mamba(stack: Stack) -> None:
    """Read Mamba and Mamba-2."""
    keys = {"heads": "num_heads", "head_dim": "head_dim", "groups": "n_groups", "state": "state_size"}
    keys |= {"kernel": "conv_kernel", "conv_bias": "use_conv_bias", "bias": "use_bias"}
    inner = stack.size("expand") * stack.hidden
    if stack.config["model_type"].value == "mamba2":
        recurrent.mamba2(stack, stack.all, keys, inner=inner)
        return
    rank = stack.config["time_step_rank"]
    steps = -(-stack.hidden // 16) if rank.value in (None, "auto") else stack.size("time_step_rank")
    recurrent.mamba1(stack, stack.all, keys, inner=inner, rank=steps)


def apertus(stack: Stack) -> None:
    """Read Apertus: an activation with two parameters a layer."""
    stack.windowed()
    stack.ffn(stack.all, stack.inner)
    stack.vectors += 2 * stack.layers


WHISPER = Layout(
    tied=True,
    gated=False,
    norms=3,
    layer_norm=True,
    ffn_bias=True,
    keys={
        "layers": "decoder_layers",
        "hidden": "d_model",
        "heads": "decoder_attention_heads",
        "kv_heads": "decoder_attention_heads",
        "ffn": "decoder_ffn_dim",
        "encoder_layers": "encoder_layers",
        "encoder_ffn": "encoder_ffn_dim",
    },
)
BART = replace(WHISPER, final_norm=False)
T5 = Layout(
    tied=True,
    norms=3,
    gated="is_gated_act",
    keys={
        "layers": "num_decoder_layers",
        "hidden": "d_model",
        "heads": "num_heads",
        "ffn": "d_ff",
        "kv_heads": "num_heads",
        "encoder_layers": "num_layers",
    },
)


def cross_attention(stack: Stack, inner: int, source: int) -> None:
    """Add attention to what an encoder has read, whose keys and values are made once."""
    parts = {"encoder_attn.k_proj": inner, "encoder_attn.v_proj": inner}
    stack.matrix(stack.hidden, parts, stack.all, used=0)
    stack.matrix(stack.hidden, {"encoder_attn.q_proj": inner}, stack.all)
    stack.matrix(inner, {"encoder_attn.o_proj": stack.hidden}, stack.all)
    width = 2 * inner // stack.heads
    stack.attentions.append(Attention(stack.layers, stack.heads, width, 2 * inner, stack.heads, fixed=source))


def encoder(
    stack: Stack, layers: int, heads: int, inner: int, ffn: int, vectors: int, *, gated: bool, longest: int | None
) -> None:
    """Add an encoder, which decoding does not run, and which runs alone before the first token.

    Its pass also makes keys and values of cross attention, which are there already. vectors: of its norms and biases.
    longest: what it reads at most.
    """
    at, crossing = tuple(range(layers)), stack.attentions[-1]
    stack.matrix(stack.hidden, {f"encoder.self_attn.{name}_proj": inner for name in "qkv"}, at, used=0)
    stack.matrix(inner, {"encoder.self_attn.o_proj": stack.hidden}, at, used=0)
    stack.matrix(stack.hidden, {"encoder.mlp.up_proj": (1 + gated) * ffn}, at, used=0)
    stack.matrix(ffn, {"encoder.mlp.down_proj": stack.hidden}, at, used=0)
    seen = Attention(layers, heads, 2 * inner // heads, 0, heads, both_ways=True)
    made = Attention(crossing.layers, heads, 0, crossing.kv_size, crossing.shares)
    stack.encoder = ModelShape(
        name="",
        family=stack.config["model_type"].text(),
        layers=layers,
        hidden_size=stack.hidden,
        heads=heads,
        vocabulary=stack.vocabulary,
        tied_embeddings=True,
        embedding_size=stack.hidden,
        matrices=tuple(m._replace(used=m.used or 1) for m in stack.matrices if not m.used),
        vectors=vectors,
        attentions=(seen, made),
        longest_context=longest,
    )


def whisper(stack: Stack) -> None:
    """Read Whisper: keys have no bias, positions are learned, two convolutions before the encoder."""
    hidden, layers = stack.hidden, stack.layers
    source, mel, ffn = (stack.size(k) for k in ("max_source_positions", "num_mel_bins", "encoder_ffn_dim"))
    count, heads = stack.config["encoder_layers"].whole(1, MAX_LAYERS), stack.size("encoder_attention_heads")
    stack.attention(stack.all)
    cross_attention(stack, hidden, source)
    stack.ffn(stack.all, stack.inner)
    # Two convolutions of width 3, of which the first is of twice as many frames.
    convolutions = [
        Matrix(3 * size, ((f"encoder.conv{i}", hidden),), used=0) for i, size in enumerate((mel, hidden), 1)
    ]
    stack.matrices += convolutions
    # Biases of query, value and output, twice in the decoder; the encoder's, and its norms.
    stack.vectors += layers * 2 * 3 * hidden
    vectors = count * (3 * hidden + 4 * hidden + ffn + hidden) + 2 * hidden + 2 * hidden
    encoder(stack, count, heads, hidden, ffn, vectors, gated=False, longest=source)
    assert stack.encoder is not None
    twice = tuple(m._replace(used=2) if m == convolutions[0]._replace(used=1) else m for m in stack.encoder.matrices)
    stack.encoder = replace(stack.encoder, matrices=twice)
    targets = stack.size("max_target_positions")
    stack.tables, stack.row_size = (source + targets) * hidden, hidden


def bart(stack: Stack) -> None:
    """Read BART and mBART: learned positions on either side, two rows more, and a norm behind embeddings."""
    hidden, layers, ffn = stack.hidden, stack.layers, stack.size("encoder_ffn_dim")
    count, heads = stack.config["encoder_layers"].whole(1, MAX_LAYERS), stack.size("encoder_attention_heads")
    longest = stack.size("max_position_embeddings")
    stack.attention(stack.all)
    cross_attention(stack, hidden, min(SOURCE_TOKENS, longest))
    stack.ffn(stack.all, stack.inner)
    # Biases of query, key, value and output, twice in the decoder, and in the encoder; norms, also behind embeddings.
    stack.vectors += layers * 2 * 4 * hidden + 2 * hidden
    # mBART has a norm behind the layers of its encoder, too.
    vectors = count * (4 * hidden + 4 * hidden + ffn + hidden) + 2 * hidden * (1 + stack.flag(stack.layout.final_norm))
    encoder(stack, count, heads, hidden, ffn, vectors, gated=False, longest=longest)
    stack.tables, stack.row_size = 2 * (stack.size("max_position_embeddings") + 2) * hidden, hidden
    if not stack.config["tie_word_embeddings"].flag(True):
        # Either side then has a table of tokens besides the model's.
        stack.tables += 2 * stack.vocabulary * hidden


def t5_layers(config: Field) -> Field:
    """Put what T5 leaves out: as many decoder layers as encoder layers, and whether its inner layers are gated."""
    layers = config["num_decoder_layers"].value or config["num_layers"].whole(1, MAX_LAYERS)
    gated = str(config["feed_forward_proj"].value).startswith("gated-")
    return config.but(num_decoder_layers=layers, is_gated_act=gated)


def t5(stack: Stack) -> None:
    """Read T5 and mT5: relative positions in the first layer of either side (umT5: in all)."""
    inner = stack.heads * stack.size("d_kv")
    stack.attention(stack.all, head_dim=stack.size("d_kv"))
    cross_attention(stack, inner, SOURCE_TOKENS)
    stack.ffn(stack.all, stack.inner)
    count, gated = stack.config["num_layers"].whole(1, MAX_LAYERS), stack.flag("is_gated_act")
    every = stack.config["model_type"].value == "umt5"
    buckets = stack.size("relative_attention_num_buckets") * stack.heads
    stack.vectors += (stack.layers if every else 1) * buckets
    vectors = (2 * count + 1) * stack.hidden + (count if every else 1) * buckets
    encoder(stack, count, stack.heads, inner, stack.inner, vectors, gated=gated, longest=None)
