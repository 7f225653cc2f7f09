"""Results as people and programs read them: the terminal report, the JSON, and tables as CSV or Parquet."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.costs.kinds import is_models, is_timed
from simulator.costs.step import Costs, Knobs
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped
from simulator.rounds.engine import elapsed_s
from simulator.rounds.experiment import Summary

from .basis import Basis
from .forecast import Forecast
from .verdict import DOES_NOT_FIT, DOES_NOT_PAY, PAYS, best_in_words, headline, need_in_words

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair

KIND = "simulation"
# 1: first version. 2: `speedup_ci95` is now `simulation_noise_ci95`; a pass has `fixed_ms`, taken out of `launch_ms`.
# 3: `basis`; the answer's speedup and its interval are in `verdict`, without one where models do not fit.
SCHEMA_VERSION = 3


def result_json(
    forecast: Forecast, parameters: Mapping[str, Any], basis: Basis, said: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the result of `simulate` with its provenance, under plain keys; said: what nobody stated."""
    from .schedule import engine_settings

    setting, verdict, summary = forecast.setting, forecast.verdict, forecast.summary._asdict()
    told = verdict._asdict() | {"condition": basis.condition or None}
    if basis.condition and verdict.answer in (PAYS, DOES_NOT_PAY):
        told["answer"] = f"{verdict.answer} if"
    fits = verdict.answer != DOES_NOT_FIT
    if not fits:
        summary |= dict.fromkeys(("speedup", "simulation_noise_ci95", "closed_form_speedup"))
        told |= dict.fromkeys(("best_draft_length", "best_speedup", "may_pay"))
    payload = summary | {
        "headline": headline(verdict, basis, setting.draft_length),
        "alpha_iid": verdict.alpha_iid,
        "basis": basis._asdict(),
        "verdict": told,
        "uncertainty": forecast.uncertainty._asdict() if fits else None,
        "sensitivity": forecast.sensitivities if fits else None,
        "synthetic_acceptance": engine_settings(setting.acceptance, setting.draft_length),
    }
    if is_models(setting.costs):
        from simulator.costs.cautions import cautions

        from .model_report import models_json

        payload["models"] = models_json(setting.costs, forecast, parameters.get("draft_model"))
        if not fits:
            payload["models"] |= dict.fromkeys(("tokens_per_s", "energy_j_per_token"))
        payload["notes"] = [*said, *([] if fits else [what_would_fit(setting.costs)])]
        payload["warnings"] = list(cautions(setting.costs, setting.draft_length))
    return envelope(KIND, SCHEMA_VERSION, parameters) | payload


def result_text(forecast: Forecast, heading: str, basis: Basis, said: Sequence[str] = (), *, why: bool = False) -> str:
    """Return the report of `simulate` for a terminal, the answer first.

    said: what nobody stated of how models run, in sentences; why: in words where the time goes.
    """
    pair, k, verdict = forecast.setting.costs, forecast.setting.draft_length, forecast.verdict
    overhead_ms = float(forecast.setting.cost.overhead_s) * 1e3
    lines = [
        *cautions_text(pair, k),
        headline(verdict, basis, k),
        *basis.lines,
        *said,
    ]
    if verdict.answer == DOES_NOT_FIT and is_models(pair):
        from .model_report import memory_text

        lines += [memory_text(pair), what_would_fit(pair)]
        return "\n\n".join([wrapped(lines), wrapped(heading.splitlines())])
    lines += [best_in_words(verdict, k), *certainty_in_words(forecast), need_in_words(verdict, k)]
    if overhead_ms == 0 and (isinstance(pair, Knobs) or is_models(pair)):
        lines.append("No overhead a round is assumed; engines spend 9 to 18 % of a token (--round-overhead MS).")
    parts = [wrapped(lines), wrapped(heading.splitlines()), *summary_text(forecast.summary, overhead_ms, pair)]
    if is_models(pair):
        from .model_report import models_text

        parts.append(models_text(pair, forecast))
    if why:
        parts.append(wrapped(["why", *why_lines(forecast)]))
    return "\n\n".join(parts)


