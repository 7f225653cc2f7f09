"""A decoding method by name: what it needs, what it promises, how it begins on a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.results.settings import ALGORITHMS, KNOBS, check_knobs

from .batch import Task
from .decoder import Decoder

Begin = Callable[[Sequence[Sequence[int]], Task], Decoder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Models of one vocabulary, and folders of what was trained on the target; None where there is none."""

    target: Model
    draft: Model | None = None
    medusa: Path | None = None
    eagle: Path | None = None
    judge: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What methods are told. Each reads its own.

    draft_rule: what the draft samples from. k: draft length; of a tree the depth. min_k, max_k, target_acceptance: of
    the adaptive controller. least_confidence: below which a draft stops. parallel_branches: nodes that a tree expands
    at a time. branch_prune_threshold: least q of a branch over the largest beside it. tree_budget: nodes of a tree.
    ngram: longest n-gram, context and token. filler_top_k: target tokens that an n-gram store learns at each position.
    rank, typical_p, tau, fuzziness: of the lossy rules. judge_threshold: None takes the one chosen in training.

    Raises:
        UserError: A value out of the range that KNOBS tells; names the option.
    """

    draft_rule: SamplingRule
    k: int = 4
    min_k: int = 1
    max_k: int = 8
    target_acceptance: float = 0.7
    least_confidence: float = 0.4
    parallel_branches: int = 8
    branch_prune_threshold: float = 0.0
    tree_budget: int = 32
    ngram: int = 3
    filler_top_k: int = 3
    rank: int = 5
    typical_p: float = 0.1
    tau: float = 0.5
    fuzziness: float = 1.5
    judge_threshold: float | None = None

    def __post_init__(self) -> None:
        knobs = {name: getattr(self, name) for name in KNOBS}
        check_knobs({name: value for name, value in knobs.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    name: what users type; one of `ALGORITHMS`. summary: one line. batched: whether it takes ragged batches; else one
    sequence at a time. needs: fields of `Models` besides the target.
    """

    name: str
    summary: str
    batched: bool
    needs: tuple[str, ...] = ()
    begin: Callable[[Models, Options], Begin]

    @property
    def is_exact(self) -> bool:
        """Whether the output's law is the target's."""
        return ALGORITHMS[self.name].is_exact
