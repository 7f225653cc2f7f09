"""What a calibration found, for a terminal and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from simulator.costs.compare import changes, overall
from simulator.costs.profile import Profile
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .diagnostics import CheckedFit, Diagnosis
from .fit import Fit
from .from_decode import PAIR

KIND = "calibration_report"
# 1: first version.
SCHEMA_VERSION = 1
UNITS = {"flop_scale": "s/FLOP", "mem_scale": "s/byte", "launch_s": "s", "fixed_s": "s", "overlap_exponent": ""}
# Of a pair that decoded: the work of a pass is its tokens, and the pass itself.
PAIR_UNITS = {"flop_scale": "s/token", "mem_scale": "s/pass"}


def report_json(fits: Mapping[str, CheckedFit], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every fit with its diagnostics."""
    passed = any(fit.passed for fit in fits.values())
    body = {"passed": passed, "fits": {name: fit_json(fit) for name, fit in fits.items()}}
    return envelope(KIND, SCHEMA_VERSION, parameters) | body


def fit_json(checked: CheckedFit) -> dict[str, Any]:
    """Return a fit and what was found out about it."""
    fit, diagnosis = checked.fit, checked.diagnosis
    if fit is None or diagnosis is None:
        return {"passed": False, "reasons": list(checked.reasons)}
    seen = fit.observations
    rows = zip(seen.labels, seen.seconds, fit.residuals, seen.held_out, strict=True)
    return {
        "passed": diagnosis.passed,
        "reasons": list(diagnosis.reasons),
        "parameters": {
            name: {"value": value, "relative_error": fit.relative_errors.get(name)}
            for name, value in fit.cost.parameters().items()
        },
        "flop_knots_tokens": list(fit.form.flop_knots),
        "mem_knots_bytes": list(fit.form.mem_knots),
        "at_bounds": list(fit.at_bounds),
        "undetermined": list(fit.undetermined),
        "correlations": {"parameters": list(fit.cost.uncertain), "matrix": fit.correlations.tolist()},
        "condition": fit.condition,
        "discrepancy": fit.discrepancy,
        "bic": fit.bic,
        "fitted_points": diagnosis.fitted_points,
        "held_out_points": diagnosis.held_out_points,
        "fitted_median_error": diagnosis.fitted_median,
        "held_out_median_error": diagnosis.held_out_median,
        "held_out_largest_error": diagnosis.held_out_largest,
        "points": [
            {"label": name, "seconds": float(s), "residual": float(r), "held_out": bool(h)} for name, s, r, h in rows
        ],
    }


def report_text(fits: Mapping[str, CheckedFit]) -> str:
    """Return what came of it, then every fit: its parameters with their errors, and how well it forecasts."""
    return "\n\n".join([headline(fits), *(fit_text(name, fit) for name, fit in fits.items())])


def headline(fits: Mapping[str, CheckedFit]) -> str:
    """Say whether there is a profile, and how far its forecasts of points held out are off."""
    passed, failed = ([name for name, fit in fits.items() if fit.passed is which] for which in (True, False))
    if not passed:
        return "Failed: no fit passes its checks, there is no profile."
    diagnoses = [diagnosis for name in passed if (diagnosis := fits[name].diagnosis) is not None]
    errors = [d.held_out_median for d in diagnoses if d.held_out_median is not None]
    off = f"points held out are off by {max(errors):.2%} in the median" if errors else "no points were held out"
    if failed:
        return f"Fitted in part: {' and '.join(passed)}, but not {' and '.join(failed)}; {off}."
    return f"Fitted: {' and '.join(passed)}; {off}."


def fit_text(name: str, checked: CheckedFit) -> str:
    """Return one fit."""
    fit, diagnosis = checked.fit, checked.diagnosis
    if fit is None or diagnosis is None:
        return f"{name}: not fitted, {checked.reason}"
    units = UNITS | PAIR_UNITS if name == PAIR else UNITS
    rows = [("parameter", "value", "unit", "std. error")]
    for key, value in fit.cost.parameters().items():
        if value == 0:
            continue
        error = fit.relative_errors.get(key)
        doubt = "-" if error is None else f"{error:.1%}"
        rows.append((key_text(key, fit), f"{value:.4g}", units[key.partition("[")[0]], doubt))
    verdict = "passes" if checked.passed else "FAILS: " + "; ".join(checked.reasons)
    return "\n".join([f"{name}: {verdict}", table(rows, left=(0, 2)), errors_text(diagnosis)])


def key_text(key: str, fit: Fit) -> str:
    """Return a parameter's name, with the tokens or bytes of its knot."""
    name, _, place = key.partition("[")
    knots = {"flop_scale": fit.form.flop_knots, "mem_scale": fit.form.mem_knots}.get(name, (1.0,))
    if len(knots) == 1:
        return name
    return f"{name} at {knots[int(place[:-1])]:g} {'tokens' if name == 'flop_scale' else 'bytes'}"


def errors_text(diagnosis: Diagnosis) -> str:
    """Say how far measured and fitted times are apart."""
    fitted = f"{diagnosis.fitted_points} points fitted, median error {diagnosis.fitted_median:.2%}"
    if diagnosis.held_out_median is None:
        return fitted
    held_out = f"{diagnosis.held_out_points} held out: median {diagnosis.held_out_median:.2%}"
    return f"{fitted}; {held_out}, largest {diagnosis.held_out_largest:.2%}"


def pair_text(profile: Profile) -> str:
    """Return what else a pair that decoded costs; nothing for other profiles."""
    pair = profile.decoding
    if pair is None:
        return ""
    times = (
        ("a plain step", pair.baseline_s, pair.baseline_error),
        ("a drafted token", pair.draft_step_s, pair.draft_step_error),
        ("a round besides", float(profile.round_overhead_s), profile.round_overhead_error),
    )
    cells = [(name, f"{1e3 * seconds:.4g}", "ms", f"{error:.1%}") for name, seconds, error in times]
    return "\n" + table([("beside it", "value", "unit", "std. error"), *cells], left=(0, 2))


def comparison_json(before: Profile, now: Profile) -> dict[str, Any]:
    """Return what is faster or slower than in an earlier profile."""
    differences = changes(before, now)
    rows = [asdict(c) | {"ratio": c.ratio, "verdict": c.verdict} for c in differences]
    return {"against": before.name, "changes": rows, "overall": overall(differences)}


def comparison_text(before: Profile, now: Profile) -> str:
    """Say what is faster or slower than in an earlier profile."""
    differences = changes(before, now)
    rows = [(f"against {before.name}", "then", "now", "now/then", "std. error", "verdict")]
    for change in differences:
        numbers = (f"{change.before:.4g}", f"{change.now:.4g}", f"{change.ratio:.3f}", f"{change.error:.1%}")
        rows.append((change.name, *numbers, change.verdict))
    verdict = overall(differences)
    nothing = "" if differences else " (the profiles have nothing in common)"
    return "\n".join(["", table(rows, left=(0, 5)), f"overall: {verdict}{nothing}"])
