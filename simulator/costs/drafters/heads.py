"""What heads on a target's states have in common: their layers, their matrices, and what they borrow."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from simulator.costs.config_json import MAX_LAYERS, MAX_SIZE, Stack
from simulator.costs.families import FAMILIES
from simulator.costs.layers import HEAD, Drafting, Matrix
from simulator.costs.work import ModelShape
from simulator.ground.fields import Field

# Layers of the target whose states a head reads, where its file does not say.
STATES_READ = 3
AUX = "eagle_aux_hidden_state_layer_ids"
# Whether it reads them; else the target's last state alone.
JOINS = "use_aux_hidden_state"
# Joins what is read of the target to the size of the head's own states.
JOIN = "fc"
# What a block's tokens go through one after another.
CORRECTOR = "corrector"
# Modules that read what comes into a layer's attention.
READERS = ("self_attn.q_proj", "self_attn.qkv_proj", "self_attn.q_a_proj", "self_attn.kv_a_proj")
# Of heads in published files: of numbers that a target's shape does not tell.
USUAL_HEAD_DIM, USUAL_INNER, USUAL_WORDS = 128, 3.5, 32_000


class Head(Stack):
    """The layers of a drafter that reads its target's states; embeddings, and often the head, are the target's."""

    # Numbers of such a state, and the last layer that one is read of, where its file says.
    state_size, deepest = 0, 0

    def widen(self) -> None:
        """Have the first layer's attention read the token's embedding beside the states (EAGLE-3, arXiv 2503.01840)."""
        matrices, self.matrices = self.matrices, []
        for m in matrices:
            is_wide = 0 in m.layers and m.inputs == self.hidden and m.parts[0][0].startswith(READERS)
            rest = tuple(i for i in m.layers if i != 0) if is_wide else m.layers
            self.matrices += [m._replace(inputs=2 * self.hidden, layers=(0,))] if is_wide else []
            self.matrices += [m._replace(layers=rest)] if rest else []

    def ended(self, drafting: Drafting, vocabulary: int, *, own: bool) -> ModelShape:
        """Return the shape; its output head is its own, perhaps of fewer words, or the target's."""
        shape = self.finish()
        head = Matrix(self.hidden, ((HEAD, vocabulary),), is_borrowed=not own)
        outer = [*(m for m in shape.matrices if m.parts[0][0] != HEAD), head]
        # Tied: what is not multiplied, the embeddings, lies with the target.
        drafting = drafting._replace(state_size=self.state_size, deepest=self.deepest)
        return replace(shape, matrices=tuple(outer), tied_embeddings=True, drafting=drafting)


def head_of(config: Field, outer: Field, states: int) -> Head:
    """Return the layers of a head.

    Args:
        config: Of its layers, filled.
        outer: Of the drafter, which may be the same.
        states: States of the target, or of the token and the target, that it joins; 0: it takes one as it is.
    """
    family = FAMILIES[config["model_type"].text()]
    head = Head(config, replace(family.layout, kinds=None, kinds_if=""))
    head.state_size = outer["target_hidden_size"].whole(1, MAX_SIZE, default=head.hidden)
    if states:
        head.matrix(states * head.state_size, {JOIN: head.hidden}, (0,))
    family.read(head)
    head.vectors += head.hidden
    return head


def states_head(config: Field, outer: Field) -> Head:
    """Return the layers of a head that joins states of several layers of the target, or takes its last one as it is.

    A list of none is as no list, as in engines.
    """
    parts = [p for p in (outer["eagle_config"], outer) if p.is_given]
    listed = next((p[AUX] for p in parts if p[AUX].is_given), outer["no such"])
    if not next((p[JOINS] for p in parts if p[JOINS].is_given), outer["no such"]).flag(True):
        return head_of(config, outer, 0)
    ids = layer_ids(listed) if listed.is_given else ()
    head = head_of(config, outer, len(ids) or STATES_READ)
    head.deepest = max(ids, default=0)
    return head


def layer_ids(listed: Field) -> tuple[int, ...]:
    """Return the layers of the target whose states are read."""
    return tuple(each.whole(0, MAX_LAYERS) for each in listed.elements())


def draft_vocabulary(outer: Field, head: Head) -> int:
    """Return the words of a head: its own fewer ones where its file says so."""
    return outer["draft_vocab_size"].whole(1, head.vocabulary, default=head.vocabulary)


def first_given(config: Field, *keys: str) -> Field:
    """Return the value of the first of some keys that a file has, or of the last."""
    return next((config[key] for key in keys if config[key].is_given), config[keys[-1]])


def sizes_of(config: Field) -> tuple[int, int]:
    """Return the sizes of a target's states and vocabulary; files that lack them name a model."""
    named = config["base_model_name_or_path"]
    if config["hidden_size"].is_given or not named.is_given:
        return config["hidden_size"].whole(1, MAX_SIZE), config["vocab_size"].whole(1, MAX_SIZE)
    from simulator.costs.shapes import read_shape

    base = read_shape(named.text())
    return base.hidden_size, base.vocabulary


@lru_cache(maxsize=64)
def products(shape: ModelShape, *matrices: Matrix) -> ModelShape:
    """Return what reads some matrices alone."""
    more: dict[str, Any] = {
        "layers": 0,
        "vectors": 0,
        "attentions": (),
        "states": (),
        "embedding_size": 0,
        "row_size": 0,
    }
    return replace(shape, matrices=matrices, **more)


@lru_cache(maxsize=64)
def corrector(shape: ModelShape) -> ModelShape:
    """Return what is read to correct a token of a block by those before it."""
    own = (m._replace(used=1) for m in shape.matrices if m.parts[0][0].startswith(CORRECTOR))
    return products(shape, *own)


@lru_cache(maxsize=64)
def without(shape: ModelShape, module: str) -> ModelShape:
    """Return a shape without its modules of such a name."""
    return replace(shape, matrices=tuple(m for m in shape.matrices if not m.parts[0][0].startswith(module)))


def usual_head(target: ModelShape, title: str, architecture: str, own: dict[str, Any]) -> ModelShape:
    """Return the head that such a target usually gets: dense layers of its sizes, and `own` of its config.json."""
    from simulator.costs.shapes import shape_of

    values = usual_layer(target) | {"architectures": [architecture]} | own
    shape = shape_of(Field(values, f"a usual {title}"), f"a usual {title}")
    return replace(shape, assumed="sizes such as published ones have, as no --draft-model says others")


def usual_layer(target: ModelShape) -> dict[str, Any]:
    """Return what the config.json of a head on this target says of its layers: dense ones of the target's sizes."""
    heads = target.heads or max(1, target.hidden_size // USUAL_HEAD_DIM)
    attention = next(iter(target.attentions), None) if target.heads else None
    is_plain = attention is not None and attention.kv_size > 0 and attention.kv_size % attention.pair_size == 0
    head_dim = attention.pair_size // 2 if attention and is_plain else USUAL_HEAD_DIM
    kv_heads = attention.kv_size // attention.pair_size if attention and is_plain else heads
    found: Mapping[str, int] = {name: outputs for m in target.matrices if not m.is_expert for name, outputs in m.parts}
    return {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": target.hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": found.get("mlp.up_proj", int(USUAL_INNER * target.hidden_size)),
        "vocab_size": target.vocabulary,
        "max_position_embeddings": target.longest_context or 2048,
        "tie_word_embeddings": False,
    }
