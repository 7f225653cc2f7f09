"""A language model, causal or with an encoder, and a pair of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

# A task by name: speech is written down.
ASR = "asr"
# What a model reads in place of a token that it has no row for.
STAND_IN = 0
# What configs call the longest context, the usual name first: GPT-2, MPT, Bloom and ChatGLM, CTRL, Whisper, RWKV.
CONTEXT_NAMES = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_seq_length"),
    *("seq_length", "seq_len", "n_ctx", "max_target_positions", "context_length", "max_context_length"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A causal language model, or one of an encoder and a decoder.

    vocabulary: logits that count: a target's rows, each padded beyond the tokenizer's tokens to a size of its own; of a
    draft those that its target has as well. first: tokens that the decoder of an encoder-decoder model begins with.
    ends: tokens that end an output, as the model's own generation config says. never, never_first: tokens that one that
    hears may not write, at all or first. graphs: whether single sequences are read through CUDA graphs. own_stream:
    whether it works on a CUDA stream of its own when it drafts.
    """

    module: Any
    vocabulary: int
    ends: tuple[int, ...] = ()
    first: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    graphs: bool = False
    own_stream: bool = False

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads what its decoder answers."""
        return bool(getattr(self.module.config, "is_encoder_decoder", False))

    @property
    def unbarred(self) -> "Model":
        """The same, which may write every token: what it computes is compared with what its module does."""
        return replace(self, never=(), never_first=())

    @property
    def context_length(self) -> int:
        """Tokens it can see at most, as its config says under whichever name."""
        config = self.module.config.get_text_config()
        stated = (getattr(config, name, None) for name in CONTEXT_NAMES)
        return next((n for n in stated if type(n) is int and n > 0), 2**31)

    @property
    def device(self) -> Any:
        """Where its inputs go."""
        return self.module.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target and its draft, and their tokenizers: one, unless the draft has another.

    ear: what makes features of sound, of a pair that hears; see `sound.Ear`.
    """

    target: Model
    draft: Model
    tokenizer: Any
    draft_tokenizer: Any
    device: str
    dtype: str
    ear: Any = None

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


def token_count(tokenizer: Any) -> int:
    """Return how many rows a tokenizer's tokens need, those that were added among them."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def end_tokens(module: Any) -> list[int]:
    """Token ids that end an output, as the model's own generation config says."""
    ends = module.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, Sequence) else [ends]


def hidden_size_of(model: Model) -> int:
    """Return the length of a model's hidden states."""
    return int(model.module.config.get_text_config().hidden_size)
