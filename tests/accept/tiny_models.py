"""Models small enough to enumerate what they say, and the bundled pair."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    PretrainedConfig,
)

import acceptance
from acceptance.models import compat
from acceptance.models import model as loaded
from acceptance.models.load import load_pair
from acceptance.models.model import Model
from acceptance.models.source import Source

BUNDLED = Path(acceptance.__file__).parent / "tiny_pair"
Pair = tuple[Model, Model]
NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


class Trigram(torch.nn.Module):
    """Logits from a table of the last two tokens, of which the one before the query is read back from the KV cache.

    So a cache that was rolled back, packed or masked wrongly changes the law, as it does in a transformer.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, table: torch.Tensor) -> None:
        """Take logits by previous token (the last row: there is none) and token, [vocabulary + 1, vocabulary, ...]."""
        super().__init__()
        self.table = table
        self.config = PretrainedConfig(num_hidden_layers=1, vocab_size=table.shape[-1])

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        columns = input_ids.float()[:, None, :, None]
        if past_key_values is not None:
            columns, _ = past_key_values.update(columns, columns, 0)
        seen = columns[:, 0, :, 0].long()
        index = torch.arange(seen.shape[1])
        sees = index[-input_ids.shape[1] :, None] > index
        if attention_mask is not None:
            tree = attention_mask.ndim == 4
            assert attention_mask.shape[-1] == len(index), "the mask covers another number of columns than the cache"
            sees = sees & (attention_mask[:, 0] == 0 if tree else attention_mask.bool()[:, None])
        before = torch.where(sees, index, -1).amax(-1).expand(input_ids.shape)
        previous = torch.where(before < 0, self.table.shape[0] - 1, seen.gather(1, before.clamp(min=0)))
        return SimpleNamespace(logits=self.table[previous, input_ids][:, -logits_to_keep:])


def trigram_pair(seed: int, vocabulary: int = 4, spread: float = 1.2, apart: float = 1.0) -> Pair:
    """A random target, and a draft that differs from it by noise."""
    random = torch.Generator().manual_seed(seed)
    shape = (vocabulary + 1, vocabulary, vocabulary)
    target = spread * torch.randn(shape, generator=random)
    draft = target + apart * torch.randn(shape, generator=random)
    return tuple(Model(module=Trigram(table), vocabulary=vocabulary) for table in (target, draft))  # type: ignore


LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 1}
SHAPES: dict[str, dict[str, int]] = {
    "llama": LLAMA,
    "mistral": LLAMA | {"sliding_window": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def random_model(kind: str, seed: int, vocabulary: int, **changes: Any) -> Model:
    """A random transformer: "llama", "gpt2" with absolute positions, "mistral" with a sliding window."""
    torch.manual_seed(seed)
    shape = {"vocab_size": vocabulary, "initializer_range": 0.5} | NO_ENDS | SHAPES.get(kind, {}) | changes
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    return Model(module=module.eval(), vocabulary=vocabulary)


def related_model(model: Model, seed: int, noise: float) -> Model:
    """A draft that resembles a target: the same weights, each moved by noise of the weights' own size."""
    torch.manual_seed(seed)
    module = type(model.module)(model.module.config)
    weights = {n: w + noise * w.std() * torch.randn_like(w) for n, w in model.module.state_dict().items() if w.ndim > 1}
    module.load_state_dict(model.module.state_dict() | weights)
    return Model(module=module.eval(), vocabulary=model.vocabulary)


@cache
def related_pair(kind: str, seed: int, vocabulary: int) -> Pair:
    """A random target and a draft that agrees with it now and then; made once."""
    target = random_model(kind, seed, vocabulary)
    return target, related_model(target, seed + 1, 0.25)


def prompts_of(seed: int, lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(vocabulary, size=n).tolist() for n in lengths]


@cache
def bundled_pair() -> loaded.Pair:
    return load_pair(str(BUNDLED / "target"), str(BUNDLED / "draft"), device="cpu", dtype="float32")


def bundled_prompts() -> list[list[int]]:
    lines = (BUNDLED / "prompts.jsonl").read_text().splitlines()
    return [bundled_pair().tokenizer(json.loads(line)["prompt"]).input_ids for line in lines]


ENDS_OF = {"decoder_start_token_id": 0, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
BART |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
BART |= {f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")}
WHISPER = {k: v for k, v in BART.items() if k != "max_position_embeddings"}
WHISPER |= {"max_source_positions": 6, "max_target_positions": 64, "num_mel_bins": 5}
# Sizes of encoder-decoder models, and the tokens that their decoders begin with.
SEQ2SEQ: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "t5": (T5 | {"feed_forward_proj": "gated-gelu"}, (0,)),
    "bart": (BART | {"forced_eos_token_id": None}, (0, 2)),
    "whisper": (WHISPER, (0, 2, 1)),
}


def seq2seq_model(kind: str, seed: int, vocabulary: int, **changes: Any) -> Model:
    """A random model of an encoder and a decoder: of relative, of learned positions, or one that reads sound."""
    torch.manual_seed(seed)
    sizes, first = SEQ2SEQ[kind]
    shape = {"vocab_size": vocabulary, "tie_word_embeddings": False} | ENDS_OF | sizes | changes
    of = AutoModelForSpeechSeq2Seq if kind == "whisper" else AutoModelForSeq2SeqLM
    module = of.from_config(AutoConfig.for_model(kind, **shape)).eval()
    for part in module.modules():
        # As they are made, such models say the same token for ever, whatever they read.
        if isinstance(part, torch.nn.Embedding | torch.nn.Linear | torch.nn.Conv1d):
            width = 1 if isinstance(part, torch.nn.Embedding) else part.weight[0].numel()
            torch.nn.init.normal_(part.weight, std=1.5 / width**0.5)
    return Model(module=module, vocabulary=vocabulary, first=first)


def source_of(model: Model, seed: int, length: int) -> Source:
    """A random source: tokens, or features of the one shape there is."""
    rng = np.random.default_rng(seed)
    shape = compat.feature_shape(model.module)
    if shape:
        return torch.from_numpy(rng.standard_normal(shape)).float()
    return tuple(rng.integers(model.vocabulary, size=length).tolist())


@cache
def seq2seq_pair(kind: str, seed: int, vocabulary: int) -> Pair:
    """A random target and a draft that agrees with it now and then, with an encoder of its own."""
    target = seq2seq_model(kind, seed, vocabulary)
    return target, replace(related_model(target, seed + 1, 0.25), first=target.first)


def save_seq2seq(folder: Path, kind: str, seed: int, words: Sequence[str], **changes: Any) -> Path:
    """Such a model in a folder, with a tokenizer of these words, the first of which stands for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=words[0]).save_pretrained(folder)
    model = seq2seq_model(kind, seed, len(words), **changes)
    model.module.generation_config.forced_bos_token_id = dict(enumerate(model.first)).get(1)
    model.module.save_pretrained(folder)
    return folder
