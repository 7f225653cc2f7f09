"""What a fit to rows of a server found, for a terminal and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.costs.profile import Profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .far_rows import FarRow, far_in_words, far_json
from .from_serving import Constant, ServingCalibration
from .physical import PEAKS, PHYSICAL, allowed, in_words, reached, unphysical, values
from .row_words import notes_of, row_warnings

KIND = "serving_calibration"
# 1: first version.
SCHEMA_VERSION = 1
# Loads below which a fit is told to be of few.
FEW_LOADS = 5
# Correlations of constants that rows do not tell apart.
TOGETHER = 0.9
# Beyond it, rows are told to be of another server than the model that was fitted: no profile is written.
MOST_MEDIAN = 0.35
# The same: no sheet understates a device by so much.
MOST_OF_PEAK = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors of rows in short; None of no rows."""

    rows: int
    median_error: float | None
    mean_error: float | None
    signed_median: float | None
    p90_error: float | None


def errors_of(off: Floats) -> Errors:
    """Sum errors up, without rows that have none."""
    off = off[np.isfinite(off)]
    if not len(off):
        return Errors(rows=0, median_error=None, mean_error=None, signed_median=None, p90_error=None)
    size = np.abs(off)
    return Errors(
        rows=len(off),
        median_error=float(np.median(size)),
        mean_error=float(np.mean(size)),
        signed_median=float(np.median(off)),
        p90_error=float(np.percentile(size, 90)),
    )


def errors_json(errors: Errors) -> dict[str, Any]:
    """Return them under the names of files."""
    return {name: getattr(errors, name) for name in Errors.__slots__}


def failed(calibration: ServingCalibration) -> str:
    """Say why no profile is to be written, "" where one is."""
    beyond = {name: share for name, share in reached(calibration).items() if share > MOST_OF_PEAK}
    if beyond:
        name, share = max(beyond.items(), key=lambda peak: peak[1])
        told = f"the rows reach {share:,.3g} times the {PEAKS[name]} of {calibration.prior.name}, expected about 1"
        return f"{told}: times in other units (ms are meant), or another device or model"
    median = errors_of(calibration.held_out_tpot).median_error or 0.0
    if median <= MOST_MEDIAN:
        return ""
    return f"the median error of rows held out is {median:.0%}, expected at most {MOST_MEDIAN:.0%}"


def with_notes(calibration: ServingCalibration) -> Profile:
    """Return the profile, whose notes say what of it no device has."""
    words = (f"{PHYSICAL[name].words} is {why}" for name, why in unphysical(calibration).items())
    notes = tuple(f"{word[0].upper()}{word[1:]}." for word in words)
    return replace(calibration.profile, notes=(*notes, *calibration.profile.notes))


def said(calibration: ServingCalibration) -> dict[str, str]:
    """Return what there is to say of constants, by name."""
    odd = unphysical(calibration)
    return {c.name: odd.get(c.name) or said_of(c, calibration) for c in calibration.constants}


def said_of(constant: Constant, calibration: ServingCalibration) -> str:
    """Say what rows tell of a constant; "" where they tell it."""
    if constant.name in calibration.told:
        return ""
    return "as before: the rows do not tell" if constant.name in calibration.still else "moved, though known no better"


def together(calibration: ServingCalibration) -> Iterator[tuple[str, str, float]]:
    """Yield constants that the rows do not tell apart, with their correlation."""
    errors, names = np.sqrt(np.diag(calibration.covariance)), [c.name for c in calibration.constants]
    correlations = calibration.covariance / np.outer(errors, errors)
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        if abs(correlations[i, j]) > TOGETHER:
            yield names[i], names[j], float(correlations[i, j])


def as_one(calibration: ServingCalibration) -> list[list[str]]:
    """Return groups of constants that move together, one with another at least."""
    groups: list[list[str]] = []
    for one, other, _ in together(calibration):
        joined = [group for group in groups if {one, other} & set(group)]
        groups = [group for group in groups if group not in joined]
        groups.append(list(dict.fromkeys([*(name for group in joined for name in group), one, other])))
    return groups


