"""Forecasts of served loads as people and programs read them: the verdict, errors by figure, a row for each arm."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from simulator.answers.latency import Told, ms, percentile
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped

from .rows import FIGURES, GAIN, LEAST_GAIN, Row, ServedValidation

KIND = "served_validation"
# 1: first version.
SCHEMA_VERSION = 1
INTERVALS = "95 % intervals: of what was measured a bootstrap over requests; of forecasts luck with what is accepted"


def served_json(validation: ServedValidation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors of figures, and every row."""
    rows = [
        {
            "file": str(row.load.path),
            "load_kind": row.load.kind,
            "load": row.load.load,
            "arm": row.arm,
            "requests": sum(len(part.answers) for part in row.load.parts(row.arm)),
            **{
                name: {
                    "measured": number(row.measured[name].value),
                    "measured_ci95": ends(row.measured[name]),
                    "forecast": number(row.forecast[name].value),
                    "forecast_ci95": ends(row.forecast[name]),
                    "error": number(row.error(name)),
                }
                for name in row.forecast
                if name in row.measured
            },
        }
        for row in validation.rows
    ]
    noise = [
        {"load_kind": n.load.kind, "load": n.load.load, "arm": n.arm, "again": n.again, "apart": dict(n.apart)}
        for n in validation.noise
    ]
    return envelope(KIND, SCHEMA_VERSION, parameters) | {
        "headline": headline(validation),
        "holds": validation.holds,
        "errors": {name: errors_json(validation, name) for name in FIGURES},
        "signs": {
            "rows": len(validation.clear),
            "wrong": [{"load": row.load.load, "arm": row.arm} for row in validation.wrong_signs],
            "least_gain": LEAST_GAIN,
        },
        "noise": noise,
        "replications": validation.replications,
        "intervals": intervals_in_words(validation),
        "notes": list(validation.notes),
        "rows": rows,
    }


def errors_json(validation: ServedValidation, name: str) -> dict[str, Any]:
    """Return the errors of a figure."""
    found = validation.errors(name)
    return {
        "rows": len(found),
        "median": number(validation.median(name)),
        "p90": number(percentile(np.abs(found), 90)),
        "largest": number(float(np.abs(found).max(initial=np.nan)) if len(found) else np.nan),
        "signed_median": number(percentile(found, 50)),
        "bound": validation.bounds.get(name),
        "noise": number(validation.noise_of(name)),
        "intervals_meet": number(validation.inside(name)),
    }


def number(value: float) -> float | None:
    """Return a number as JSON has it; None of what is none."""
    return float(value) if np.isfinite(value) else None


def ends(told: Told) -> list[float] | None:
    """Return an interval, None where there is none."""
    return [told.low, told.high] if np.isfinite(told.low) else None


def headline(validation: ServedValidation) -> str:
    """Say whether the forecasts hold, and how well those of a token and of the gain do."""
    found = [FIGURES[name].title for name in validation.broken]
    wrong = len(validation.wrong_signs)
    found += [f"{wrong} sign{'s' * (wrong > 1)} of the gain"] if wrong else []
    verdict = f"do not hold: {'; '.join(found)}" if found else "hold"
    arms, loads = len({r.arm for r in validation.rows}), len({id(r.load) for r in validation.rows})
    each = [("time a token", "tpot_p50"), ("first token", "ttft_p50"), ("gain", GAIN)]
    medians = [f"{what} {validation.median(of):.1%}" for what, of in each if np.isfinite(validation.median(of))]
    return (
        f"The forecasts {verdict}. {len(validation.rows)} rows, {arms} arm{'s' * (arms > 1)} at {loads} "
        f"load{'s' * (loads > 1)}: median error of the {', '.join(medians)}."
    )


def served_text(validation: ServedValidation) -> str:
    """Return the report for a terminal."""
    head = [*(f"warning: {note}" for note in validation.notes), headline(validation), signs_in_words(validation)]
    parts = [wrapped(head), error_table(validation)]
    parts += [time_table(validation, "ttft", "first token"), time_table(validation, "tpot", "time a token")]
    parts.append(rate_table(validation))
    return "\n\n".join([*parts, wrapped([*about_noise(validation), intervals_in_words(validation)])])


