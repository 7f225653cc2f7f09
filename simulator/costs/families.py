"""The families of models that are read: what the layers of each hold, as the models of transformers do."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from simulator.ground.fields import Field

from . import gemma, gpt, hybrids
from .config_json import MAX_COUNT, MAX_SIZE, Layers, Layout, Stack, refuse_other, where
from .work import ModelShape


class Family(NamedTuple):
    """How a family's layers are read. read: adds them to a stack; prepare: puts a file's values as others have them."""

    layout: Layout
    read: Callable[[Stack], None]
    prepare: Callable[[Field], Field] = lambda config: config


def dense(stack: Stack) -> None:
    """Read layers of attention and a dense feed-forward part."""
    stack.windowed()
    stack.ffn(stack.all, stack.inner)


def split(stack: Stack, is_sparse: Callable[[int], bool]) -> tuple[Layers, Layers]:
    """Return the layers with experts, and those without."""
    chosen = [is_sparse(i) for i in stack.all]
    return tuple(i for i in stack.all if chosen[i]), tuple(i for i in stack.all if not chosen[i])


def per_token(stack: Stack, key: str, count: int) -> int:
    """Return how many of a layer's experts a token takes."""
    return stack.config[key].whole(1, count)


def local_experts(stack: Stack) -> None:
    """Read Mixtral and what is built like it: experts of intermediate_size in every layer."""
    stack.windowed()
    count = stack.config["num_local_experts"].whole(0, MAX_COUNT)
    if count:
        shared = stack.config["shared_intermediate_size"].whole(0, MAX_SIZE, default=0)
        stack.experts(stack.all, count, per_token(stack, "num_experts_per_tok", count), stack.inner, shared)
    else:
        stack.ffn(stack.all, stack.size("shared_intermediate_size"))


def qwen_sparse(stack: Stack) -> Callable[[int], bool]:
    """Return which layers of a Qwen model have experts."""
    step, listed = stack.size("decoder_sparse_step", 1), stack.config["mlp_only_layers"]
    without = [layer.whole() for layer in listed.elements()] if listed.is_given else []
    return lambda i: i not in without and (i + 1) % step == 0


def qwen_experts(stack: Stack) -> None:
    """Add the feed-forward parts of Qwen's mixtures: experts, beside a shared one where the file has its size."""
    sparse, other = split(stack, qwen_sparse(stack))
    count = stack.size("num_local_experts" if stack.config["num_local_experts"].is_given else "num_experts")
    shared = stack.size("shared_expert_intermediate_size") if stack.layout.shared_gate else 0
    used = per_token(stack, "num_experts_per_tok", count)
    stack.experts(sparse, count, used, stack.size("moe_intermediate_size"), shared)
    if other:
        stack.ffn(other, stack.inner)


def qwen_moe(stack: Stack) -> None:
    """Read Qwen2-MoE and Qwen3-MoE."""
    stack.windowed()
    qwen_experts(stack)


def qwen_hybrid(stack: Stack) -> None:
    """Read Qwen3-Next and Qwen3.5: three layers of linear attention before each full one."""
    hybrids.linear_and_full(stack)
    if stack.config["num_experts"].is_given and stack.config["num_experts"].value != 0:
        qwen_experts(stack)
    else:
        stack.ffn(stack.all, stack.inner)


# Families whose first layer alone is dense where the file does not say.
ONE_DENSE = ("glm4_moe_lite", "hy_v3")


def routed(stack: Stack) -> None:
    """Add the feed-forward parts of DeepSeek and GLM: leading dense layers, then routed beside shared experts."""
    refuse_other(stack.config, "moe_layer_freq", 1)
    if not stack.config["n_routed_experts"].is_given:
        stack.ffn(stack.all, stack.inner)
        return
    listed = stack.config["mlp_layer_types"]
    if listed.is_given:
        kinds = [layer.choice(("dense", "sparse")) for layer in listed.elements()]
        if len(kinds) != stack.layers:
            listed.refuse(f"'dense' or 'sparse' for each of {stack.layers} layers")
        sparse, leading = where(kinds, "sparse"), where(kinds, "dense")
    else:
        usual = 1 if stack.config["model_type"].value in ONE_DENSE else 0
        first = stack.config["first_k_dense_replace"].whole(0, stack.layers, default=usual)
        sparse, leading = split(stack, lambda i: i >= first)
    if leading:
        stack.ffn(leading, stack.inner)
    if sparse:
        count, inner = stack.size("n_routed_experts"), stack.size("moe_intermediate_size")
        shared = stack.config["n_shared_experts"].whole(0, MAX_COUNT, default=0) * inner
        stack.experts(sparse, count, per_token(stack, "num_experts_per_tok", count), inner, shared)


