"""A pair of very small random Llama models over one word tokenizer, saved as users' models are."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import acceptance
from acceptance.models.load import load_pair
from acceptance.models.model import Pair

WORDS = [f"w{i}" for i in range(40)]


def save_model(folder: Path, seed: int, words: list[str], **changes: int) -> Path:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<eos>", *words])}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.3}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = LlamaConfig(vocab_size=len(words) + 1, **shape | ends | changes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a random target and a random draft that share a vocabulary."""
    root = tmp_path_factory.mktemp("pair")
    return save_model(root / "target", 1, WORDS), save_model(root / "draft", 2, WORDS)


@pytest.fixture(scope="session")
def pair(random_pair: tuple[Path, Path]) -> Pair:
    """The random pair, loaded."""
    return load_pair(*map(str, random_pair), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def other_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer maps two words the other way round."""
    return save_model(tmp_path_factory.mktemp("other"), 3, [WORDS[1], WORDS[0], *WORDS[2:]])


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The bundled pair's tokenizer, of bytes."""
    return AutoTokenizer.from_pretrained(Path(acceptance.__file__).parent / "tiny_pair" / "target")
