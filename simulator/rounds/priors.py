"""What to take for acceptance where nothing was measured: published figures by method, labelled as such."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.fields import Field, read_toml
from simulator.ground.histogram import AcceptanceHistogram

FILE = Path(__file__).with_name("priors.toml")
FURTHER, CONFIDENCE = "further_choices", "confidence"


class FurtherChoices(NamedTuple):
    """Shares of a draft's second choice, third and so on among tokens that are not its first; and whose they are."""

    rates: Floats
    source: str


@lru_cache(maxsize=1)
def priors_file() -> Field:
    """Return the file."""
    return read_toml(FILE)


def prior(method: str) -> AcceptanceHistogram | None:
    """Return what a method may be taken to accept, None where no published figure is known."""
    said = priors_file()[method]
    if method in (FURTHER, CONFIDENCE) or not said.is_given:
        return None
    survival = np.array([1.0, *(each.number(0, 1) for each in said["survival"].elements()), 0.0])
    counts = -np.diff(survival) * said["rounds"].number(0)
    return AcceptanceHistogram(tuple(counts.tolist()), assumed=said["as"].text())


def believed(rates: Floats) -> Floats:
    """Return what a draft takes for the rates of its choices, [..., choices], where only the rates are known."""
    flat = rates ** priors_file()[CONFIDENCE]["power"].number(0, 1)
    return np.asarray(flat / np.maximum(flat.sum(-1, keepdims=True), 1e-300), np.float64)


def further_choices() -> FurtherChoices:
    """Return what is taken where only first choices are known."""
    said = priors_file()[FURTHER]
    return FurtherChoices(np.array([each.number(0, 1) for each in said["rates"].elements()]), said["as"].text())