def deepseek(stack: Stack) -> None:
    """Read DeepSeek-V2 and V3 and their kin: latent attention; without the layers that predict a second token."""
    refuse_other(stack.config, "mlp_bias", False)
    stack.latent(stack.all)
    if stack.config["index_topk"].is_given:
        listed = stack.config["indexer_types"]
        kinds = [k.text() for k in listed.elements()] if listed.is_given else ["full"] * stack.layers
        stack.index(where(kinds, "full"))
    routed(stack)


def glm_moe(stack: Stack) -> None:
    """Read GLM-4.5 and dots1: grouped attention before DeepSeek's feed-forward parts."""
    stack.windowed()
    routed(stack)


def expert_experts(stack: Stack) -> None:
    """Read OLMoE: experts of intermediate_size in every layer, by another key."""
    stack.windowed()
    count = stack.size("num_experts")
    stack.experts(stack.all, count, per_token(stack, "num_experts_per_tok", count), stack.inner)


def ernie_moe(stack: Stack) -> None:
    """Read ERNIE 4.5's mixtures."""
    config = stack.config
    stack.windowed()
    first, step = config["moe_layer_start_index"].whole(0), stack.size("moe_layer_interval")
    last = config["moe_layer_end_index"].whole(-1)
    last = stack.layers - 1 if last == -1 else last
    sparse, other = split(stack, lambda i: (i + 1) % step == 0 and first <= i <= last)
    count, inner = stack.size("moe_num_experts"), stack.size("moe_intermediate_size")
    shared = config["moe_num_shared_experts"].whole(0, MAX_COUNT, default=0) * inner
    stack.experts(sparse, count, per_token(stack, "moe_k", count), inner, shared)
    # The router's correction of each expert is a parameter here.
    stack.vectors += len(sparse) * count
    stack.ffn(other, stack.inner)


def same_in_all(value: Field) -> Field:
    """Return a number that a file states once, or for each layer; other layers with other numbers are refused."""
    if not isinstance(value.value, list) or not value.value:
        return value
    if len(set(map(repr, value.value))) > 1:
        value.refuse("the same number for each layer")
    return value.elements()[0]


def bailing(config: Field) -> Field:
    """Put what Ling, EXAONE and Hunyuan 3 call differently as DeepSeek does."""
    names = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
    return config.but(**{name: config[own].value for name, own in names.items()})


def hunyuan_moe(stack: Stack) -> None:
    """Read Hunyuan's mixtures: one shared expert of the size of a routed one."""
    stack.windowed()
    count, used = (same_in_all(stack.config[k]).whole(1, MAX_COUNT) for k in ("num_experts", "moe_topk"))
    stack.experts(stack.all, count, min(used, count), stack.inner, stack.inner)


def llama4(stack: Stack) -> None:
    """Read the text models of Llama 4: experts in every layer or every other, beside a shared one."""
    config = stack.config
    listed, step = config["moe_layers"], stack.size("interleave_moe_layer_step", 1)
    chosen = (
        [e.whole() for e in listed.elements()] if listed.is_given else [i for i in stack.all if (i + 1) % step == 0]
    )
    stack.windowed()
    sparse, other = split(stack, lambda i: i in chosen)
    count = stack.size("num_local_experts")
    stack.experts(sparse, count, per_token(stack, "num_experts_per_tok", count), stack.inner, stack.inner)
    if other:
        stack.ffn(other, stack.size("intermediate_size_mlp"))


def llama4_chunked(config: Field, layer: int) -> bool:
    """Whether a layer of Llama 4 sees chunks, where its file has no list of kinds."""
    listed = config["no_rope_layers"]
    if listed.is_given and listed.elements():
        flags = [e.whole(0, 1) for e in listed.elements()]
        return layer < len(flags) and bool(flags[layer])
    return (layer + 1) % config["no_rope_layer_interval"].whole(1, MAX_SIZE, default=4) != 0


def every(config: Field, i: int) -> bool:
    """Whether a layer has a window: each."""
    return True


