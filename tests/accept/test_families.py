"""Families of models with caches, masks and positions of their own: the loop gives the target's own greedy text."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from acceptance.models import check
from acceptance.models.model import Model
from simulator.ground.artefacts import UserError

from .oracles import check_loop_and_trace, greedy_without_cache
from .tiny_models import NO_ENDS

VOCABULARY, BUDGET = 30, 12
IDS: dict[str, Any] = {"vocab_size": VOCABULARY} | NO_ENDS
SHAPE = IDS | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
RANGE, LOCAL = {"initializer_range": 0.4}, {"attention_types": [[["global", "local"], 1]]}
GEMMA = SHAPE | {"sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8}
OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
EXPERTS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2, hybrid window": ("Gemma2Config", GEMMA),
    "gemma3, hybrid window": ("Gemma3TextConfig", GEMMA | {"num_hidden_layers": 7}),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 8}),
    "phi3": ("Phi3Config", SHAPE),
    "opt, learned positions": ("OPTConfig", IDS | OPT | {"pad_token_id": 1, "init_std": 0.4}),
    "bloom, no positions": ("BloomConfig", IDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4} | RANGE),
    "mixtral, experts": ("MixtralConfig", SHAPE | {"num_local_experts": 4}),
    "deepseek, latent": ("DeepseekV3Config", SHAPE | EXPERTS | LATENT),
}
# Those that only trees are read by, or that are only inflated.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", SHAPE | {"head_dim": 8}),
    "qwen2": ("Qwen2Config", SHAPE),
    "gpt_neo": ("GPTNeoConfig", IDS | {"hidden_size": 16, "num_layers": 2, "num_heads": 2} | LOCAL),
    "mpt": ("MptConfig", IDS | {"d_model": 16, "n_layers": 2, "n_heads": 2}),
}


def make(family: str, seed: int) -> Model:
    torch.manual_seed(seed)
    name, settings = (FAMILIES | OTHERS)[family]
    module = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings)).eval()
    return Model(module=module, vocabulary=VOCABULARY)


@pytest.mark.parametrize("family", FAMILIES)
def test_loop_and_trace_in_a_ragged_batch_agree_with_plain_prefixes(family: str) -> None:
    target, draft = make(family, 1), make(family, 2)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, VOCABULARY, n).tolist() for n in (1, 3, 7, 12, 2)]
    expected = [greedy_without_cache(target, p, BUDGET) for p in prompts]
    check_loop_and_trace(target, draft, prompts, expected)


def test_a_recurrent_model_is_refused() -> None:
    config = transformers.MambaConfig(**IDS, hidden_size=32, num_hidden_layers=1, state_size=8)
    with pytest.raises(UserError, match="--draft some/mamba: mamba keeps a recurrent state"):
        check.check_cache("--draft", "some/mamba", transformers.AutoModelForCausalLM.from_config(config))
