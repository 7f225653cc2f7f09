"""Heads that draft from the target's own hidden states: Medusa's and EAGLE's; their weights, and whose they are.

The hidden state f_t at position t, behind the final norm, is what the target's output head reads token t + 1 from. Both
kinds say their tokens through that same output head, so it is stored with neither; or through those rows of it that a
draft vocabulary names.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as as_bytes

import acceptance
from acceptance.models.check import probe, probe_distance
from acceptance.models.model import Model, hidden_size_of
from simulator.ground.artefacts import UserError, read_hashed, write_json, writing
from simulator.ground.fields import read_json_object

from .batch import Batch
from .chain import Proposal
from .tree import Tree

BUNDLED = Path(acceptance.__file__).parent / "tiny_pair" / "heads"
FORMAT = 1
WEIGHTS, CONFIG, TRAINING = "model.safetensors", "config.json", "training.json"
# In CONFIG, of WEIGHTS.
HASH = "sha256"


class Head(torch.nn.Module):  # type: ignore[misc]
    """What both kinds are. `d2t` names the tokens of its draft vocabulary, as EAGLE-3 does: token of row i, less i."""

    d2t: torch.Tensor | None

    def __init__(self, draft_vocabulary: int | None) -> None:
        """Take how many tokens it says at most, or None for all of the target's."""
        super().__init__()
        size = draft_vocabulary
        self.register_buffer("d2t", None if size is None else torch.zeros(size, dtype=torch.int64))

    @property
    def tokens(self) -> torch.Tensor | None:
        """The tokens that it says, in ascending order; None: all."""
        return None if self.d2t is None else self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def say(self, tokens: torch.Tensor) -> None:
        """Have it say these tokens alone, as many as its draft vocabulary has."""
        assert self.d2t is not None
        self.d2t.copy_(tokens.sort().values - torch.arange(len(tokens)))


