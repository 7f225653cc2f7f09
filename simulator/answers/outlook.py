"""What a forecast says beyond its runs: how sure it is, what it hangs on, and what models and device make of it."""

from dataclasses import asdict, dataclass
from typing import Any

from simulator.costs.model_costs import ModelPair
from simulator.ground.streams import stream
from simulator.rounds.experiment import Setting, Summary

from .forecast import Uncertainty, sensitivities, uncertainty
from .model_report import effects_text, models_json, models_text, uncertainty_text, why_text
from .schedule import Range, engine_settings, schedule
from .verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """uncertainty: of constants and acceptance. effects: percent of speedup by a percent of each constant.

    ranges: draft lengths by batch size; empty where no models are named.
    """

    uncertainty: Uncertainty
    effects: dict[str, float]
    ranges: tuple[Range, ...]


def look_out(setting: Setting, verdict: Verdict, seed: int) -> Outlook:
    """Work out what a setting leaves open.

    Args:
        setting: One point.
        verdict: Says how far draft lengths were searched.
        seed: Of the draws.
    """
    costs, acceptance, k, overlap = setting.costs, setting.acceptance, setting.draft_length, setting.overlap
    longest = verdict.searched_to
    sure = uncertainty(costs, acceptance, k, longest, stream(seed, 0, "uncertainty"), overlap=overlap)
    return Outlook(
        uncertainty=sure,
        effects=sensitivities(costs, acceptance, k, overlap=overlap),
        ranges=schedule(costs, acceptance, longest, overlap=overlap) if isinstance(costs, ModelPair) else (),
    )


def outlook_json(setting: Setting, outlook: Outlook, summary: Summary) -> dict[str, Any]:
    """Return it under plain keys."""
    found: dict[str, Any] = {
        "uncertainty": asdict(outlook.uncertainty),
        "sensitivity": outlook.effects,
        "synthetic_acceptance": engine_settings(setting.acceptance, setting.draft_length),
    }
    if isinstance(setting.costs, ModelPair):
        found["models"] = models_json(
            setting.costs,
            setting.draft_length,
            summary,
            outlook.ranges,
            setting.acceptance,
            overlap=setting.overlap,
        )
    return found


def outlook_text(setting: Setting, outlook: Outlook, summary: Summary, *, why: bool) -> str:
    """Return it for a terminal; empty where there is nothing to add."""
    k, pair = setting.draft_length, setting.costs
    low, high = outlook.uncertainty.speedup_ci95
    parts = []
    if isinstance(pair, ModelPair):
        parts.append(models_text(pair, k, summary, outlook.ranges, overlap=setting.overlap))
    if high > low:
        parts.append(uncertainty_text(outlook.uncertainty, k))
    if why and isinstance(pair, ModelPair):
        parts.append(why_text(pair, k, summary, outlook.effects))
    elif why:
        parts.append(f"1 % more of these changes the speedup by: {effects_text(outlook.effects)}.")
    return "\n\n".join(parts)
