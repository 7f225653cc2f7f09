"""What a profile says of rows of servers that it was fitted to: how well its constants and forecasts are known."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from simulator.ground.fields import Field

from .parameters import Load
from .ranges import TimedRange, parse_range
from .step import Floats

MOST_ROWS, MOST_VARIANCE, MOST_DEVICES, MOST_CHUNK = 10**9, 100.0, 4096, 10_000_000
# Of rows: what their ranges are of.
LOADED = ("concurrency", "isl", "osl", "devices")
# Of Student's law, by which errors of many rows are spread.
DEGREES = 4.0
USUAL = Load()
# Of logarithms in files.
DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingFit:
    """The rows that constants were fitted to, and what they tell.

    sheet: the profile that was the prior. model, engine: of the rows; dtype, kv_dtype, tp: of weights, of the KV cache
    and of devices, where rows do not say, "" and None where nobody does; served: how the server took them, as was
    given; formats: that weights of rows are stored in. loads: that rows were of, each once. ranges: of the rows, by
    `LOADED`. constants: names, covariance: of their logarithms, draws: of these about what was fitted, [draws,
    constants], as they need be of no law. tpot_error, ttft_error: what a row is off by besides, relative, the scale of
    a Student's law; None where no row has any.
    """

    sheet: str
    model: str
    engine: str
    rows: int
    loads: int
    constants: tuple[str, ...]
    tpot_error: float
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    draws: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    ttft_error: float | None = None
    source_sha256: str = ""
    dtype: str = ""
    formats: tuple[str, ...] = ()
    ranges: Mapping[str, TimedRange] = field(default_factory=dict)
    kv_dtype: str = ""
    tp: int | None = None
    served: Load = USUAL

    def ends(self, name: str) -> TimedRange | None:
        """Return the range of what rows were loaded with; of context, what their prompts and answers make."""
        if name != "context":
            return self.ranges.get(name)
        isl, osl = (self.ranges.get(part) for part in ("isl", "osl"))
        return isl and osl and TimedRange(least=isl.least, most=isl.most + osl.most)

    @property
    def degrees(self) -> float:
        """Return the degrees of the Student's law of what rows are off by, as few loads tell how wide it is."""
        return 1 / (1 / DEGREES + 1 / self.loads)

    def tails(self, rng: np.random.Generator, samples: int) -> Floats:
        """Draw what normal draws are multiplied by to be of that law."""
        return np.asarray(np.sqrt(self.degrees / rng.chisquare(self.degrees, samples)))

    def drawn(self, rng: np.random.Generator, samples: int) -> dict[str, Floats]:
        """Draw factors of constants together, as well as rows know them, by name, [samples]."""
        return self.factors(self.draws[rng.integers(len(self.draws), size=samples)])

    def factors(self, logs: Floats) -> dict[str, Floats]:
        """Return factors by name, of their logarithms, [samples, constants]."""
        return {name: np.exp(logs[:, i]) for i, name in enumerate(self.constants)}


def parse_rows(entry: Field, columns: int) -> Floats:
    """Read rows of so many numbers each."""
    rows = [[cell.number(-MOST_VARIANCE, MOST_VARIANCE) for cell in row.elements()] for row in entry.elements()]
    if any(len(row) != columns for row in rows):
        entry.refuse(f"rows of {columns} numbers")
    return np.array(rows, np.float64).reshape(len(rows), columns)


def parse_serving_fit(entry: Field) -> ServingFit:
    """Read it."""
    names = tuple(name.text() for name in entry["constants"].elements())
    covariance, draws = (parse_rows(entry[name], len(names)) for name in ("covariance", "draws"))
    if len(covariance) != len(names):
        entry["covariance"].refuse(f"{len(names)} x {len(names)} numbers")
    if not len(draws):
        entry["draws"].refuse("at least one")
    formats, ranges = entry["formats"], entry["ranges"]
    if ranges.is_given:
        ranges.only(LOADED)
    number = entry["rows"].whole(1, MOST_ROWS)
    return ServingFit(
        sheet=entry["sheet"].text(),
        model=entry["model"].text(),
        engine=entry["engine"].text(empty=True),
        rows=number,
        loads=entry["loads"].whole(1, number) if entry["loads"].is_given else number,
        constants=names,
        covariance=covariance,
        draws=draws,
        tpot_error=entry["tpot_error"].number(0.0, MOST_VARIANCE),
        ttft_error=entry["ttft_error"].number(0.0, MOST_VARIANCE) if entry["ttft_error"].is_given else None,
        source_sha256=entry["source_sha256"].text(empty=True),
        dtype=entry["dtype"].text(empty=True) if entry["dtype"].is_given else "",
        formats=tuple(name.text() for name in formats.elements()) if formats.is_given else (),
        ranges={name: parse_range(ends) for name, ends in ranges.items()} if ranges.is_given else {},
        kv_dtype=entry["kv_dtype"].text(empty=True) if entry["kv_dtype"].is_given else "",
        tp=entry["tp"].whole(1, MOST_DEVICES) if entry["tp"].is_given else None,
        served=parse_served(entry["served"]) if entry["served"].is_given else USUAL,
    )


def parse_served(entry: Field) -> Load:
    """Read how a server took rows, under the names of options."""
    most = entry["max_running"]
    return Load(
        chunk=entry["chunk"].whole(1, MOST_CHUNK),
        prefix_hit=entry["prefix_hit"].number(0.0, 1.0),
        most_running=most.whole(1) if most.is_given else math.inf,
        mixed=not entry["prompts_first"].flag(False),
        alike=entry["same_length"].flag(False),
    )


def serving_fit_json(fit: ServingFit) -> dict[str, Any]:
    """Return it under the names of its file."""
    members = {name: getattr(fit, name) for name in ServingFit.__slots__}
    ranges = {name: asdict(ends) for name, ends in fit.ranges.items()}
    lists = {"constants": list(fit.constants), "formats": list(fit.formats), "covariance": fit.covariance.tolist()}
    lists |= {"draws": [[round(value, DIGITS) for value in row] for row in fit.draws.tolist()]}
    served = {name: value for name, value in fit.served.options.items() if value != math.inf}
    return members | lists | {"ranges": ranges, "served": served}
