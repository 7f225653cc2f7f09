"""How much is given up by what `advise` takes, of the best of the ways that others measured."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from calibration.published.decisions import PLAIN, Decision, Way
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped

KIND, SCHEMA_VERSION = "decision_validation", 1
# Regret that is none, and the share of decisions that have no more.
LITTLE, WANTED = 0.03, 10 / 12


class Chosen(NamedTuple):
    """What was taken of one decision: as advice knows by itself, and told what its source says is accepted."""

    decision: Decision
    alone: Way
    told: Way


def is_good(decision: Decision, way: Way, most: float) -> bool:
    """Whether a way gives up little; one that was not measured counts as bad."""
    regret = decision.regret(way)
    return regret is not None and regret <= most


def holds(found: Sequence[Chosen], most: float = LITTLE) -> bool:
    """Whether enough was taken well of what nobody had looked at."""
    unseen = [c for c in found if not c.decision.seen]
    return sum(is_good(c.decision, c.alone, most) for c in unseen) >= WANTED * len(unseen)


def headline(found: Sequence[Chosen], most: float = LITTLE) -> str:
    """Say how many decisions were taken well."""
    unseen, told = [c for c in found if not c.decision.seen], [c for c in found if c.decision.accepted]
    good = [sum(is_good(c.decision, c.alone, most) for c in of) for of in (found, unseen)]
    return (
        f"advise takes a way within {most:.0%} of the best that was measured in {good[0]} of {len(found)} decisions, "
        f"in {good[1]} of the {len(unseen)} whose results changed nothing in advise ({WANTED:.0%} wanted); told what "
        f"the source says is accepted, in {sum(is_good(c.decision, c.told, most) for c in told)} of {len(told)}."
    )


def decisions_text(found: Sequence[Chosen], most: float = LITTLE) -> str:
    """Return the table, below how many decisions were taken well."""
    head = ["decision", "ways", "best", "advise takes", "regret", "told", "regret"]
    rows = [head]
    for decision, alone, with_told in found:
        more = [in_words(with_told), percent(decision, with_told)] if decision.accepted else ["", ""]
        first = [f"{decision.name}{' *' * bool(decision.seen)}", f"{len(decision.speeds)}", in_words(decision.best)]
        rows.append([*first, in_words(alone), percent(decision, alone), *more])
    seen = [f"* {c.decision.name}: {c.decision.seen}" for c in found if c.decision.seen]
    sources = dict.fromkeys(f"{c.decision.source} ({c.decision.at})" for c in found)
    return "\n\n".join(
        [wrapped([headline(found, most)]), table(rows), *([wrapped(seen)] if seen else []), wrapped(sources)]
    )


def in_words(way: Way) -> str:
    """Return a way as tables show it."""
    method, k = way
    return method if way == PLAIN or k is None else f"{method} K={k}"


def percent(decision: Decision, way: Way) -> str:
    """Return the regret of a way."""
    regret = decision.regret(way)
    return "not measured" if regret is None else f"{regret:.1%}"


def decisions_json(found: Sequence[Chosen], most: float, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same under plain keys; regrets are fractions."""
    entries = []
    for decision, alone, told in found:
        entry = {key: getattr(decision, key) for key in ("name", "source", "at", "setting", "assumed", "seen")}
        entry |= {"advise": list(decision.advise), "best": way_json(decision, decision.best)}
        entry |= {"takes": way_json(decision, alone), "told": way_json(decision, told) if decision.accepted else None}
        entries.append(entry)
    verdict = {"headline": headline(found, most), "holds": holds(found, most)}
    return envelope(KIND, SCHEMA_VERSION, parameters) | verdict | {"decisions": entries}


def way_json(decision: Decision, way: Way) -> dict[str, Any]:
    """Return a way under plain keys."""
    return {"method": way[0], "draft_length": way[1], "regret": decision.regret(way)}
