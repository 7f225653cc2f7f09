"""The registry of published acceptance: whose, on which task, at which draft lengths, and who says so."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, read_toml
from simulator.ground.histogram import AcceptanceHistogram, variance
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import Names, find_name, one_of, squeezed

from .acceptance_law import HistogramAcceptance
from .tail import Weibull

FILE = Path(__file__).with_name("pairs.toml")
KEYS = ("method", "target", "draft", "source", "at", "licence", "temperature", "note", "tasks")
TASK_KEYS = ("lengths", "tokens", "survival", "alpha", "rounds", "temperature")
# Tokens a round that are stated beside survival may differ from 1 + its sum by rounding of so many figures.
ROUNDING = 0.015
# Of tokens a round, one standard error: SGLang and vLLM are 11 % apart with the same head for Llama-3.1-8B on MT-Bench.
APART = 0.06
# Of fewer the half rounds by which counts are widened would decide the mean.
LEAST_ROUNDS = 4.0
SHAPES = np.linspace(0.3, 3.0, 109)


UNSTATED = "not stated"


class Curve(NamedTuple):
    """What one pair accepts on one task, as it was published.

    lengths, tokens: tokens a round at draft lengths, the target's own token in; survival: P(A >= j), empty where only
    tokens are known. rounds, temperature: None where nobody says.
    """

    pair: str
    task: str
    method: str
    target: str
    draft: str
    source: str
    at: str
    licence: str
    note: str
    temperature: float | None
    lengths: tuple[int, ...]
    tokens: tuple[float, ...]
    survival: tuple[float, ...]
    rounds: float | None

    @property
    def longest(self) -> int:
        """The longest draft length that it tells of."""
        return max(self.lengths)

    @property
    def warmth(self) -> str:
        """The temperature, or that nobody states it."""
        return UNSTATED if self.temperature is None else f"{self.temperature:g}"

    @property
    def known(self) -> tuple[int, ...]:
        """The draft lengths whose tokens a round follow from the figures alone."""
        return tuple(range(1, self.longest + 1)) if self.survival else self.lengths

    def up_to(self, draft_length: int) -> "Curve":
        """Return what would be known had nobody drafted longer; refuses a length below the shortest."""
        k = draft_length
        if self.survival:
            survival = self.survival[:k]
            return self._replace(survival=survival, lengths=(len(survival),), tokens=(1 + math.fsum(survival),))
        told = [(length, tau) for length, tau in zip(self.lengths, self.tokens, strict=True) if length <= k]
        lengths, tokens = zip(*told, strict=True)
        return self._replace(lengths=lengths, tokens=tokens)

    def tokens_at(self, draft_length: int) -> float:
        """Return tokens a round at a draft length that it tells of."""
        if self.survival:
            return 1 + math.fsum(self.survival[:draft_length])
        return self.tokens[self.lengths.index(draft_length)]

    @property
    def label(self) -> str:
        """Whose acceptance it is, as answers say."""
        from simulator.costs.drafters.methods import method_named

        target = self.target.rpartition("/")[2]
        return f"{method_named(self.method).title} for {target}, {self.task} ({self.source.partition(',')[0]})"

    @property
    def laws(self) -> tuple[Floats, ...]:
        """P(A >= j) for j in 1..K at each draft length that it tells of, or at its one."""
        if self.survival:
            return (np.array(self.survival),)
        return survivals(self.lengths, self.tokens)

    @property
    def acceptance(self) -> HistogramAcceptance:
        """What rounds accept: the published figures, each K from its own; uncertain as pairs measured twice differ."""
        return HistogramAcceptance(
            tuple(histogram_of(law, APART, self.label, (self.target, self.draft)) for law in self.laws)
        )


def histogram_of(
    survival: Floats, apart: float, label: str, pair: tuple[str, str] | None = None
) -> AcceptanceHistogram:
    """Return a histogram of so many rounds that tokens a round have a standard error of the share `apart`."""
    places = np.concatenate(([1.0], survival, [0.0]))
    law = -np.diff(places)
    rounds = max(variance(law) / (apart * (1 + float(survival.sum()))) ** 2, LEAST_ROUNDS)
    return AcceptanceHistogram(tuple((law * rounds).clip(0).tolist()), assumed=label, pair=pair)


def survivals(lengths: Sequence[int], tokens: Sequence[float]) -> tuple[Floats, ...]:
    """Return P(A >= j) at each draft length whose tokens a round are known: Weibull laws of one shape, exact in each.

    The shape is the one of which all lengths tell most nearly the same q; of one length it is 1.
    """
    shapes = SHAPES if len(lengths) > 1 else np.ones(1)
    scale = scales(np.array(lengths), np.array(tokens) - 1, shapes)
    at = int(np.log(scale).std(1).argmin())
    q, b = np.exp(-scale[at]), np.full(len(lengths), shapes[at])
    laws = Weibull(q, b)
    return tuple(laws.survival(np.arange(1, k + 1))[row] for row, k in enumerate(lengths))


def scales(lengths: Floats, accepted: Floats, shapes: Floats) -> Floats:
    """Return -ln q of the laws of these shapes that accept so much of so many drafts, by halving; [shapes, lengths]."""
    places = np.arange(1, int(lengths.max()) + 1.0)
    powers = places ** shapes[:, None, None]
    counts = places <= lengths[:, None]
    low, high = np.full((len(shapes), len(lengths)), -20.0), np.full((len(shapes), len(lengths)), 5.0)
    for _ in range(50):
        middle = (low + high) / 2
        more = (np.exp(-np.exp(middle)[..., None] * powers) * counts).sum(-1) > accepted
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.asarray(np.exp((low + high) / 2))


@lru_cache(maxsize=1)
def curves() -> tuple[Curve, ...]:
    """Return all that comes along, checked."""
    return parse(read_toml(FILE))


def parse(file: Field) -> tuple[Curve, ...]:
    """Check a registry; a UserError names the place that is wrong."""
    return tuple(curve for name, pair in file.items() for curve in pair_curves(name, pair))


def pair_curves(name: str, pair: Field) -> list[Curve]:
    """Return the curves of a pair."""
    pair.only(KEYS)
    said = {key: pair[key].text() for key in ("method", "target", "draft", "source", "at", "licence")}
    note = pair["note"].text() if pair["note"].is_given else ""
    found = []
    for task, field in pair["tasks"].items():
        field.only(TASK_KEYS)
        stated = next((f["temperature"] for f in (field, pair) if f["temperature"].is_given), None)
        lengths, tokens, survival = values(field)
        found.append(
            Curve(
                pair=name,
                task=task,
                **said,
                note=note,
                temperature=None if stated is None else stated.number(0, 10),
                lengths=lengths,
                tokens=tokens,
                survival=survival,
                rounds=field["rounds"].number(1) if field["rounds"].is_given else None,
            )
        )
    return found


def values(task: Field) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Return draft lengths, tokens a round at each, and survival, empty where it is not stated."""
    lengths = [e.whole(1, MAX_DRAFT_LENGTH) for e in task["lengths"].elements()] if task["lengths"].is_given else []
    if lengths != sorted(set(lengths)):
        task["lengths"].refuse("draft lengths that rise")
    if task["alpha"].is_given:
        alpha, (k,) = task["alpha"].number(0, 1), lengths
        survival = tuple(alpha**j for j in range(1, k + 1))
        return (k,), (1 + math.fsum(survival),), survival
    tokens = [e.number(1, MAX_DRAFT_LENGTH + 1) for e in task["tokens"].elements()] if task["tokens"].is_given else []
    if task["survival"].is_given:
        survival = tuple(e.number(0, 1) for e in task["survival"].elements())
        if not survival or list(survival) != sorted(survival, reverse=True):
            task["survival"].refuse("shares that fall")
        total = 1 + math.fsum(survival)
        if tokens and abs(tokens[0] - total) > ROUNDING:
            task["tokens"].refuse(f"{total:.2f}, 1 and the sum of survival")
        return (len(survival),), (total,), survival
    if not tokens or len(tokens) != len(lengths):
        task["tokens"].refuse("as many as lengths")
    if any(tau > k + 1 for tau, k in zip(tokens, lengths, strict=True)):
        task["tokens"].refuse("at most K + 1 at each draft length")
    return tuple(lengths), tuple(tokens), ()