def why_lines(forecast: Forecast) -> list[str]:
    """Say where the time goes, and what would change it; nothing of what does not fit."""
    pair = forecast.setting.costs
    if forecast.verdict.answer == DOES_NOT_FIT:
        return []
    reasons = list[str]()
    if is_models(pair):
        from .model_report import why_text

        reasons = why_text(pair, forecast).splitlines()
    return [*reasons, f"1 % more of these changes the speedup by: {sensitivities_text(forecast.sensitivities)}."]


def what_would_fit(pair: "ModelPair") -> str:
    """Say with what a pair that does not fit would."""
    from simulator.costs.room import would_fit

    return would_fit(pair, lambda p: bool(p.fits))


def cautions_text(costs: Costs, draft_length: int | None = None) -> list[str]:
    """Return what to know of two models before the numbers, a line each."""
    if not is_models(costs):
        return []
    from simulator.costs.cautions import cautions

    return [f"warning: {caution}" for caution in cautions(costs, draft_length)]


def summary_text(s: Summary, overhead_ms: float, costs: Costs) -> list[str]:
    """Return the tables of a summary, and its counts."""
    noise = "" if s.simulation_noise_ci95 is None else "{:.3f} to {:.3f}".format(*s.simulation_noise_ci95)
    baseline, speculative = f"{s.baseline_ms_per_token:.4f}", f"{s.speculative_ms_per_token:.4f}"
    rows = [
        ("", "simulated", "simulation noise", "long run, closed form"),
        ("baseline, ms/token", baseline, "", baseline),
        ("speculative, ms/token", speculative, "", f"{s.closed_form_speculative_ms_per_token:.4f}"),
        ("speedup", f"{s.speedup:.3f}x", noise, f"{s.closed_form_speedup:.3f}x"),
        ("tokens per round", f"{s.tokens_per_round:.3f}", "", f"{s.closed_form_tokens_per_round:.3f}"),
    ]
    split = ", split as assumed" if is_timed(costs) else ""
    phases = [
        (f"where a round goes{split}", "ms/round", "ms/token"),
        ("draft", f"{s.draft_ms_per_round:.4f}", f"{s.draft_ms_per_token:.4f}"),
        ("verify", f"{s.verify_ms_per_round:.4f}", f"{s.verify_ms_per_token:.4f}"),
    ]
    if overhead_ms > 0:
        phases.append(("overhead", f"{overhead_ms:.4f}", f"{overhead_ms * s.rounds / s.tokens:.4f}"))
    counts = (
        f"a run: {s.tokens} tokens in {s.rounds:.1f} rounds, {s.drafted:.1f} drafted, "
        f"{s.accepted:.1f} accepted ({s.draft_acceptance_rate:.1%})"
    )
    return [f"{table(rows)}\n{counts}", table(phases)]


def certainty_in_words(forecast: Forecast) -> list[str]:
    """Say how sure the best draft length is, where that hangs on what is not known."""
    known = forecast.uncertainty
    if not known.is_open:
        return []
    first, last = known.best_draft_length_ci95
    share = f"{known.best_draft_length} in {known.best_share:.0%} of the draws of what is not known"
    best = share if first == last == known.best_draft_length else f"{first} to {last} in 95 %, {share}"
    return [f"Best K {best}."]


def sensitivities_text(sensitivities: Mapping[str, float]) -> str:
    """Return sensitivities in words, the largest first."""
    names = {
        "flop_scale": "time of arithmetic",
        "mem_scale": "time of memory",
        "launch_s": "time of a launch",
        "fixed_s": "fixed time of a pass",
        "link_s": "time of the link",
        "host_s": "time of the host",
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
    return {k: v for k, v in parameters.items() if k != "replications"} | {
        "replication": np.arange(count),
        "baseline_ms_per_token": baseline_s / total * 1e3,
        "speculative_ms_per_token": times_s / total * 1e3,
        "speedup": baseline_s / times_s,
        "rounds": runs.rounds,
        "drafted": runs.rounds * (setting.draft_length if cost.drafted is None else float(cost.drafted)),
        "accepted": runs.accepted,
        "cut_tokens": runs.cut,
        "tokens": total,
        "tokens_per_round": 1 + runs.accepted / runs.rounds,
    }
