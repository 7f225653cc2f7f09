"""Drafters that are no language models of their own: heads on a target's states, and drafts of a block in one pass."""

from dataclasses import replace
from typing import NamedTuple

from simulator.ground.fields import Field
from simulator.ground.names import Found

from .config_json import MAX_SIZE, Stack
from .families import FAMILIES
from .layers import BLOCK, CHAIN, HEAD, Drafting, Matrix
from .work import ModelShape

# Layers of the target whose states a head reads, where its file does not say.
STATES_READ = 3
# Parts of names of architectures, the first that is found, and how they draft; None: not priced.
KINDS: dict[str, str | None] = {
    "dspark": "dspark",
    "dflash": "dflash",
    "peagle": "peagle",
    "peagle3": "peagle",
    "eagle3": "eagle3",
    "eagle": "eagle",
    "medusa": None,
    "hydra": None,
    "speculator": None,
    "nextn": None,
    "mtp": None,
    "hass": None,
    "draft": None,
}


class Known(NamedTuple):
    """A drafter that is priced: how it is called, an architecture of its files, its passes, what it reads."""

    name: str
    architecture: str
    passes: str
    reads: str


HEADS = (
    Known("EAGLE", "LlamaForCausalLMEagle", CHAIN, "the target's last state"),
    Known("EAGLE-3", "LlamaForCausalLMEagle3", CHAIN, f"states of {STATES_READ} layers of the target"),
    Known("P-EAGLE", "PEagleDraftModel", BLOCK, f"states of {STATES_READ} layers of the target"),
    Known("DFlash", "DFlashDraftModel", BLOCK, "states of layers in its file"),
    Known("DSpark", "DSparkDraftModel", BLOCK, "the same, and the token before"),
)
KNOWN = (
    Known("draft model", "any that is read, such as llama-3.2-1b", CHAIN, "tokens alone"),
    Known("PARD", "such a model, with pard_token", BLOCK, "tokens alone"),
    *HEADS,
)
# Keys that no language model's file has, and what drafts by them where no architecture tells: the first that is there.
TELLING_KEYS = {"dflash_config": "DFlashDraftModel"}
TELLING_KEYS |= dict.fromkeys(
    ("draft_vocab_size", "target_hidden_size", "eagle_config", "eagle_aux_hidden_state_layer_ids"),
    "LlamaForCausalLMEagle3",
)
# Of the bias by the token before that DSpark adds, where its file does not say.
MARKOV_RANK = 256


def drafter_architecture(config: Field) -> Found:
    """Return the architecture of a file that describes a drafter, or nothing; said: where only its keys tell.

    Raises:
        UserError: It is one that is not priced.
    """
    listed, own = config["architectures"], config["speculators_model_type"]
    names = [e.text() for e in listed.elements()] if listed.is_given else []
    names += [own.text()] if own.is_given else []
    names += ["medusa"] if config["medusa_num_heads"].is_given else []
    names += ["mlp_speculator"] if config["model_type"].value == "mlp_speculator" else []
    name = next((name for name in names if kind_of(name) is not None), "")
    projector = config["dflash_config"]["projector_type"] if config["dflash_config"].is_given else config["no such"]
    if projector.is_given and projector.value != "dflash":
        name = projector.text()
    if name and KINDS.get(kind_of(name) or "") is None:
        raise config.error(
            f"{config.path}: the drafter {name!r} is not priced, expected one that `drafters list` shows"
        )
    key = next((k for k in TELLING_KEYS if config[k].is_given), None)
    if name or key is None or config["pard_token"].is_given:
        return Found(name)
    name = TELLING_KEYS[key]
    return Found(name, f"read as {next(k.name for k in HEADS if k.architecture == name)}, as {key} in its file tells")


def kind_of(architecture: str) -> str | None:
    """Return the part of an architecture's name that tells a drafter."""
    plain = architecture.lower().replace("_", "").replace("-", "")
    return None if plain.endswith("forconditionalgeneration") else next((part for part in KINDS if part in plain), None)


