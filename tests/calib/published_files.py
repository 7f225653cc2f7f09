"""Files of cases to build tests from: rows made from known parameters by arithmetic of their own."""

import json
from pathlib import Path
from typing import Any

TRUE_MS = {"draft_ms": 2.5, "verify_ms": 18.0, "verify_ms_per_token": 0.75, "overhead_ms": 3.0, "baseline_ms": 20.0}
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)


def tau_iid(alpha: float, k: int) -> float:
    """Tokens a round as a plain sum of powers."""
    return sum(alpha**j for j in range(k + 1))


def measured(unit: str, k: int, tau: float, p: dict[str, float]) -> float:
    """What a row measures, by the formula as docs/validation.md states it."""
    besides_ms = p.get("token_ms", 0.0)
    round_ms = k * p["draft_ms"] + p["verify_ms"] + (k + 1) * p["verify_ms_per_token"] + p["overhead_ms"]
    round_ms += tau * besides_ms
    return {
        "ms_per_token": round_ms / tau,
        "ms_per_round": round_ms,
        "tokens_per_s": 1000 * tau / round_ms,
        "tokens_per_s_each": 1000 * tau / round_ms,
        "speedup": tau * (p["baseline_ms"] + besides_ms) / round_ms,
    }[unit]


def row(name: str, use: str, unit: str, k: int, alpha: float, p: dict[str, float]) -> dict[str, Any]:
    value = measured(unit, k, tau_iid(alpha, k), p)
    return {"name": name, "use": use, "draft_length": k, "alpha": alpha, "measured": {unit: value}}


def plain_row(p: dict[str, float], unit: str = "ms_per_token") -> dict[str, Any]:
    value = p["baseline_ms"] if unit == "ms_per_token" else 1000 / p["baseline_ms"]
    return {"name": "plain", "use": "fit", "draft_length": 0, "measured": {unit: value}}


def case(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    words = {"name": "made", "citation": "arithmetic", "hardware": "none", "models": "none"}
    return words | {"max_error": 0.001} | more | {"rows": rows}


def made_case(unit: str = "ms_per_token", besides: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """Three rows to fit draft_ms and verify_ms on, two to forecast; exact by construction."""
    uses, besides = ("fit", "fit", "fit", "forecast", "forecast"), besides or {}
    rows = [row(f"K = {k}", use, unit, k, ALPHAS[k - 1], TRUE_MS | besides) for k, use in enumerate(uses, 1)]
    fixed = {name: TRUE_MS[name] for name in ("verify_ms_per_token", "overhead_ms", "baseline_ms")} | besides
    return case(rows, fitted=["draft_ms", "verify_ms"], fixed=fixed, **more)


def write(path: Path, *cases: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"cases": list(cases)} | more))
    return path
