"""What a text is worth beside a reference: ROUGE of summaries, word errors of speech."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from acceptance.models.model import ASR
from acceptance.results.records import ROUGE, WORD_ERRORS
from simulator.ground.dependency import Dependency, require

from .options import SUMMARIZE

ROUGE_SCORE = Dependency(import_name="rouge_score", purpose="ROUGE of summaries", extra="quality")
JIWER = Dependency(import_name="jiwer", purpose="word error rates", extra="speech")
# Written without spaces between words: what is counted of them is letters, as in Whisper's paper.
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")
# Of an output, by name: a sum and what it is divided by, so that units of several outputs add up.
Scores = Mapping[str, Mapping[str, float]]
Score = Callable[[int, Sequence[int]], Scores]
# Makes text of the tokens behind a prompt.
Write = Callable[[int, Sequence[int]], str]


def rouge(references: Sequence[str], write: Write) -> Score:
    """Return what scores an output: F1 of ROUGE-1, -2, -L, and of -Lsum, which takes lines for sentences.

    Words are stemmed, as papers have it. references: of each prompt.

    Raises:
        UserError: The library is not installed.
    """
    require(ROUGE_SCORE, f"--task {SUMMARIZE}")
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=True)

    @cache
    def of(prompt: int, tokens: tuple[int, ...]) -> Scores:
        found = scorer.score(references[prompt], write(prompt, tokens))
        return {name: {"sum": float(found[name].fmeasure), "of": 1} for name in ROUGE}

    return lambda prompt, tokens: of(prompt, tuple(tokens))


def word_errors(references: Sequence[str | None], write: Write, normalise: Callable[[str], str]) -> Score:
    """Return what counts an output's word errors: words put in, left out or changed, over those of what was said.

    Args:
        references: What was said, of each prompt; None, or nothing of words: its outputs have no score.
        write: Makes text of the tokens behind a prompt.
        normalise: What both texts go through before.

    Raises:
        UserError: The library is not installed.
    """
    count = require(JIWER, f"--task {ASR}").process_words
    said = [normalise(text) if text else "" for text in references]

    @cache
    def of(prompt: int, tokens: tuple[int, ...]) -> Scores:
        if not said[prompt].split():
            return {}
        found = count(said[prompt], normalise(write(prompt, tokens)))
        errors = found.substitutions + found.deletions + found.insertions
        return {WORD_ERRORS: {"sum": errors, "of": found.hits + found.substitutions + found.deletions}}

    return lambda prompt, tokens: of(prompt, tuple(tokens))


def normaliser(tokenizer: Any, language: str) -> tuple[str, Callable[[str], str]]:
    """Return Whisper's normaliser of a language, and its name; English spellings are those of the tokenizer."""
    module = import_module("transformers.models.whisper.english_normalizer")
    if language == "en":
        spellings = getattr(tokenizer, "english_spelling_normalizer", None) or {}
        return "whisper english", module.EnglishTextNormalizer(spellings)
    if language in WITHOUT_SPACES:
        return "whisper basic, letters", module.BasicTextNormalizer(split_letters=True)
    return "whisper basic", module.BasicTextNormalizer()
