"""Loads of a target alone, many at once: which of them gives most tokens a second, and what each comes to."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.ground.command import table, wrapped
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.grid import Columns
from simulator.serving.steady import steady

from .loads import LoadForecast, forecast_load
from .loads_report import notes_of, spanned, steady_json, tokens_in_words
from .sweep_answers import shown

# Loads that are told of.
MOST_ROWS = 24


class PlainLoad(NamedTuple):
    """One load of several; values: what it differs by from others."""

    values: Mapping[str, float]
    forecast: LoadForecast


def plain_columns(pair: ModelPair, load: Load, isl: Any, osl: Any) -> Columns:
    """Return what loads of a target alone come to; the pair's batch are the clients."""
    found = steady(pair, pair.batch, isl, osl, **load._asdict())
    fits: Columns = {"fits": np.isfinite(found.running).astype(np.int64)} if pair.profile.memory_bytes else {}
    return fits | {
        "baseline_ms_per_token": found.tpot_s * 1e3,
        "baseline_first_token_ms": found.ttft_s * 1e3,
        "baseline_tokens_per_s": found.output_tokens_per_s,
        "baseline_running": found.running,
        "baseline_mixed_share": found.mixed_share,
    }


def forecast_plain(pair: ModelPair, load: Load, isl: float, osl: float, seed: int) -> LoadForecast:
    """Forecast one of them with its intervals."""
    return forecast_load(pair, load, int(isl), int(osl), IidAcceptance(0.5), None, np.ones(1, np.int64), seed)


def rows_shown(points: int) -> NDArray[np.int64]:
    """Return which of many are told of."""
    return shown(points, MOST_ROWS)


def plain_text(
    best: PlainLoad | None, rows: Sequence[PlainLoad], points: int, unfit: int, sources: Sequence[str]
) -> str:
    """Return the answer, and a table; sources: what it rests on, a sentence each."""
    if best is None:
        return wrapped(["Does not fit into memory, at any of these points.", *sources, *notes_of(rows[0].forecast)])
    found = best.forecast
    where = ", ".join(f"{name} {value:,.10g}" for name, value in best.values.items())
    span = spanned(found.plain_ci95["output_tokens_per_s"], ",.0f")
    first = f"At most {float(found.plain.output_tokens_per_s):,.0f} tokens a second{span}{where and f', at {where}'}: "
    first += f"{tokens_in_words(found.plain)}."
    count = f"{points:,} loads of the target alone" + f"; {unfit:,} do not fit into memory" * (unfit > 0)
    heads = ["tokens a second", "95 %", "ms a token", "95 %", "first token, ms", "running"]
    cells = [[*(f"{v:,.10g}" for v in row.values.values()), *cells_of(row.forecast)] for row in rows]
    keys = list(best.values)
    if all(row.forecast.plain.running in (row.forecast.clients, np.nan) for row in rows):
        heads, cells = heads[:-1], [row[:-1] for row in cells]  # nobody waits
    text = table([[*keys, *heads], *cells], left=(), keys=len(keys))
    if len(rows) < points:
        text += f"\n{len(rows)} of {points:,} loads are shown; --out FILE has all"
    return "\n".join([wrapped([first, *sources, count]), "", text])


def cells_of(found: LoadForecast) -> list[str]:
    """Return what stands in a row behind the values."""
    if np.isnan(found.plain.running):
        return ["does not fit", "", "-", "", "-", "-"]
    ends, plain = found.plain_ci95, found.plain
    of_token = ends["tpot_s"] and (1e3 * ends["tpot_s"][0], 1e3 * ends["tpot_s"][1])
    return [
        f"{float(plain.output_tokens_per_s):,.0f}",
        spanned(ends["output_tokens_per_s"], ",.0f").strip(" ()"),
        "-" if np.isnan(plain.tpot_s) else f"{1e3 * float(plain.tpot_s):,.2f}",
        spanned(of_token, ",.2f").strip(" ()"),
        f"{1e3 * float(plain.ttft_s):,.0f}",
        f"{float(plain.running):,.0f}",
    ]


def plain_json(rows: Sequence[PlainLoad]) -> list[dict[str, Any]]:
    """Return what each comes to, under plain keys; None where it does not fit."""
    return [{"values": dict(r.values), "plain": steady_json(r.forecast.plain, r.forecast.plain_ci95)} for r in rows]
