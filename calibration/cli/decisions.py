"""What `advise` takes of decisions that others' measurements answer: its own options, read as it reads them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from calibration.published.decisions import PLAIN, Decision, Way
from calibration.validate.regret import Chosen

from .advise import advise, taken_options
from .asking import asked_of

if TYPE_CHECKING:
    from simulator.rounds.pairs import Published


def chosen(decision: Decision) -> Chosen:
    """Return what `advise` takes among the ways that were measured."""
    alone = taken(decision, {})
    return Chosen(decision, alone, taken(decision, decision.accepted) if decision.accepted else alone)


def taken(decision: Decision, told: "Mapping[str, Published]") -> Way:
    """Return the way that `advise` takes, of those that were measured."""
    from simulator.answers.advice import advise as advised

    with advise.make_context("advise", list(decision.advise)) as context:
        asked, _, found, _ = asked_of(taken_options(context.params), told)
    able = tuple(replace(of, lengths=decision.lengths[of.name]) for of in found if of.name in decision.lengths)
    advice = advised(able, asked, lambda _: None)
    if not advice.take:
        return PLAIN
    way = advice.ways[advice.take - 1]
    return able[way.contender].name, way.draft_length
