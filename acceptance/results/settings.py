"""What a benchmark of decoding methods is told: arms, repeats, and the knobs that methods read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from acceptance.models.rule import SamplingRule
from simulator.ground.artefacts import UserError

BASELINE = "baseline"
# Who decides on drafts where no other sampler is named: the loop, with draws of its own streams.
LOOP = "loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A number that methods read: its range, its default (`decoders.method.Options`), and what it is."""

    low: float
    high: float
    default: float | None
    about: str
    whole: bool = True


KNOBS = {
    "k": Knob(low=1, high=1024, default=4, about="Draft length; of a tree its depth."),
    "min_k": Knob(low=1, high=1024, default=1, about="Shortest draft of the adaptive controller."),
    "max_k": Knob(low=1, high=1024, default=8, about="Longest draft of the adaptive controller."),
    "target_acceptance": Knob(
        low=0, high=1, default=0.7, whole=False, about="Acceptance the adaptive controller aims at."
    ),
    "least_confidence": Knob(
        low=0, high=1, default=0.4, whole=False, about="A draft stops where its largest probability is below this."
    ),
    "parallel_branches": Knob(low=1, high=4096, default=8, about="Nodes that a tree expands at a time."),
    "branch_prune_threshold": Knob(
        low=0, high=1, default=0.0, whole=False, about="Least probability of a branch over the largest beside it."
    ),
    "tree_budget": Knob(low=1, high=4096, default=32, about="Nodes of a tree."),
    "ngram": Knob(low=2, high=16, default=3, about="Longest n-gram, context and token."),
    "filler_top_k": Knob(low=1, high=1024, default=3, about="Tokens an n-gram store learns at each position."),
    "rank": Knob(low=1, high=2**20, default=5, about="Rank in the target that top-k agreement accepts."),
    "typical_p": Knob(low=0, high=1, default=0.1, whole=False, about="epsilon of min(epsilon, sqrt(epsilon) exp(-H))."),
    "tau": Knob(low=0, high=1, default=0.5, whole=False, about="Draft confidence that the confidence rule accepts."),
    "fuzziness": Knob(low=1, high=100, default=1.5, whole=False, about="Factor on p/q in the fuzzy rule."),
    "judge_threshold": Knob(
        low=0, high=1, default=None, whole=False, about="Judged importance from which a mismatch is refused."
    ),
}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What is known of a decoding method without running it: whether it keeps the target's law, and what it reads.

    sampler: whether another sampler may decide on its drafts: chains that the exact rule decides on.
    """

    is_exact: bool
    knobs: tuple[str, ...]
    sampler: bool = False


EXACT, LOSSY, SAMPLED = True, False, True
TREE_KNOBS = ("k", "parallel_branches", "tree_budget")
NGRAM_KNOBS = ("k", "ngram")
ALGORITHMS = {
    BASELINE: Algorithm(EXACT, ()),
    "speculative": Algorithm(EXACT, ("k",), SAMPLED),
    "adaptive": Algorithm(EXACT, ("k", "min_k", "max_k", "target_acceptance"), SAMPLED),
    "heuristic": Algorithm(EXACT, (), SAMPLED),
    "confidence-stop": Algorithm(EXACT, ("k", "least_confidence"), SAMPLED),
    "ngram": Algorithm(EXACT, (*NGRAM_KNOBS, "filler_top_k"), SAMPLED),
    "anpd": Algorithm(EXACT, NGRAM_KNOBS, SAMPLED),
    "suffix": Algorithm(EXACT, ("k",), SAMPLED),
    "prompt-lookup": Algorithm(EXACT, NGRAM_KNOBS, SAMPLED),
    "specexec": Algorithm(EXACT, (*TREE_KNOBS, "branch_prune_threshold")),
    "medusa": Algorithm(EXACT, ("k",), SAMPLED),
    "medusa-tree": Algorithm(EXACT, ("k", "tree_budget")),
    "eagle": Algorithm(EXACT, ("k",), SAMPLED),
    "eagle-tree": Algorithm(EXACT, TREE_KNOBS),
    "topk": Algorithm(LOSSY, ("k", "rank")),
    "typical": Algorithm(LOSSY, ("k", "typical_p")),
    "confidence": Algorithm(LOSSY, ("k", "tau")),
    "fuzzy": Algorithm(LOSSY, ("k", "fuzziness")),
    "autojudge": Algorithm(LOSSY, ("k", "judge_threshold")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One column of the comparison: a method under a name of its own, and the knobs that differ from the defaults.

    sampler: who decides on drafts.

    Raises:
        UserError: A knob out of range.
    """

    name: str
    method: str
    knobs: Mapping[str, float] = field(default_factory=dict)
    sampler: str = LOOP

    @property
    def takes_sampler(self) -> bool:
        """Whether another than the loop may decide on its drafts."""
        return ALGORITHMS[self.method].sampler

    def by(self, sampler: str) -> "Arm":
        """Return the arm with a sampler, under a name that says so."""
        return self if sampler == LOOP else replace(self, name=f"{self.name}-{sampler}", sampler=sampler)

    def __post_init__(self) -> None:
        check_knobs(self.knobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how often.

    arms: the baseline among them. rule: what the target samples from. max_new_tokens: budget of each output. runs:
    repeats of everything. batch_size: prompts at a time. seed: of sampling and of the order in which arms take turns.
    """

    arms: tuple[Arm, ...]
    rule: SamplingRule
    max_new_tokens: int = 128
    runs: int = 1
    batch_size: int = 1
    seed: int = 0


def check_knob(label: str, knob: Knob, value: float) -> None:
    """Refuse a value that is not allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (knob.whole and not isinstance(value, int)) or not knob.low <= value <= knob.high:
        kind = "a whole number" if knob.whole else "a number"
        raise UserError(f"{label}: {value!r} is not allowed, expected {kind} from {knob.low:g} to {knob.high:g}")


def check_knobs(knobs: Mapping[str, float]) -> None:
    """Refuse knobs out of their ranges, and bounds of the draft length that hold nothing between them."""
    for name, value in knobs.items():
        check_knob(option_of(name), KNOBS[name], value)
    low, high = (knobs.get(name, KNOBS[name].default) for name in ("min_k", "max_k"))
    if low is not None and high is not None and low > high:
        raise UserError(f"--min-k: {low} is above --max-k, expected 1 to {high}")


def option_of(name: str) -> str:
    """Return how a knob is spelled on the command line."""
    return "--" + name.replace("_", "-")


def config_sha256(parameters: Mapping[str, Any]) -> str:
    """Return the hash of everything that decides the numbers."""
    text = json.dumps(parameters, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
