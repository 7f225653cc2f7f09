"""Decisions that others' measurements answer: ways of serving one load, and how fast each was."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulator.ground.fields import Field, read_toml
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.rounds.acceptance_law import HistogramAcceptance
from simulator.rounds.pairs import APART, Published, histogram_of, survivals, values

FILE, MODELS = Path(__file__).with_name("decisions.toml"), Path(__file__).with_name("models")
KEYS = ("source", "at", "setting", "assumed", "advise", "unit", "measured", "accepted", "seen")
# Units, and whether more of them is better.
UNITS = {"tokens_per_s": True, "speedup": True, "latency_s": False}
# A way of serving: method and draft length; no length where the source states none.
Way = tuple[str, int | None]
PLAIN: Way = ("plain", 0)
ANY = "any"


class Decision(NamedTuple):
    """A load, the ways in which it was served, and how fast each was.

    advise: the options of the command. speeds: of each way, larger is better. accepted: what the source says of a
    method. seen: what was mended after somebody had looked at it, empty where nothing was.
    """

    name: str
    source: str
    at: str
    setting: str
    assumed: str
    advise: tuple[str, ...]
    speeds: Mapping[Way, float]
    accepted: Mapping[str, Published]
    seen: str

    @property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        """The draft lengths of each method that were measured; none where any is meant."""
        methods = dict.fromkeys(method for method, _ in self.speeds if method != PLAIN[0])
        return {m: tuple(k for method, k in self.speeds if method == m and k is not None) for m in methods}

    @property
    def best(self) -> Way:
        """The way that was fastest."""
        return max(self.speeds, key=lambda way: self.speeds[way])

    def regret(self, way: Way) -> float | None:
        """Return the share of the best speed that a way gives up; None of a way that was not measured."""
        speed = self.speeds.get(way, self.speeds.get((way[0], None)))
        return None if speed is None else 1 - speed / self.speeds[self.best]


def decisions() -> tuple[Decision, ...]:
    """Return the decisions that come with the package."""
    return parse(read_toml(FILE))


def parse(file: Field) -> tuple[Decision, ...]:
    """Check a file of decisions; a UserError names the place that is wrong."""
    return tuple(decision_of(name, entry) for name, entry in file.items())


def decision_of(name: str, entry: Field) -> Decision:
    """Return one decision."""
    entry.only(KEYS)
    said = {key: entry[key].text() for key in ("source", "at", "setting", "assumed")}
    better = UNITS[entry["unit"].choice(tuple(UNITS))]
    speeds = speeds_of(entry["measured"], better=better)
    if len(speeds) < 2:
        entry["measured"].refuse("at least two ways")
    of_methods = entry["accepted"].items() if entry["accepted"].is_given else []
    accepted = {method: told(method, name, field) for method, field in of_methods}
    options = shlex.split(entry["advise"].text().replace("MODELS/", f"{MODELS}/"))
    seen = entry["seen"].text() if entry["seen"].is_given else ""
    return Decision(name, **said, advise=tuple(options), speeds=speeds, accepted=accepted, seen=seen)


def speeds_of(measured: Field, *, better: bool) -> dict[Way, float]:
    """Return how fast each way was; better: whether larger figures are."""
    found = dict[Way, float]()
    for method, field in measured.items():
        entries = [("0", field)] if method == PLAIN[0] else field.items()
        for text, value in entries:
            if text != ANY and not (text.isascii() and text.isdecimal() and int(text) <= MAX_DRAFT_LENGTH):
                field.refuse(f"a draft length up to {MAX_DRAFT_LENGTH}, or {ANY}")
            figure = value.number(1e-9)
            found[method, None if text == ANY else int(text)] = figure if better else 1 / figure
    return found


def told(method: str, name: str, task: Field) -> Published:
    """Return what a source says that a method accepts."""
    lengths, tokens, survival = values(task)
    laws = (np.array(survival),) if survival else survivals(lengths, tokens)
    return Published(name, method, HistogramAcceptance(tuple(histogram_of(law, APART, name) for law in laws)))