def serving_json(
    calibration: ServingCalibration, parameters: Mapping[str, Any], far: Sequence[FarRow] = ()
) -> dict[str, Any]:
    """Return the fit with its constants and the errors of every row."""
    loads, words, amounts = calibration.loads, said(calibration), values(calibration)
    columns = (calibration.tpot, calibration.held_out_tpot, calibration.ttft, calibration.held_out_ttft)
    names = ("tpot_error", "tpot_held_out", "ttft_error", "ttft_held_out")
    rows: list[dict[str, Any]] = [
        {"line": row.line, "concurrency": row.concurrency, "isl": row.isl, "osl": row.osl}
        | {name: float(v) if np.isfinite(v) else None for name, v in zip(names, values, strict=True)}
        for row, *values in zip(loads.rows, *columns, strict=True)
    ]
    return envelope(KIND, SCHEMA_VERSION, parameters) | {
        "passed": not failed(calibration),
        "model": loads.shape.name,
        "engine": loads.engine,
        "prior": calibration.prior.name,
        "tpot": errors_json(errors_of(calibration.tpot)),
        "ttft": errors_json(errors_of(calibration.ttft)),
        "held_out": {
            "tpot": errors_json(errors_of(calibration.held_out_tpot)),
            "ttft": errors_json(errors_of(calibration.held_out_ttft)),
        },
        "loads": loads.distinct,
        "constants": [
            {"name": c.name, "factor": float(np.exp(log)), "relative_error": error, "prior_error": c.error}
            | {"told": c.name in calibration.told, "said": words[c.name] or None}
            | {"value": amounts.get(c.name), "unit": PHYSICAL[c.name].unit}
            for c, log, error in calibration.found
        ],
        "together": [{"one": a, "other": b, "correlation": r} for a, b, r in together(calibration)],
        "reached": {PEAKS[name]: share for name, share in reached(calibration).items()},
        "physical": not unphysical(calibration),
        "warnings": list(warnings_of(calibration, far)),
        "far_rows": far_json(far),
        "left_out": dict(loads.left_out),
        "assumed": list(loads.assumed),
        "rows": rows,
    }


def warnings_of(calibration: ServingCalibration, far: Sequence[FarRow] = ()) -> Iterator[str]:
    """Yield what to know before the numbers: of the rows, of those that lie far, of constants that nothing has."""
    loads = calibration.loads
    yield from row_warnings(loads, calibration.prior)
    if loads.distinct < FEW_LOADS:
        yield f"{loads.distinct} loads tell little of {len(calibration.constants)} constants: five to ten are better"
    yield from far_in_words(far, "such count for little in a fit; mend them, or leave them out")
    odd = unphysical(calibration)
    if odd:
        named = "; ".join(PHYSICAL[name].words for name in odd)
        yield f"not physical, so this is not what the server has: {named}"


def serving_text(calibration: ServingCalibration, far: Sequence[FarRow] = ()) -> str:
    """Return what the fit found."""
    loads, seen = calibration.loads, errors_of(calibration.tpot)
    held, first = errors_of(calibration.held_out_tpot), errors_of(calibration.held_out_ttft)
    who = f"{loads.engine} serving {loads.shape.name}" if loads.engine else loads.shape.name
    lines = [f"warning: {warning}" for warning in warnings_of(calibration, far)]
    lines += [f"{who}: {len(loads)} rows fitted, {calibration.prior.name} as prior."]
    lines += [
        f"Time a token: median error {seen.median_error:.1%} of the rows; left out in turn {held.median_error:.1%}."
    ]
    if first.median_error is not None:
        lines.append(f"Time to the first token: {first.median_error:.1%} left out in turn.")
    notes = []
    if loads.distinct < len(loads):
        notes.append(f"The rows are of {loads.distinct} loads: what is of one load counts as one.")
    for names in as_one(calibration):
        notes.append(f"The rows tell as one what moves together: {'; '.join(PHYSICAL[name].words for name in names)}.")
    notes += notes_of(loads)
    return "\n\n".join(("\n".join(lines), constants_table(calibration), "\n".join(notes)))


def constants_table(calibration: ServingCalibration) -> str:
    """Return the constants: what was fitted, by what factor that is of what was assumed, and how well each is known."""
    words, amounts, odd = said(calibration), values(calibration), unphysical(calibration)
    rows = [("constant", "fitted", "factor", "known to", "before", "")]
    for constant, log, error in calibration.found:
        name = constant.name
        amount = in_words(name, amounts[name]) if name in amounts else ""
        known = (f"{np.exp(log):.2f}", f"{error:.0%}", f"{constant.error:.0%}")
        rows.append(
            (PHYSICAL[name].words, amount, *known, f"not physical ({allowed(name)})" if name in odd else words[name])
        )
    return table(rows, (0, 5))
