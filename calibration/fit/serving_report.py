"""What a fit to rows of a server found, for a terminal and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.costs.datasheet import ARITHMETIC, LINK, MEMORY
from simulator.costs.profile import DATASHEET, Profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .from_serving import Constant, ServingCalibration

KIND = "serving_calibration"
# 1: first version.
SCHEMA_VERSION = 1
# Correlations of constants that rows do not tell apart.
TOGETHER = 0.9
# Of what was assumed: floors of less have all but gone.
GONE = 0.1
PEAKS = {"flop_scale": "arithmetic", "mem_scale": "memory bandwidth", "link_bytes_per_s": "link"}
# Beyond it, rows are told to be of another server than the model that was fitted: no profile is written.
MOST_MEDIAN = 0.35
# The same: no sheet understates a device by so much.
MOST_OF_PEAK = 2.0
WORDS = {
    "flop_scale": "seconds a FLOP",
    "mem_scale": "seconds a byte",
    "launch_s": "launch",
    "fixed_s": "a pass besides",
    "overlap_exponent": "overlap exponent",
    "host_layer_s": "host a layer, with a prompt",
    "load_layer_s": "layer under load, more",
    "load_layer_sequence_s": "its sequence, more",
    "link_bytes_per_s": "link bandwidth",
    "link_latency_s": "all-reduce latency",
    "front_s": "in front of a request",
    "front_client_s": "in front, a client",
    "first_passes": "passes waited for",
    "round_overhead_s": "a round besides",
    "round_sequence_s": "its sequence",
}


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
        told = f"the rows reach {share:,.3g} times the {name} of {calibration.prior.name}, expected about 1"
        return f"{told}: times in other units (ms are meant), or another device or model"
    median = errors_of(calibration.held_out_tpot).median_error or 0.0
    if median <= MOST_MEDIAN:
        return ""
    return f"the median error of rows held out is {median:.0%}, expected at most {MOST_MEDIAN:.0%}"


def reached(calibration: ServingCalibration) -> dict[str, float]:
    """Return which share of its sheet's peaks the fit reaches; nothing where the prior is no sheet."""
    if calibration.prior.status != DATASHEET:
        return {}
    factors = {c.name: float(np.exp(log)) for c, log, _ in calibration.found}
    shares = {"flop_scale": ARITHMETIC / factors["flop_scale"], "mem_scale": MEMORY / factors["mem_scale"]}
    if "link_bytes_per_s" in factors:
        shares["link_bytes_per_s"] = LINK * factors["link_bytes_per_s"]
    return {PEAKS[name]: share for name, share in shares.items()}


def unphysical(calibration: ServingCalibration) -> dict[str, str]:
    """Return constants that no device has, with why: rates above a sheet's peak, and floors that have all but gone."""
    shares = reached(calibration)
    found = {n: f"not physical: {shares[k]:.0%} of its peak" for n, k in PEAKS.items() if shares.get(k, 0.0) > 1}
    for constant, log, _ in calibration.found:
        if constant.name not in PEAKS and log < np.log(GONE):
            found[constant.name] = f"not physical: {np.exp(log):.0%} of what was assumed is left"
    return found


def with_notes(calibration: ServingCalibration) -> Profile:
    """Return the profile, whose notes say what of it no device has."""
    words = (f"{WORDS[name]} is {why}" for name, why in unphysical(calibration).items())
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


def serving_json(calibration: ServingCalibration, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fit with its constants and the errors of every row."""
    loads, words = calibration.loads, said(calibration)
    columns = (calibration.tpot, calibration.held_out_tpot, calibration.ttft, calibration.held_out_ttft)
    names = ("tpot_error", "tpot_held_out", "ttft_error", "ttft_held_out")
    rows: list[dict[str, Any]] = [
        {"line": row.line, "concurrency": row.concurrency, "isl": row.isl, "osl": row.osl}
        | {name: float(v) if np.isfinite(v) else None for name, v in zip(names, values, strict=True)}
        for row, *values in zip(loads.rows, *columns, strict=True)
    ]
    shares = reached(calibration)
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
            for c, log, error in calibration.found
        ],
        "together": [{"one": a, "other": b, "correlation": r} for a, b, r in together(calibration)],
        "reached": shares,
        "physical": not unphysical(calibration),
        "left_out": dict(loads.left_out),
        "assumed": list(loads.assumed),
        "rows": rows,
    }


def serving_text(calibration: ServingCalibration) -> str:
    """Return what the fit found."""
    loads, seen = calibration.loads, errors_of(calibration.tpot)
    held, first = errors_of(calibration.held_out_tpot), errors_of(calibration.held_out_ttft)
    who = f"{loads.engine} serving {loads.shape.name}" if loads.engine else loads.shape.name
    head = f"{who}: {len(loads)} rows fitted, {calibration.prior.name} as prior."
    lines = [
        f"Time a token: median error {seen.median_error:.1%} of the rows; left out in turn {held.median_error:.1%}."
    ]
    if first.median_error is not None:
        lines.append(f"Time to the first token: {first.median_error:.1%} left out in turn.")
    rows = [("constant", "factor", "known to", "before", "")]
    words = said(calibration)
    for constant, log, error in calibration.found:
        name = WORDS.get(constant.name, constant.name)
        rows.append((name, f"{np.exp(log):.2f}", f"{error:.0%}", f"{constant.error:.0%}", words[constant.name]))
    shares = reached(calibration)
    notes = [f"Reached of the sheet's peaks: {', '.join(f'{k} {v:.0%}' for k, v in shares.items())}."] if shares else []
    odd = unphysical(calibration)
    notes += [f"Not physical, so this is not what the server has: {', '.join(WORDS[n] for n in odd)}."] if odd else []
    if loads.distinct < len(loads):
        notes.append(f"The rows are of {loads.distinct} loads: what is of one load counts as one.")
    notes += [
        f"{WORDS[a]} and {WORDS[b]} move together ({r:+.2f}): the rows tell them as one."
        for a, b, r in together(calibration)
    ]
    notes += [f"{count} rows left out: {reason}." for reason, count in loads.left_out.items()]
    notes += [f"{note[0].upper()}{note[1:]}." for note in loads.assumed]
    return "\n\n".join(("\n".join((head, *lines)), table(rows, (0, 4)), "\n".join(notes)))