def found(text: str, option: str) -> tuple[Curve, ...]:
    """Return the curves that PAIR or PAIR:TASK names, or METHOD or METHOD:TASK; never none.

    Raises:
        UserError: There is no such pair, or it was not measured on this task; names the nearest.
    """
    name, _, task = text.partition(":")
    there = curves()
    of_method = [c for c in there if squeezed(c.method) == squeezed(name)]
    pairs = tuple(dict.fromkeys(c.pair for c in there))
    try:
        pair = None if of_method else find_name(name, Names("pair", pairs))
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
    if not of_method and pair is None:
        raise UserError(f"{option}: {name!r} is no number, file or published pair, expected {one_of(pairs, name)}")
    chosen = of_method or [c for c in there if pair is not None and c.pair == pair.name]
    if task:
        known = tuple(dict.fromkeys(c.task for c in chosen))
        chosen = [c for c in chosen if squeezed(c.task) == squeezed(task)]
        if not chosen:
            raise UserError(f"{option}: {name} was not measured on {task!r}, expected {one_of(known, task)}")
    return tuple(chosen)


def temperatures(chosen: Sequence[Curve]) -> str:
    """Return the temperatures of curves, in words."""
    return ", ".join(sorted({curve.warmth for curve in chosen}))


class Published(NamedTuple):
    """What somebody asked of the registry. name: how; method: as which all of it drafts; temperatures: in words."""

    name: str
    method: str
    acceptance: HistogramAcceptance
    temperatures: str = UNSTATED


