"""Drafters that are no language models of their own: heads on a target's states, and drafts of a block in one pass."""

from dataclasses import replace

from simulator.ground.fields import Field

from .config_json import Layers, Stack
from .families import FAMILIES
from .layers import HEAD, Drafting, Matrix
from .work import ModelShape

# Layers of the target whose states a head reads, where its file does not say.
STATES_READ = 3
CHAIN, BLOCK = "chain", "block"
# Parts of names of architectures, the first that is found, and how they draft; None: not priced.
KINDS: dict[str, str | None] = {
    "dspark": None,
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
READ = ("LlamaForCausalLMEagle3", "LlamaForCausalLMEagle", "PEagleDraftModel", "DFlashDraftModel")


def drafter_architecture(config: Field) -> str:
    """Return the architecture of a file that describes a drafter, or nothing."""
    listed = config["architectures"]
    names = [e.text() for e in listed.elements()] if listed.is_given else []
    own = config["speculators_model_type"]
    names += [own.text()] if own.is_given else []
    if config["medusa_num_heads"].is_given:
        names.append("medusa")
    if config["model_type"].value == "mlp_speculator":
        names.append("mlp_speculator")
    return next((name for name in names if kind_of(name) is not None), "")


def kind_of(architecture: str) -> str | None:
    """Return the part of an architecture's name that tells a drafter."""
    plain = architecture.lower().replace("_", "").replace("-", "")
    return next((part for part in KINDS if part in plain), None)


def drafter(config: Field, outer: Field, architecture: str) -> ModelShape:
    """Return the shape of a drafter.

    Args:
        config: Of its layers, filled.
        outer: Of the drafter, which may be the same.
        architecture: As `drafter_architecture` found it.

    Raises:
        UserError: The architecture is one that is not priced.
    """
    kind = KINDS[kind_of(architecture) or "draft"]
    if kind is None:
        raise outer.error(f"{outer.path}: the architecture is {architecture!r}, expected one of {', '.join(READ)}")
    layout = FAMILIES[config["model_type"].text()].layout
    head = Head(config, replace(layout, kinds=None, kinds_if=""))
    return head.flash(outer, architecture) if kind == "dflash" else head.eagle(outer, architecture, kind)


class Head(Stack):
    """The layers of a drafter that reads its target's states; embeddings, and often the head, are the target's."""

    def wide_attention(self, at: Layers, inputs: int) -> None:
        """Add attention whose queries, keys and values come from wider states."""
        first = len(self.matrices)
        self.attention(at)
        self.matrices[first] = self.matrices[first]._replace(inputs=inputs)

    def ended(self, architecture: str, vocabulary: int, passes: str, longest: int | None, *, own: bool) -> ModelShape:
        """Return the shape; its output head is its own, perhaps of fewer words, or the target's."""
        shape = self.finish()
        head = Matrix(self.hidden, ((HEAD, vocabulary),), is_borrowed=not own)
        outer = [*(m for m in shape.matrices if m.parts[0][0] != HEAD), head]
        drafting = Drafting(architecture=architecture, passes=passes, longest=longest)
        # Tied: what is not multiplied, the embeddings, lies with the target.
        return replace(shape, matrices=tuple(outer), tied_embeddings=True, drafting=drafting)

    def eagle(self, outer: Field, architecture: str, kind: str) -> ModelShape:
        """Read EAGLE-3 (arXiv 2503.01840): states of three layers joined, beside the embedding of the token; EAGLE."""
        reads = STATES_READ if kind != "eagle" else 2
        target_hidden = outer["target_hidden_size"].whole(1, default=self.hidden)
        self.matrix(reads * target_hidden, {"fc": self.hidden}, (0,))
        first, rest = self.all[:1], self.all[1:]
        self.wide_attention(first, self.hidden * (1 if kind == "eagle" else 2))
        self.attention(rest)
        self.ffn(self.all, self.inner)
        self.vectors += self.hidden
        vocabulary = outer["draft_vocab_size"].whole(1, default=self.vocabulary)
        passes = BLOCK if kind == "peagle" or outer["parallel_drafting"].value is True else CHAIN
        return self.ended(architecture, vocabulary, passes, None, own=kind != "eagle")

    def flash(self, outer: Field, architecture: str) -> ModelShape:
        """Read DFlash: states of some layers joined, then one pass over a block with the target's output head."""
        listed = (
            outer["dflash_config"]["target_layer_ids"] if outer["dflash_config"].is_given else outer["target_layer_ids"]
        )
        reads = len(listed.elements()) if listed.is_given else STATES_READ
        self.matrix(reads * self.hidden, {"fc": self.hidden}, (0,))
        self.attention(self.all)
        self.ffn(self.all, self.inner)
        self.vectors += self.hidden
        block = outer["block_size"].whole(2, 10_000)
        return self.ended(architecture, self.vocabulary, BLOCK, block - 1, own=False)
