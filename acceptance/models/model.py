"""A causal language model, and a pair of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A causal language model.

    vocabulary: logits that count; models pad their output beyond the tokenizer's tokens, each to a size of its own.
    ends: tokens that end an output, as the model's own generation config says. graphs: whether single sequences are
    read through CUDA graphs. own_stream: whether it works on a CUDA stream of its own when it drafts.
    """

    module: Any
    vocabulary: int
    ends: tuple[int, ...] = ()
    graphs: bool = False
    own_stream: bool = False

    @property
    def context_length(self) -> int:
        """Tokens it can see at most."""
        return getattr(self.module.config.get_text_config(), "max_position_embeddings", None) or 2**31

    @property
    def device(self) -> Any:
        """Where its inputs go."""
        return self.module.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target and its draft, and their tokenizers: one, unless the draft has another."""

    target: Model
    draft: Model
    tokenizer: Any
    draft_tokenizer: Any
    device: str
    dtype: str

    @property
    def tokenizers(self) -> tuple[Any, Any]:
        """The target's and the draft's."""
        return self.tokenizer, self.draft_tokenizer

    @property
    def same_vocabulary(self) -> bool:
        """Whether a token means the same to both."""
        return self.draft_tokenizer is self.tokenizer

    @property
    def context_lengths(self) -> tuple[int, int]:
        """Tokens that the target and the draft can see at most; of one vocabulary, the shorter for both."""
        lengths = self.target.context_length, self.draft.context_length
        return (min(lengths),) * 2 if self.same_vocabulary else lengths


def vocabulary_of(module: Any) -> int:
    """Return how many logits a model has."""
    return int(module.config.get_text_config().vocab_size)


def end_tokens(module: Any) -> list[int]:
    """Token ids that end an output, as the model's own generation config says."""
    ends = module.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, Sequence) else [ends]


def hidden_size_of(model: Model) -> int:
    """Return the length of a model's hidden states."""
    return int(model.module.config.get_text_config().hidden_size)
