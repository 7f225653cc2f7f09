"""All decoding methods by name, and what each lacks."""

from . import baseline, eagle, lengths, lossy, medusa, ngram, specexec, speculative
from .judge import autojudge
from .method import Method, Models

# Exact methods first, then those that give up the target's law.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        baseline.METHOD,
        speculative.METHOD,
        *lengths.METHODS,
        *ngram.METHODS,
        specexec.METHOD,
        *medusa.METHODS,
        *eagle.METHODS,
        *lossy.METHODS,
        autojudge.METHOD,
    )
}
# What fields of `Models` are called where a person reads them.
NEEDS = {"draft": "a draft model", "medusa": "Medusa heads", "eagle": "an EAGLE head", "judge": "a trained judge"}


def lacking(method: Method, models: Models) -> list[str]:
    """Return what a method needs and there is not."""
    return [NEEDS[need] for need in method.needs if getattr(models, need) is None]
