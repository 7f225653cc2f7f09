"""Results as people and programs read them: the terminal report, the JSON, and tables as CSV or Parquet."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulator.costs.cautions import cautions
from simulator.costs.model_costs import ModelPair
from simulator.costs.step import Costs
from simulator.ground.artefacts import UserError, envelope, writing
from simulator.ground.command import table
from simulator.ground.dependency import Dependency, require
from simulator.rounds.engine import elapsed_s
from simulator.rounds.experiment import Summary

from .forecast import Forecast
from .model_report import models_json, models_text, why_text
from .schedule import engine_settings
from .uncertainty import Uncertainty
from .verdict import in_words

KIND = "simulation"
# 1: first version. 2: `speedup_ci95` is now `simulation_noise_ci95`; a pass has `fixed_ms`, taken out of `launch_ms`.
SCHEMA_VERSION = 2
PARQUET = Dependency(import_name="pyarrow", purpose="writing Parquet", extra="parquet")
TABLE_SUFFIXES = (".csv", ".parquet")


def result_json(forecast: Forecast, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `simulate` with its provenance, under plain keys."""
    setting, verdict = forecast.setting, forecast.verdict
    payload = asdict(forecast.summary) | {
        "alpha_iid": verdict.alpha_iid,
        "verdict": asdict(verdict),
        "uncertainty": asdict(forecast.uncertainty),
        "sensitivity": forecast.sensitivities,
        "synthetic_acceptance": engine_settings(setting.acceptance, setting.draft_length),
    }
    if isinstance(setting.costs, ModelPair):
        payload["models"] = models_json(setting.costs, forecast)
        payload["warnings"] = list(cautions(setting.costs, setting.draft_length))
    return envelope(KIND, SCHEMA_VERSION, parameters) | payload


def result_text(forecast: Forecast, heading: str, *, why: bool = False) -> str:
    """Return the report of `simulate` for a terminal; `why`: in words where the time goes."""
    overhead_ms = float(forecast.setting.cost.overhead_s) * 1e3
    words = in_words(forecast.verdict, forecast.summary, forecast.setting.draft_length)
    if overhead_ms == 0:
        words.append("No overhead a round is assumed; engines spend 9 to 18 % of a token (--round-overhead MS).")
    warnings = cautions_text(forecast.setting.costs, forecast.setting.draft_length)
    parts = [
        heading,
        *warnings,
        *summary_text(forecast.summary, overhead_ms),
        *outlook_text(forecast, why=why),
        "\n".join(words),
    ]
    return "\n\n".join(parts)


def cautions_text(costs: Costs, draft_length: int | None = None) -> list[str]:
    """Return what to know of two models before the numbers, in one part or none."""
    found = cautions(costs, draft_length) if isinstance(costs, ModelPair) else ()
    return ["\n".join(f"warning: {caution}" for caution in found)] if found else []


def summary_text(s: Summary, overhead_ms: float) -> list[str]:
    """Return the tables of a summary, and its counts."""
    low_high = "" if s.simulation_noise_ci95 is None else "[{:.3f}, {:.3f}]".format(*s.simulation_noise_ci95)
    baseline, speculative = f"{s.baseline_ms_per_token:.4f}", f"{s.speculative_ms_per_token:.4f}"
    rows = [
        ("", "simulated", "95 % interval", "closed form"),
        ("baseline, ms/token", baseline, "", baseline),
        ("speculative, ms/token", speculative, "", f"{s.closed_form_speculative_ms_per_token:.4f}"),
        ("speedup", f"{s.speedup:.3f}x", low_high, f"{s.closed_form_speedup:.3f}x"),
        ("tokens per round", f"{s.tokens_per_round:.3f}", "", f"{s.closed_form_tokens_per_round:.3f}"),
    ]
    phases = [
        ("", "ms/round", "ms/token"),
        ("draft", f"{s.draft_ms_per_round:.4f}", f"{s.draft_ms_per_token:.4f}"),
        ("verify", f"{s.verify_ms_per_round:.4f}", f"{s.verify_ms_per_token:.4f}"),
    ]
    if overhead_ms > 0:
        phases.append(("overhead", f"{overhead_ms:.4f}", f"{overhead_ms * s.rounds / s.tokens:.4f}"))
    counts = (
        f"a run: {s.tokens} tokens in {s.rounds:.1f} rounds, {s.drafted:.1f} drafted, "
        f"{s.accepted:.1f} accepted ({s.draft_acceptance_rate:.1%})"
    )
    return [table(rows), table(phases), counts]


