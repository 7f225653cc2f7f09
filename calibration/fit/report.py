"""What a calibration found, for a terminal and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from simulator.costs.profile import Profile
from simulator.ground.artefacts import envelope
from simulator.ground.command import table

from .build_profile import Judged
from .compare import changes, overall
from .diagnostics import fit_json
from .fit import Fit

KIND = "calibration_report"
# 1: first version.
SCHEMA_VERSION = 1
UNITS = {"flop_scale": "s/FLOP", "mem_scale": "s/byte", "launch_s": "s", "fixed_s": "s", "overlap_exponent": ""}

# Of a pair that decoded: the work of a pass is its tokens, and the pass itself.
PAIR, PAIR_UNITS = "verification", {"flop_scale": "s/token", "mem_scale": "s/pass"}


def report_json(found: Mapping[str, Judged], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every fit with its diagnostics."""
    fits = {
        name: fit_json(own.fit, own.diagnosis)
        if own.fit is not None and own.diagnosis is not None
        else {"passed": False, "reasons": list(own.reasons)}
        for name, own in found.items()
    }
    passed = any(own.passed for own in found.values())
    return envelope(KIND, SCHEMA_VERSION, parameters) | {"passed": passed, "fits": fits}


def report_text(found: Mapping[str, Judged]) -> str:
    """Return every fit: its parameters with their errors, and how well it forecasts."""
    return "\n\n".join(fit_text(name, own) for name, own in found.items())


def fit_text(name: str, own: Judged) -> str:
    """Return one fit."""
    if own.fit is None or own.diagnosis is None:
        return f"{name}: not fitted, {own.reason}"
    units = UNITS | PAIR_UNITS if name == PAIR else UNITS
    rows = [("parameter", "value", "unit", "std. error")]
    for key, value in own.fit.cost.parameters().items():
        if value == 0:
            continue
        error = own.fit.relative_errors.get(key)
        doubt = "-" if error is None else f"{error:.1%}"
        rows.append((key_text(key, own.fit), f"{value:.4g}", units[key.partition("[")[0]], doubt))
    verdict = "passes" if own.passed else "FAILS: " + "; ".join(own.reasons)
    return "\n".join([f"{name}: {verdict}", table(rows, left=(0, 2)), errors_text(own)])


def key_text(key: str, fit: Fit) -> str:
    """Return a parameter's name, with the tokens or bytes of its knot."""
    name, _, place = key.partition("[")
    knots = {"flop_scale": fit.form.flop_knots, "mem_scale": fit.form.mem_knots}.get(name, (1.0,))
    if len(knots) == 1:
        return name
    return f"{name} at {knots[int(place[:-1])]:g} {'tokens' if name == 'flop_scale' else 'bytes'}"


def errors_text(own: Judged) -> str:
    """Say how far measured and fitted times are apart."""
    assert own.diagnosis is not None
    said = f"{own.diagnosis.fitted_points} points fitted, median error {own.diagnosis.fitted_median:.2%}"
    if own.diagnosis.held_out_median is None:
        return said
    held_out = f"{own.diagnosis.held_out_points} held out: median {own.diagnosis.held_out_median:.2%}"
    return f"{said}; {held_out}, largest {own.diagnosis.held_out_largest:.2%}"


def pair_text(profile: Profile) -> str:
    """Return what else a pair that decoded costs; nothing for other profiles."""
    own = profile.decoding
    if own is None:
        return ""
    told = (
        ("a plain step", own.baseline_s, own.baseline_error),
        ("a drafted token", own.draft_step_s, own.draft_step_error),
        ("a round besides", float(profile.round_overhead_s), profile.round_overhead_error),
    )
    cells = [(name, f"{1e3 * seconds:.4g}", "ms", f"{error:.1%}") for name, seconds, error in told]
    return "\n" + table([("beside it", "value", "unit", "std. error"), *cells], left=(0, 2))


def comparison_json(before: Profile, now: Profile) -> dict[str, Any]:
    """Return what is faster or slower than in an earlier profile."""
    found = changes(before, now)
    rows = [asdict(c) | {"ratio": c.ratio, "verdict": c.verdict} for c in found]
    return {"against": before.name, "changes": rows, "overall": overall(found)}


def comparison_text(before: Profile, now: Profile) -> str:
    """Say what is faster or slower than in an earlier profile."""
    found = changes(before, now)
    rows = [(f"against {before.name}", "then", "now", "now/then", "std. error", "verdict")]
    for change in found:
        numbers = (f"{change.before:.4g}", f"{change.now:.4g}", f"{change.ratio:.3f}", f"{change.error:.1%}")
        rows.append((change.name, *numbers, change.verdict))
    verdict = overall(found)
    nothing = "" if found else " (the profiles have nothing in common)"
    return "\n".join(["", table(rows, left=(0, 5)), f"overall: {verdict}{nothing}"])
