"""A forecast: simulated runs of a setting, the verdict on them, how sure it is and what it hangs on (model §5)."""

from typing import TYPE_CHECKING, NamedTuple

from simulator.costs.kinds import is_models
from simulator.ground.streams import stream
from simulator.rounds.engine import Counts
from simulator.rounds.experiment import Progress, Setting, Summary, replicate, summarise

from .uncertainty import Uncertainty, sensitivities, uncertainty
from .verdict import Verdict, judge, searched_draft_lengths

if TYPE_CHECKING:
    from .schedule import Range


class Forecast(NamedTuple):
    """What is forecast of a setting.

    runs: what happened in each. uncertainty: of constants and acceptance. sensitivities: percent of speedup by a
    percent of each constant. ranges: draft lengths by batch size; empty where the costs are not those of models.
    """

    setting: Setting
    runs: Counts
    summary: Summary
    verdict: Verdict
    uncertainty: Uncertainty
    sensitivities: dict[str, float]
    ranges: "tuple[Range, ...]"


def forecast(
    setting: Setting, *, replications: int = 32, seed: int = 0, progress: Progress = lambda runs: None
) -> Forecast:
    """Forecast one setting; the same seed gives the same forecast.

    Args:
        setting: One point.
        replications: Simulated runs.
        seed: Of every random stream.
        progress: Called with how many runs were done.
    """
    costs, acceptance, k, overlap = setting.costs, setting.acceptance, setting.draft_length, setting.overlap
    longest = int(searched_draft_lengths(setting)[-1])
    runs = replicate(setting, replications, seed, progress)
    summary = summarise(setting, runs)
    known = uncertainty(costs, acceptance, k, longest, stream(seed, 0, "uncertainty"), overlap=overlap)
    ranges: tuple[Range, ...] = ()
    if is_models(costs):
        from .schedule import schedule

        ranges = schedule(costs, acceptance, longest, overlap=overlap)
    return Forecast(
        setting=setting,
        runs=runs,
        summary=summary,
        verdict=judge(setting, known),
        uncertainty=known,
        sensitivities=sensitivities(costs, acceptance, k, overlap=overlap),
        ranges=ranges,
    )