def published(text: str, option: str) -> Published:
    """Return what rounds accept as of PAIR[:TASK] or METHOD[:TASK].

    Of several curves it is the mean, as uncertain as they lie apart.
    """
    return in_one(text, found(text, option))


def in_one(text: str, chosen: Sequence[Curve]) -> Published:
    """Return what rounds accept by some curves of one method; text: how they were asked for."""
    acceptance = chosen[0].acceptance if len(chosen) == 1 else HistogramAcceptance((mean_of(chosen),))
    return Published(text, chosen[0].method, acceptance, temperatures(chosen))


def mean_of(chosen: Sequence[Curve]) -> AcceptanceHistogram:
    """Return the mean law of several curves, to where a third of them reach, as uncertain as those lie apart."""
    from simulator.costs.drafters.methods import method_named

    longest = sorted((c.longest for c in chosen), reverse=True)[min(math.ceil(len(chosen) / 3), len(chosen) - 1)]
    reaching = [c for c in chosen if c.longest >= longest]
    laws = np.array([c.laws[-1][:longest] for c in reaching])
    taus, first = 1 + laws.sum(1), reaching[0]
    apart = max(float(taus.std(ddof=1) / taus.mean()) if len(taus) > 1 else 0.0, APART)
    pairs, tasks = {c.pair for c in reaching}, {c.task for c in reaching}
    what, source = f"of {len(pairs)} pairs", "published"
    name = first.target.rpartition("/")[2]
    if len(pairs) == 1:
        what, source = f"for {name}", first.source.partition(",")[0]
    elif len({c.target for c in reaching}) == 1:
        what = f"for {name}, of {len(pairs)} pairs"
    on = first.task if len(tasks) == 1 else f"mean of {len(tasks)} tasks"
    label = f"{method_named(first.method).title} {what}, {on} ({source})"
    return histogram_of(laws.mean(0), apart, label, (first.target, first.draft) if len(pairs) == 1 else None)
