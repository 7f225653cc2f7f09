"""What a text is worth beside a reference: ROUGE of summaries."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module

from acceptance.results.records import ROUGE
from simulator.ground.dependency import Dependency, require

ROUGE_SCORE = Dependency(import_name="rouge_score", purpose="ROUGE of summaries", extra="quality")
# Of an output, by name: a sum and what it is divided by, so that units of several outputs add up.
Scores = Mapping[str, Mapping[str, float]]
Score = Callable[[int, Sequence[int]], Scores]


def rouge(references: Sequence[str], write: Callable[[int, Sequence[int]], str]) -> Score:
    """Return what scores an output: F1 of ROUGE-1, -2, -L, and of -Lsum, which takes lines for sentences.

    Words are stemmed, as papers have it.

    Args:
        references: Of each prompt.
        write: Makes text of the tokens behind a prompt.

    Raises:
        UserError: The library is not installed.
    """
    require(ROUGE_SCORE, "--task summarize")
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=True)

    @cache
    def of(prompt: int, tokens: tuple[int, ...]) -> Scores:
        found = scorer.score(references[prompt], write(prompt, tokens))
        return {name: {"sum": float(found[name].fmeasure), "of": 1} for name in ROUGE}

    return lambda prompt, tokens: of(prompt, tuple(tokens))
