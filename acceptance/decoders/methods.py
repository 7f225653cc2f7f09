"""All decoding methods by name, and which of them a run asks for."""

from simulator.ground.artefacts import UserError

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


def pick(names: str, models: Models | None = None) -> list[Method]:
    """Return methods by name, in the order asked for, each once.

    Args:
        names: Names with commas between them, or "all": every method whose needs are met.
        models: What there is; not given: needs are not looked at.

    Raises:
        UserError: A name that is unknown, or of a method that lacks something.
    """
    if names == "all":
        return [m for m in METHODS.values() if models is None or not lacking(m, models)]
    picked = []
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        if name not in METHODS:
            raise UserError(f"--method: {name!r} is not allowed, expected all or some of {', '.join(METHODS)}")
        if models is not None and (missing := lacking(METHODS[name], models)):
            raise UserError(f"--method: {name!r} is not allowed without {' and '.join(missing)}")
        picked.append(METHODS[name])
    return picked