def outlook_text(forecast: Forecast, *, why: bool) -> list[str]:
    """Return what a forecast says beyond its runs: of models and device, how sure it is, and what it hangs on."""
    pair = forecast.setting.costs
    low, high = forecast.uncertainty.speedup_ci95
    parts = [models_text(pair, forecast)] if isinstance(pair, ModelPair) else []
    if high > low:
        parts.append(uncertainty_text(forecast.uncertainty, forecast.setting.draft_length))
    if why:
        reasons = [why_text(pair, forecast)] if isinstance(pair, ModelPair) else []
        effects = f"1 % more of these changes the speedup by: {sensitivities_text(forecast.sensitivities)}."
        parts.append("\n".join([*reasons, effects]))
    return parts


def uncertainty_text(known: Uncertainty, draft_length: int) -> str:
    """Say how sure a forecast is."""
    low, high = known.speedup_ci95
    first, last = known.best_draft_length_ci95
    best = f"{known.best_draft_length} in {known.best_share:.0%} of the draws"
    if not first == last == known.best_draft_length:
        best = f"{first} to {last} in 95 % of the draws, {known.best_draft_length} in {known.best_share:.0%}"
    gain = f"{low:.2f}x to {high:.2f}x at K = {draft_length}"
    return f"As well as constants and acceptance are known: {gain}; best K {best}."


def sensitivities_text(sensitivities: Mapping[str, float]) -> str:
    """Return sensitivities in words, the largest first."""
    names = {
        "flop_scale": "time of arithmetic",
        "mem_scale": "time of memory",
        "launch_s": "time of a launch",
        "fixed_s": "fixed time of a pass",
        "link_s": "time of the link",
        "round_overhead_s": "overhead of a round",
        "mean_accepted": "accepted tokens",
    }
    shown = sorted(((value, names[name]) for name, value in sensitivities.items()), key=lambda e: -abs(e[0]))
    return ", ".join(f"{name} {value:+.2f} %" for value, name in shown if abs(value) >= 0.005) or "nothing"


def run_columns(forecast: Forecast, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row for each run: its parameters and its results."""
    setting, runs = forecast.setting, forecast.runs
    count, cost, total = len(runs.rounds), setting.cost, setting.total
    times_s = elapsed_s(cost, runs)
    baseline_s = total * float(cost.baseline_s)
    return {k: [v] * count for k, v in parameters.items() if k != "replications"} | {
        "replication": range(count),
        "baseline_ms_per_token": [baseline_s / total * 1e3] * count,
        "speculative_ms_per_token": times_s / total * 1e3,
        "speedup": baseline_s / times_s,
        "rounds": runs.rounds,
        "drafted": runs.rounds * setting.draft_length,
        "accepted": runs.accepted,
        "cut_tokens": runs.cut,
        "tokens": [total] * count,
        "tokens_per_round": 1 + runs.accepted / runs.rounds,
    }


def check_table_format(option: str, path: Path | None, suffixes: tuple[str, ...] = TABLE_SUFFIXES) -> None:
    """Refuse a table suffix we do not write, or Parquet where its library is missing."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise UserError(f"{option} {path}: suffix {path.suffix!r}, expected {' or '.join(suffixes)}")
    if path.suffix == ".parquet":
        require(PARQUET)


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of one length as CSV or Parquet by suffix, atomically; a scalar is repeated."""
    import pandas as pd

    frame = pd.DataFrame(dict(columns))
    with writing(path, "wb") as file:
        if path.suffix == ".parquet":
            frame.to_parquet(file, index=False)
        else:
            frame.to_csv(file, index=False)