class Voice:
    """What a head's tokens are read from its features through: the target's output head, all of it or some rows.

    A target with many tokens spends most of a draft pass there, and most tokens are rare (FR-Spec, arXiv 2502.14856).
    """

    def __init__(self, target: Model, module: Head) -> None:
        """Take the rows of the head's draft vocabulary, if it has one."""
        self.target, self.tokens = target, module.tokens
        if self.tokens is not None:
            head = target.module.get_output_embeddings()
            self.weight = head.weight.detach()[self.tokens]
            self.bias = None if head.bias is None else head.bias.detach()[self.tokens]

    @property
    def size(self) -> int:
        """How many tokens it can say."""
        return self.target.vocabulary if self.tokens is None else len(self.tokens)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Read tokens from features, [..., size]."""
        if self.tokens is None:
            return token_logits(self.target, features)
        return torch.nn.functional.linear(features, self.weight, self.bias)

    def said(self, places: torch.Tensor) -> torch.Tensor:
        """Return the tokens that stand at some places of the logits."""
        return places if self.tokens is None else self.tokens[places]

    def widened(self, laws: torch.Tensor, missing: float = 0.0) -> torch.Tensor:
        """Return laws, [..., size], as laws of all tokens, [..., vocabulary]; or logits, of which -inf is missing."""
        if self.tokens is None:
            return laws
        return laws.new_full((*laws.shape[:-1], self.target.vocabulary), missing).index_copy_(-1, self.tokens, laws)


class Medusa(Head):
    """Cai et al. 2024 (arXiv 2401.10774), §2.1: head i reads token t + 1 + i from f_t, i = 1..heads.

    Each head is residual blocks h + SiLU(W h + b) that begin as the identity.
    """

    def __init__(self, *, hidden_size: int, heads: int, blocks: int, draft_vocabulary: int | None = None) -> None:
        """Take sizes."""
        super().__init__(draft_vocabulary)
        linear = torch.nn.Linear
        self.heads = torch.nn.ModuleList(
            torch.nn.ModuleList(linear(hidden_size, hidden_size) for _ in range(blocks)) for _ in range(heads)
        )
        for weight in self.parameters():
            torch.nn.init.zeros_(weight)

    def forward(self, hidden: torch.Tensor, heads: int) -> torch.Tensor:
        """Return what the output head reads the tokens of the first heads from, [..., heads, d]; hidden [..., d]."""
        logits = []
        for head in self.heads[:heads]:
            state = hidden
            for block in head:
                state = state + torch.nn.functional.silu(block(state))
            logits.append(state)
        return torch.stack(logits, dim=-2)


class Eagle(Head):
    """Li et al. 2024 (arXiv 2401.15077): one decoder layer that goes on with the target's hidden states.

    From f_t and the embedding of token t + 1 it makes f_(t + 1). The layer is Llama's. Attention is left to the caller:
    `project`, attend, `finish`.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        heads: int,
        kv_heads: int,
        mlp_size: int,
        rope_theta: float,
        draft_vocabulary: int | None = None,
    ) -> None:
        """Take sizes."""
        super().__init__(draft_vocabulary)
        linear, norm = torch.nn.Linear, torch.nn.RMSNorm
        self.head_size, self.rope_theta = hidden_size // heads, rope_theta
        narrow = kv_heads * self.head_size
        self.embedding_norm, self.feature_norm = norm(hidden_size, 1e-6), norm(hidden_size, 1e-6)
        self.join = linear(2 * hidden_size, hidden_size, bias=False)
        self.attention_norm, self.mlp_norm = norm(hidden_size, 1e-6), norm(hidden_size, 1e-6)
        self.query = linear(hidden_size, heads * self.head_size, bias=False)
        self.key, self.value = linear(hidden_size, narrow, bias=False), linear(hidden_size, narrow, bias=False)
        self.out = linear(heads * self.head_size, hidden_size, bias=False)
        self.gate, self.up = linear(hidden_size, mlp_size, bias=False), linear(hidden_size, mlp_size, bias=False)
        self.down = linear(mlp_size, hidden_size, bias=False)
        self.norm = norm(hidden_size, 1e-6)

    def project(
        self, embeddings: torch.Tensor, features: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the layer's input [rows, n, d], and queries, keys and values, [rows, n, heads, head size].

        embeddings: of token t + 1. features: f_t, or the head's own in its place; [rows, n, d] both. positions: t.
        """
        state = self.join(torch.cat((self.embedding_norm(embeddings), self.feature_norm(features)), dim=-1))
        normed = self.attention_norm(state)
        split = (*state.shape[:2], -1, self.head_size)
        queries, keys, values = (part(normed).view(split) for part in (self.query, self.key, self.value))
        return state, self.rotated(queries, positions), self.rotated(keys, positions), values

    def rotated(self, vectors: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Turn pairs of values by angles that grow with the position (Su et al. 2021)."""
        half = self.head_size // 2
        rates = self.rope_theta ** -(torch.arange(half, device=vectors.device) / half)
        angles = positions[..., None, None] * rates
        cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        first, second = vectors[..., :half], vectors[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def finish(self, state: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return f_(t + 1) as the head has it, [rows, n, d]; attended [rows, n, heads, head size]."""
        state = state + self.out(attended.flatten(2))
        normed = self.mlp_norm(state)
        return self.norm(state + self.down(torch.nn.functional.silu(self.gate(normed)) * self.up(normed)))


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sees: Any = None) -> torch.Tensor:
    """Attention, [rows, n, heads, head size]; sees: bool [rows, n, columns], or causal if not given."""
    mask = {"is_causal": True} if sees is None else {"attn_mask": sees[:, None]}
    parts = (part.transpose(1, 2) for part in (queries, keys, values))
    return torch.nn.functional.scaled_dot_product_attention(*parts, enable_gqa=True, **mask).transpose(1, 2)


KINDS: dict[str, Any] = {"medusa": Medusa, "eagle": Eagle}


def token_logits(target: Model, features: torch.Tensor) -> torch.Tensor:
    """Let the target's output head read tokens from hidden states, [..., vocabulary]."""
    return target.module.get_output_embeddings()(features)[..., : target.vocabulary]


def hidden_of_prompts(batch: Batch) -> torch.Tensor:
    """Return the target's hidden states of what `start` read, padded on the left, [rows, n, d], n >= 1."""
    if batch.target.hidden is not None:
        return batch.target.hidden
    target = batch.target.model
    return torch.zeros(len(batch.index), 1, hidden_size_of(target), device=target.device, dtype=target.module.dtype)


def no_proposal(rows: int) -> Proposal:
    """Return a chain of no tokens."""
    nothing = np.zeros(rows, np.int64)
    return Proposal(tokens=torch.zeros((rows, 0), dtype=torch.long), lengths=nothing, passes=nothing)


def no_tree() -> Tree:
    """Return a tree of no nodes."""
    nothing = np.zeros(0, np.int64)
    return Tree(tokens=nothing, parents=nothing)


def save(
    folder: Path,
    kind: str,
    module: Any,
    *,
    target: Model,
    shape: Mapping[str, Any],
    weights_sha256: str,
    more: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write fp16 weights, what they belong to, and how they were trained."""
    weights = {name: stored(values) for name, values in module.state_dict().items()}
    data = as_bytes(weights)
    with writing(folder / WEIGHTS, "wb") as file:
        file.write(data)
    of_target = {"vocabulary": target.vocabulary, "weights_sha256": weights_sha256, "probe": probe(target)}
    config = {"kind": kind, "format": FORMAT, "hidden_size": hidden_size_of(target), "shape": dict(shape)}
    write_json(folder / TRAINING, training)
    # Last: it says that all is written.
    write_json(folder / CONFIG, config | {HASH: sha256(data).hexdigest(), "target": of_target} | dict(more))


def stored(values: torch.Tensor) -> torch.Tensor:
    """Return weights as a file holds them: in fp16, but for the names of tokens."""
    dtype = torch.float16 if values.is_floating_point() else values.dtype
    return values.detach().to("cpu", dtype).contiguous()


def load(kind: str, folder: Path, target: Model) -> tuple[Any, dict[str, Any]]:
    """Load heads of this target, in its precision and place, and their configuration.

    Raises:
        UserError: They cannot be read, are of another kind, or belong to another target.
    """
    option = f"--{kind} {folder}"
    try:
        config = read_json_object(folder / CONFIG)
        held = (config["kind"], config["format"])
        if held != (kind, FORMAT):
            raise UserError(f"{option}: holds {held[0]} heads of format {held[1]}, expected {kind} of {FORMAT}")
        check_target(option, config, target)
        module = KINDS[kind](hidden_size=config["hidden_size"], **config["shape"])
        module.load_state_dict(from_bytes(read_hashed(folder / WEIGHTS, config.get(HASH), CONFIG)[0]))
    except UserError:
        raise
    except Exception as error:  # JSON, safetensors and torch raise what they like
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option}: cannot be loaded ({reason})") from None
    if not all(torch.isfinite(w).all() for w in module.parameters()):
        raise UserError(f"{option}: its weights hold NaN or infinity")
    if module.d2t is not None:
        check_tokens(option, module.tokens, target)
    return module.to(target.device, target.module.dtype).eval().requires_grad_(False), config


def check_tokens(option: str, tokens: torch.Tensor, target: Model) -> None:
    """Refuse a draft vocabulary with a token twice, or one that the target has not."""
    if bool((tokens.diff() <= 0).any()) or not 0 <= int(tokens[0]) <= int(tokens[-1]) < target.vocabulary:
        raise UserError(f"{option}: its d2t is no draft vocabulary, expected ascending tokens of {target.vocabulary}")


def check_target(option: str, config: Mapping[str, Any], target: Model) -> None:
    """Refuse heads of another target: by size, then by what the target says."""
    expected = (config["hidden_size"], config["target"]["vocabulary"])
    actual = (hidden_size_of(target), target.vocabulary)
    if expected != actual:
        raise UserError(
            f"{option}: made for a target of hidden size {expected[0]} and {expected[1]} tokens, "
            f"but --target has {actual[0]} and {actual[1]}"
        )
    if apart := probe_distance(target, config["target"]["probe"]):
        raise UserError(f"{option}: made for another target (hidden states differ by {apart:.0%}), expected its own")