def drafter(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of a drafter.

    Args:
        config: Of its layers, filled.
        outer: Of the drafter, which may be the same.
        architecture: As `drafter_architecture` found it.
    """
    kind, family = KINDS[kind_of(architecture) or ""], FAMILIES[config["model_type"].text()]
    head = Head(config, replace(family.layout, kinds=None, kinds_if=""))
    own = outer["dflash_config"] if outer["dflash_config"].is_given else outer
    if kind in ("dflash", "dspark"):
        listed = own["target_layer_ids"]
        reads = len(listed.elements()) if listed.is_given else head.layers
    else:
        reads = 2 if kind == "eagle" else STATES_READ
    target_hidden = outer["target_hidden_size"].whole(1, MAX_SIZE, default=head.hidden)
    head.state_size = target_hidden
    head.matrix(reads * target_hidden, {"fc": head.hidden}, (0,))
    family.read(head)
    head.vectors += head.hidden
    if kind in ("dflash", "dspark"):
        block = outer["block_size"].whole(2, 10_000)
        if kind == "dspark":
            return head.dspark(architecture, block, own["markov_rank"].whole(1, MAX_SIZE, default=MARKOV_RANK))
        return head.ended(Drafting(architecture, BLOCK, block - 1, 1, 1), head.vocabulary, own=False)
    if kind != "eagle":
        head.widen()
    vocabulary = outer["draft_vocab_size"].whole(1, MAX_SIZE, default=head.vocabulary)
    # In parallel: what was just accepted, and a place for each token that is drafted.
    is_parallel = kind == "peagle" or outer["parallel_drafting"].value is True
    drafting = Drafting(architecture, BLOCK, None, 2, 0) if is_parallel else Drafting(architecture, CHAIN)
    return head.ended(drafting, vocabulary, own=kind != "eagle")


# Modules that read what comes into a layer's attention.
READERS = ("self_attn.q_proj", "self_attn.qkv_proj", "self_attn.q_a_proj", "self_attn.kv_a_proj")


class Head(Stack):
    """The layers of a drafter that reads its target's states; embeddings, and often the head, are the target's."""

    # Numbers of such a state.
    state_size = 0

    def widen(self) -> None:
        """Have the first layer's attention read the token's embedding beside the states (EAGLE-3, arXiv 2503.01840)."""
        matrices, self.matrices = self.matrices, []
        for m in matrices:
            is_wide = 0 in m.layers and m.inputs == self.hidden and m.parts[0][0].startswith(READERS)
            rest = tuple(i for i in m.layers if i != 0) if is_wide else m.layers
            self.matrices += [m._replace(inputs=2 * self.hidden, layers=(0,))] if is_wide else []
            self.matrices += [m._replace(layers=rest)] if rest else []

    def dspark(self, architecture: str, block: int, rank: int) -> ModelShape:
        """Return a block drafter whose tokens get, one after another, a bias of low rank by the token before."""
        self.matrices.append(Matrix(rank, (("markov_head", self.vocabulary),), used=0))
        self.tables, self.row_size = self.vocabulary * rank, rank
        drafting = Drafting(architecture, BLOCK, block, 1, 0, step_size=rank * self.vocabulary)
        return self.ended(drafting, self.vocabulary, own=False)

    def ended(self, drafting: Drafting, vocabulary: int, *, own: bool) -> ModelShape:
        """Return the shape; its output head is its own, perhaps of fewer words, or the target's."""
        shape = self.finish()
        head = Matrix(self.hidden, ((HEAD, vocabulary),), is_borrowed=not own)
        outer = [*(m for m in shape.matrices if m.parts[0][0] != HEAD), head]
        # Tied: what is not multiplied, the embeddings, lies with the target.
        drafting = drafting._replace(state_size=self.state_size)
        return replace(shape, matrices=tuple(outer), tied_embeddings=True, drafting=drafting)