def after(config: Field, i: int) -> bool:
    """Whether a Qwen layer has a window: from max_window_layers on."""
    return i >= config["max_window_layers"].whole(0, MAX_SIZE, default=0)


def alternate_before(config: Field, i: int) -> bool:
    """Whether a Qwen2-MoE layer has one: every other before max_window_layers."""
    return i % 2 == 0 and i < config["max_window_layers"].whole(0, MAX_SIZE)


def pattern(most: int) -> Callable[[Field, int], bool]:
    """Return the rule that all layers have a window but every n-th: the file's sliding_window_pattern or `most`."""

    def has_window(config: Field, i: int) -> bool:
        return (i + 1) % config["sliding_window_pattern"].whole(1, MAX_SIZE, default=most) != 0

    return has_window


def all_but_last(config: Field, i: int) -> bool:
    """Whether a layer of Gemma 4 has a window: all but every sixth, and but the last."""
    return (i + 1) % 6 != 0 and i + 1 != config["num_hidden_layers"].value


def moved(layout: Layout, **more: object) -> Layout:
    """Return a layout with some facts changed."""
    return replace(layout, **more)  # type: ignore[arg-type]


BIASED = Layout(gated=False, layer_norm=True, qkv_bias=True, output_bias=True, ffn_bias=True)
LLAMA = Layout(qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias")
BARE = Layout(qkv_bias="attention_bias", output_bias="attention_bias")
GEMMA = replace(BARE, tied=True)
QWEN3 = replace(BARE, head_norms=True, kinds_if="use_sliding_window")
QWEN2 = Layout(qkv_bias=True, kinds_if="use_sliding_window")
GATED = replace(QWEN3, kinds_if="", query_gate=True, shared_gate=True)


FAMILIES: dict[str, Family] = {
    "llama": Family(LLAMA, dense),
    "arcee": Family(moved(LLAMA, gated=False), dense),
    "granite": Family(LLAMA, dense),
    "helium": Family(moved(LLAMA, output_bias=False), dense),
    "smollm3": Family(moved(LLAMA, tied=True, kinds_if="use_sliding_window"), dense),
    "seed_oss": Family(moved(LLAMA, output_bias="attention_out_bias"), dense),
    "mistral": Family(Layout(kinds=every), dense),
    "ministral": Family(Layout(kinds=every), dense),
    "ministral3": Family(Layout(kinds=every), dense),
    "mixtral": Family(Layout(kinds=every), local_experts),
    "phi3": Family(Layout(kinds=every), dense),
    "phi4_multimodal": Family(Layout(kinds=every), dense),
    "phi": Family(moved(BIASED, norms=1, head_norms="qk_layernorm", head_bias=True), dense),
    "phimoe": Family(moved(BARE, layer_norm=True, head_bias="lm_head_bias", kinds=every), local_experts),
    "qwen2": Family(moved(QWEN2, kinds=after), dense),
    "qwen2_vl_text": Family(moved(QWEN2, kinds=after), dense),
    "qwen2_5_vl_text": Family(moved(QWEN2, kinds=after), dense),
    "qwen2_5_omni_text": Family(moved(QWEN2, kinds=after), dense),
    "qwen2_moe": Family(moved(QWEN2, qkv_bias="qkv_bias", kinds=alternate_before, shared_gate=True), qwen_moe),
    "qwen3": Family(moved(QWEN3, kinds=after), dense),
    "qwen3_moe": Family(moved(QWEN3, kinds=every), qwen_moe),
    "qwen3_vl_text": Family(moved(QWEN3, kinds_if=""), dense),
    "qwen3_vl_moe_text": Family(moved(QWEN3, kinds_if=""), qwen_moe),
    "qwen3_omni_moe_text": Family(moved(QWEN3, kinds_if=""), qwen_moe),
    "qwen3_next": Family(GATED, qwen_hybrid),
    "qwen3_5_text": Family(moved(GATED, shared_gate=False), qwen_hybrid),
    "qwen3_5_moe_text": Family(GATED, qwen_hybrid),
    "gemma": Family(GEMMA, dense),
    "gemma2": Family(moved(GEMMA, norms=4, kinds=lambda config, i: i % 2 == 0), dense),
    "gemma3_text": Family(moved(GEMMA, norms=4, head_norms=True, kinds=pattern(6)), dense),
    "gemma4_text": Family(moved(GEMMA, norms=4, kinds=all_but_last), gemma.gemma4),
    "gemma3n_text": Family(moved(GEMMA, norms=4, kinds=pattern(5)), gemma.gemma3n),
    "opt": Family(Layout(), gpt.opt),
    "gpt2": Family(moved(BIASED, tied=True, keys=gpt.GPT2_KEYS), gpt.gpt2),
    "gptj": Family(
        moved(BIASED, qkv_bias=False, output_bias=False, norms=1, head_bias=True, keys=gpt.GPT2_KEYS), gpt.gpt2
    ),
    "codegen": Family(
        moved(BIASED, qkv_bias=False, output_bias=False, norms=1, head_bias=True, keys=gpt.GPT2_KEYS), gpt.gpt2
    ),
    "gpt_bigcode": Family(moved(BIASED, tied=True, keys=gpt.GPT2_KEYS), gpt.bigcode),
    "gpt_neox": Family(moved(BIASED, qkv_bias="attention_bias", output_bias="attention_bias"), dense),
    "bloom": Family(moved(BIASED, tied=True, keys={"layers": "n_layer", "heads": "n_head"}), gpt.bloom),
    "mpt": Family(
        Layout(gated=False, tied=True, keys={"layers": "n_layers", "hidden": "d_model", "heads": "n_heads"}), gpt.mpt
    ),
    "falcon": Family(
        Layout(gated=False, tied=True, norms=0, layer_norm=True, qkv_bias="bias", output_bias="bias", ffn_bias="bias"),
        gpt.falcon,
    ),
    "starcoder2": Family(
        moved(BIASED, tied=True, qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias", kinds=every), dense
    ),
    "stablelm": Family(Layout(layer_norm=True, qkv_bias="use_qkv_bias"), dense),
    "nemotron": Family(moved(LLAMA, gated=False, layer_norm=True), dense),
    "cohere": Family(moved(BARE, tied=True, norms=1), dense),
    "cohere2": Family(moved(BARE, tied=True, norms=1, kinds=pattern(4)), dense),
    "exaone4": Family(Layout(head_norms=True, kinds=pattern(4)), dense),
    "apertus": Family(moved(BARE, gated=False, head_norms=True), hybrids.apertus),
    "olmo": Family(moved(BARE, plain_norms=True), dense),
    "olmo2": Family(moved(BARE, head_norms=True, wide_norms=True), dense),
    "olmo3": Family(moved(BARE, head_norms=True, wide_norms=True, kinds=pattern(4)), dense),
    "olmoe": Family(moved(BARE, head_norms=True, wide_norms=True), expert_experts),
    "deepseek_v2": Family(Layout(), deepseek),
    "deepseek_v3": Family(Layout(), deepseek),
    "deepseek_v32": Family(Layout(), deepseek),
    "glm_moe_dsa": Family(Layout(), deepseek),
    "glm4_moe_lite": Family(Layout(), deepseek),
    "mistral4": Family(Layout(), deepseek),
    "kimi_linear": Family(Layout(), hybrids.kimi_linear, hybrids.kimi_layers),
    "glm": Family(Layout(qkv_bias="attention_bias"), dense),
    "glm4": Family(Layout(qkv_bias="attention_bias", norms=4), dense),
    "glm4v_text": Family(Layout(qkv_bias=True, norms=4), dense),
    "glm4v_moe_text": Family(Layout(qkv_bias="attention_bias"), glm_moe),
    "solar_open": Family(Layout(qkv_bias="attention_bias", head_norms="use_qk_norm"), glm_moe),
    "glm4_moe": Family(Layout(qkv_bias="attention_bias", head_norms="use_qk_norm"), glm_moe),
    "deepseek": Family(BARE, glm_moe),
    "exaone_moe": Family(Layout(head_norms=True, kinds=pattern(4)), glm_moe, bailing),
    "hy_v3": Family(moved(BARE, head_norms=True), glm_moe, bailing),
    "bailing_moe": Family(Layout(qkv_bias="use_qkv_bias", output_bias="use_bias"), glm_moe, bailing),
    "bailing_moe_v2": Family(
        Layout(qkv_bias="use_qkv_bias", output_bias="use_bias", head_norms="use_qk_norm"), glm_moe, bailing
    ),
    "dots1": Family(moved(BARE, head_norms=True, kinds=after), glm_moe),
    "minimax_m2": Family(Layout(head_norms=True, wide_norms=True), local_experts),
    "laguna": Family(moved(BARE, head_norms=True), hybrids.laguna),
    "minimax": Family(Layout(), hybrids.minimax),
    "llama4_text": Family(moved(BARE, kinds=llama4_chunked, window="attention_chunk_size"), llama4),
    "gpt_oss": Family(
        moved(BARE, sinks=True, router_bias=True, expert_bias=True, kinds=lambda config, i: i % 2 == 0), local_experts
    ),
    "ernie4_5": Family(Layout(tied=True, qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias"), dense),
    "ernie4_5_moe": Family(
        Layout(tied=True, head_bias="use_bias", qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias"),
        ernie_moe,
    ),
    "hunyuan_v1_dense": Family(moved(BARE, head_norms=True), dense),
    "hunyuan_v1_moe": Family(moved(BARE, head_norms=True), hunyuan_moe),
    "granitemoe": Family(BARE, local_experts),
    "granitemoeshared": Family(BARE, local_experts),
    "granitemoehybrid": Family(BARE, hybrids.granite),
    "bamba": Family(LLAMA, hybrids.bamba),
    "falcon_h1": Family(LLAMA, hybrids.falcon_h1),
    "jamba": Family(Layout(), hybrids.jamba),
    "nemotron_h": Family(
        Layout(gated=False, norms=1, qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias"),
        hybrids.nemotron_h,
        hybrids.nemotron_layers,
    ),
    "lfm2": Family(Layout(tied=True, head_norms=True), hybrids.lfm2, hybrids.lfm2_ties),
    "lfm2_moe": Family(Layout(tied=True, head_norms=True), hybrids.lfm2, hybrids.lfm2_ties),
    "mamba": Family(Layout(tied=True, norms=1, keys={"heads": "hidden_size"}), hybrids.mamba),
    "falcon_mamba": Family(Layout(tied=True, norms=1, keys={"heads": "hidden_size"}), hybrids.mamba),
    "mamba2": Family(Layout(norms=1, keys={"heads": "num_heads"}), hybrids.mamba),
    "whisper": Family(hybrids.WHISPER, hybrids.whisper),
    "bart": Family(hybrids.BART, hybrids.bart),
    "mbart": Family(hybrids.WHISPER, hybrids.bart),
    "t5": Family(hybrids.T5, hybrids.t5, hybrids.t5_layers),
    "mt5": Family(hybrids.T5, hybrids.t5, hybrids.t5_layers),
    "umt5": Family(hybrids.T5, hybrids.t5, hybrids.t5_layers),
}
# Families by another name: told by their architecture, or the name of a text model for that of its wrapper.
ALIASES = {
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "mimo": "qwen2",
    "internlm3": "llama",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
ALIASES |= dict.fromkeys(("internlm2", "internlm3", "baichuan", "xverse", "aquila"), "llama")
# A wrapper's text model, where it does not name its family.
ALIASES |= dict.fromkeys(("llava", "llava_next", "idefics3", "smolvlm", "voxtral", "video_llava", "vipllava"), "llama")
ALIASES |= dict.fromkeys(("mistral3", "idefics2", "pixtral"), "mistral")
ALIASES |= dict.fromkeys(("llava_onevision", "internvl", "qwen2_audio"), "qwen2")
# Modules that predict further tokens, by the model they come with.
ALIASES |= {"deepseek_mtp": "deepseek_v3", "mimo_mtp": "qwen2", "ernie_mtp": "ernie4_5_moe", "glm4_moe_mtp": "glm4_moe"}
ALIASES |= {"qwen3_next_mtp": "qwen3_next", "qwen3_5_mtp": "qwen3_5_text", "exaone_moe_mtp": "exaone_moe"}
ALIASES |= {"glm4_moe_lite_mtp": "glm4_moe_lite", "hy_v3_mtp": "hy_v3", "nemotron_h_mtp": "nemotron_h"}
ALIASES |= {"paligemma": "gemma", "aya_vision": "cohere2", "lfm2_vl": "lfm2", "granite_speech": "granite"}


def language_model(config: Field) -> ModelShape:
    """Return the shape of a model whose file is filled."""
    family = FAMILIES[config["model_type"].text()]
    layout = gpt.opt_layout(config) if config["model_type"].value == "opt" else family.layout
    stack = Stack(config, layout)
    family.read(stack)
    return stack.finish()