def signs_in_words(validation: ServedValidation) -> str:
    """Say of how many rows the sign of the gain is right."""
    clear, wrong = validation.clear, validation.wrong_signs
    if not clear:
        return f"no gain is beyond {LEAST_GAIN:.0%}, whose sign would count"
    which = ", ".join(f"{row.arm} at {row.loaded}" for row in wrong)
    said = f"the sign of the gain is right in {len(clear) - len(wrong)} of {len(clear)} rows beyond {LEAST_GAIN:.0%}"
    return said + (f"; not of {which}" if wrong else "")


def intervals_in_words(validation: ServedValidation) -> str:
    """Say what intervals are of."""
    return INTERVALS + (", and constants as well as the fit knows them" if validation.is_drawn else " alone")


def about_noise(validation: ServedValidation) -> Iterator[str]:
    """Say where the noise comes from."""
    pairs = dict.fromkeys((n.arm, n.again) for n in validation.noise)
    if pairs:
        named = ", ".join(f"{again} and {arm}" for arm, again in pairs)
        yield f"noise alone: {named}, which are one server each, loaded twice in turns with the others; medians"
    else:
        yield "noise alone is not known: no server is there twice (--arm again=URL of bench-server)"


def error_table(validation: ServedValidation) -> str:
    """Return the errors of figures."""
    heads = ("error of", "rows", "median", "bound", "p90", "signed", "noise alone", "95 % meet", "")
    rows: list[tuple[str, ...]] = [heads]
    for name, figure in FIGURES.items():
        found = validation.errors(name)
        if not len(found):
            continue
        bound = validation.bounds.get(name)
        verdict = "" if bound is None else "broken" if name in validation.broken else "held"
        rows.append(
            (
                figure.title,
                str(len(found)),
                share(validation.median(name)),
                "" if bound is None else f"{100 * bound:.3g}%",
                share(percentile(np.abs(found), 90)),
                share(percentile(found, 50), "+"),
                share(validation.noise_of(name)),
                f"{validation.inside(name):.0%}" if np.isfinite(validation.inside(name)) else "",
                verdict,
            )
        )
    return table(rows, (0, 8))


def time_table(validation: ServedValidation, name: str, what: str) -> str:
    """Return measured and forecast times of each arm at each load."""
    heads = ("load", "arm", "P50", "95 %", "forecast", "error", "P99", "forecast", "error")
    rows: list[tuple[str, ...]] = [heads]
    for row in validation.rows:
        middle, far = (times_of(row, f"{name}_p{q}") for q in (50, 99))
        told = row.measured[f"{name}_p50"]
        ends_ms = f"{ms(told.low)} to {ms(told.high)}" if np.isfinite(told.low) else ""
        rows.append((row.loaded, row.arm, middle[0], ends_ms, *middle[1:], *far))
    return f"{what}, ms\n{table(rows, (0, 1), keys=2)}"


def times_of(row: Row, name: str) -> tuple[str, str, str]:
    """Return a measured time, its forecast, and the error."""
    return ms(row.measured[name].value), ms(row.forecast[name].value), share(row.error(name), "+")


def rate_table(validation: ServedValidation) -> str:
    """Return throughputs and gains of each arm at each load."""
    heads = ("load", "arm", "tokens/s", "forecast", "error", "gain", "95 %", "forecast", "error")
    rows: list[tuple[str, ...]] = [heads]
    for row in validation.rows:
        rate = [f"{side['output_tokens_per_s'].value:,.1f}" for side in (row.measured, row.forecast)]
        cells = [*rate, share(row.error("output_tokens_per_s"), "+")]
        if GAIN in row.measured:
            told, forecast = row.measured[GAIN], row.forecast[GAIN]
            cells += [f"{told.value:.2f}x", span(told), f"{forecast.value:.2f}x", share(row.error(GAIN), "+")]
        rows.append((row.loaded, row.arm, *cells, *[""] * (7 - len(cells))))
    return table(rows, (0, 1), keys=2)


def share(value: float, sign: str = "") -> str:
    """Return percent, nothing of what is none."""
    return f"{value:{sign}.1%}" if np.isfinite(value) else ""


def span(told: Told) -> str:
    """Return an interval, nothing where there is none."""
    return f"{told.low:.2f} to {told.high:.2f}" if np.isfinite(told.low) else ""
