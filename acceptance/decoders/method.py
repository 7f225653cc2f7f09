"""A decoding method by name: what it needs, what it promises, how it begins on a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.results.settings import ALGORITHMS, KNOBS, check_knobs

from .batch import Task
from .chain import Chain, Drafter, FixedLength, Lengths
from .decoder import Decoder
from .samplers import Sampler

Begin = Callable[[Sequence[Sequence[int]], Task], Decoder]
# Given the number of prompts and the longest output: who chooses draft lengths.
Control = Callable[[int, int], Lengths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Models of one vocabulary, and folders of what was trained on the target; None where there is none.

    texts: in tokens, what n-gram stores know before they begin.
    """

    target: Model
    draft: Model | None = None
    medusa: Path | None = None
    eagle: Path | None = None
    judge: Path | None = None
    texts: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What methods are told. Each reads its own.

    draft_rule: what the draft samples from. sampler: who decides on drafts, of methods that take one; None: the loop's
    own draws. The others: KNOBS says what each is; judge_threshold: None takes the one
    chosen in training.

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
    sampler: Sampler | None = None

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


def chains(target: Model, drafter: Callable[[], Drafter], lengths: int | Control, **parts: Any) -> Begin:
    """Return how chains begin on a batch, with a drafter of its own.

    lengths: of every draft, or what chooses them. parts: what else `Chain` takes.
    """

    def on(prompts: Sequence[Sequence[int]], task: Task) -> Chain:
        chosen = FixedLength(lengths) if isinstance(lengths, int) else lengths(len(prompts), task.max_new_tokens)
        return Chain(target, drafter(), prompts, task, lengths=chosen, **parts)

    return on
