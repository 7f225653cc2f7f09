"""What a served load comes to, plain and with speculation: does it pay, how sure is that, and with which K."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.ground.artefacts import UserError
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import AcceptanceModel, Ints
from simulator.rounds.loads import Served, drawn_loads, served
from simulator.serving.steady import Steady

from .uncertainty import CONSTANTS, STEP, ends95, is_open
from .verdict import DOES_NOT_FIT, answer

SAMPLES = 400
# What of a load is told with an interval.
TOLD = ("tpot_s", "ttft_s", "output_tokens_per_s")
Ends = tuple[float, float] | None


class LoadForecast(NamedTuple):
    """What is forecast of a load, at one draft length; scalars. Without speculation, of the plain server alone.

    plain, drafted: what each comes to. plain_ci95, drafted_ci95: intervals of `TOLD`, by name. verdict, speedup,
    speedup_ci95: of tokens a second, drafted over plain; None and "does not fit" where one has no room.
    best_draft_length, best_speedup: of 1..searched_to. sensitivities: percent of tokens a second by a percent of
    each constant.
    """

    pair: ModelPair
    load: Load
    isl: int
    osl: int
    plain: Steady
    plain_ci95: Mapping[str, Ends]
    draft_length: int | None = None
    tokens_per_round: float | None = None
    drafted: Steady | None = None
    drafted_ci95: Mapping[str, Ends] = MappingProxyType({})
    verdict: str = DOES_NOT_FIT
    speedup: float | None = None
    speedup_ci95: Ends = None
    best_draft_length: int | None = None
    best_speedup: float | None = None
    searched_to: int | None = None
    sensitivities: Mapping[str, float] = MappingProxyType({})

    @property
    def clients(self) -> int:
        """Clients of the load."""
        return int(np.max(self.pair.batch))

    @property
    def is_unfit(self) -> bool:
        """Whether memory has no room for a request, of either side."""
        return any(one is not None and bool(np.isnan(one.running)) for one in (self.plain, self.drafted))

    @property
    def at_work(self) -> int:
        """Those of them that send a request at all."""
        return int(min(self.clients, self.load.requests))


def forecast_load(
    pair: ModelPair,
    load: Load,
    isl: int,
    osl: int,
    acceptance: AcceptanceModel,
    draft_length: int | None,
    searched: Ints,
    seed: int = 0,
) -> LoadForecast:
    """Forecast a load; the same seed gives the same forecast.

    Args:
        pair: Two models; the batch are the clients.
        load: How it is served.
        isl: Tokens of a prompt.
        osl: Tokens of an answer.
        acceptance: What rounds accept.
        draft_length: K; None: the target alone.
        searched: Draft lengths among which the best is looked for, rising from 1.
        seed: Of what is drawn.

    Raises:
        UserError: A pass holds no round.
    """
    check_chunk(pair, load, draft_length)
    lengths = np.arange(1, max(int(searched[-1]), draft_length or 1) + 1)
    tokens, rng = acceptance.tokens_per_round(lengths), stream(seed, 0, "load")
    at = (draft_length or 1) - 1
    whole = served(pair, load, isl + np.zeros(len(lengths)), osl, lengths, tokens)
    sampled_tokens = acceptance.sample_tokens_per_round(lengths, rng, SAMPLES)
    drawn = drawn_loads(pair, load, isl, osl, lengths, tokens, sampled_tokens, rng)
    plain, gains = of(whole.plain, at), whole.speedup[: len(searched)]
    sides: dict[str, Any] = {"plain": plain, "plain_ci95": ends(drawn.plain, whole.plain, at)}
    if draft_length is None:
        moved = sensitivities(pair, load, isl, osl, None, 1.0)
        return LoadForecast(pair, load, isl, osl, **sides, sensitivities=moved)
    mean = float(tokens[at])
    found = LoadForecast(
        pair, load, isl, osl, **sides, draft_length=draft_length, tokens_per_round=mean, drafted=of(whole.drafted, at)
    )
    if not whole.fits[at]:
        return found
    both = both_ends(drawn.speedup[:, at], whole.speedup[at])
    best = int(np.nan_to_num(gains, nan=-1.0).argmax())
    return found._replace(
        drafted_ci95=ends(drawn.drafted, whole.drafted, at),
        verdict=answer(float(whole.speedup[at]), both),
        speedup=float(whole.speedup[at]),
        speedup_ci95=both,
        best_draft_length=int(lengths[best]),
        best_speedup=float(gains[best]),
        searched_to=int(searched[-1]),
        sensitivities=sensitivities(pair, load, isl, osl, draft_length, mean),
    )


def check_chunk(pair: ModelPair, load: Load, draft_length: int | None) -> None:
    """Refuse passes too short for a round of drafts; of longer drafts the search leaves out those that do not fit."""
    width = 1 if draft_length is None else int(pair.plan(draft_length).width)
    if load.mixed and load.chunk < width:
        rest = f"no round of K = {draft_length}, expected {width} or more"
        raise UserError(f"--chunk: {load.chunk} tokens a pass hold {rest}")


def of(many: Steady, at: int) -> Steady:
    """Return one of several as numbers."""
    return Steady(*(np.broadcast_to(v, np.shape(many.tpot_s))[at] for v in many))


def ends(drawn: Steady, middle: Steady, at: int) -> dict[str, Ends]:
    """Return the intervals of what is told."""
    return {name: both_ends(getattr(drawn, name)[:, at], getattr(middle, name)[at]) for name in TOLD}


def both_ends(drawn: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", middle: float) -> Ends:
    """Return 95 % of draws; None where nothing is uncertain, or nothing fits."""
    if not np.isfinite(drawn).all():
        return None
    low, high = (float(end) for end in ends95(drawn, np.asarray(middle)))
    return (low, high) if is_open(low, high) else None


def sensitivities(
    pair: ModelPair, load: Load, isl: int, osl: int, draft_length: int | None, tokens_per_round: float
) -> dict[str, float]:
    """Return by how many percent 1 % more of each constant changes tokens a second; those of the host are one."""

    def rate(moved: ModelPair) -> float:
        both: Served = served(moved, load, isl, osl, draft_length or 1, tokens_per_round)
        return float((both.plain if draft_length is None else both.drafted).output_tokens_per_s)

    before, names = rate(pair), (*CONSTANTS, "host_s")
    return {name: (rate(pair.scaled({name: 1 + STEP})) / before - 1) / STEP for name in names}
