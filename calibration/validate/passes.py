"""Forecasts of speedups from timed passes, beside the speedups that the passes themselves make.

Both share the injected acceptance, so that a row's error is that of its costs.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acceptance.bench.passes import DRAFT, TARGET, Point
from calibration.fit.from_passes import is_seen
from calibration.fit.lengths import parse_lengths
from calibration.sources.passes import PassTimes, load_passes
from calibration.sources.timed import Timed
from simulator.answers.uncertainty import SAMPLES
from simulator.costs.model_costs import ModelPair
from simulator.costs.profile import Profile
from simulator.costs.profile_file import load_profile
from simulator.costs.step import Floats, RoundCost
from simulator.ground.artefacts import UserError, read_bytes
from simulator.ground.fields import read_json
from simulator.ground.histogram import NORMAL_95, load_histograms
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import HistogramAcceptance

from .rows import Bounds, Row, Validation

BOUNDS = Bounds(median=0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Which passes a profile was fitted to: those of a file, at some draft lengths; None: at all of them."""

    passes_sha256: str | None
    lengths: tuple[int, ...] | None

    def has_seen(self, times: PassTimes, point: Point) -> bool:
        """Whether a pass of a file went into the profile."""
        is_file = self.passes_sha256 == sha256(read_bytes(times.path)).hexdigest()
        return is_file and is_seen(times, point, self.lengths)


def validate_passes(passes: Path, profile: Path, histograms: Path) -> Validation:
    """Hold the forecasts of a profile against the speedups that timed passes make.

    Args:
        passes: A passes.json of `bench-decode time-passes`.
        profile: Name or file.
        histograms: A file or folder of what rounds accept.

    Raises:
        UserError: A file is of another kind; or see `pass_rows`.
    """
    times, device = load_passes(passes), load_profile(profile)
    acceptance = HistogramAcceptance(load_histograms(histograms))
    rows = pass_rows(times, device, acceptance, fitted_of(profile), stream(0, 0, "validate"))
    remark = () if any(r.fitted for r in rows) else ("the profile was fitted to another file: no row counts as fitted",)
    return Validation(rows=tuple(rows), bounds=BOUNDS, remarks=remark)


def fitted_of(path: Path) -> Fitted:
    """Return what a profile says it was fitted to; one that comes along, or from elsewhere, to nothing of ours."""
    value = read_json(path)["parameters"].value if path.exists() else None
    parameters = value if isinstance(value, dict) else {}
    digest, lengths = parameters.get("passes_sha256"), parameters.get("fit_k")
    if not isinstance(digest, str):
        return Fitted(passes_sha256=None, lengths=None)
    return Fitted(passes_sha256=digest, lengths=None if lengths is None else parse_lengths("--fit-k", lengths))


class Measured(NamedTuple):
    """A speedup of a token a round, and its interval."""

    speedup: float
    ends: tuple[float, float]


def measured_round(draft_length: int, plain: Timed, draft: Timed, verify: Timed) -> Measured:
    """Return the speedup that timed passes make; their errors are independent."""
    round_s = draft_length * draft.seconds + verify.seconds
    error = np.hypot(plain.error_s / plain.seconds, np.hypot(draft_length * draft.error_s, verify.error_s) / round_s)
    gain = plain.seconds / round_s
    apart = NORMAL_95 * float(error)
    return Measured(gain, (gain * (1 - apart), gain * (1 + apart)))


def pass_rows(
    times: PassTimes, profile: Profile, acceptance: HistogramAcceptance, fitted: Fitted, rng: np.random.Generator
) -> list[Row]:
    """Forecast every batch, context and K all of whose passes were timed; refuses acceptance that is shorter."""
    longest = max(times.draft_lengths, default=0)
    if longest > acceptance.longest:
        raise UserError(f"--hist: k = {acceptance.longest} at most, but {times.path} verifies {longest}")
    pair = pair_of(times, profile)
    drawn = pair.sample(rng, SAMPLES)
    rows = []
    for batch, context in sorted(times.settings):
        for k in times.draft_lengths:
            points = [Point(role, batch, context, n) for role, n in ((TARGET, 1), (DRAFT, 1), (TARGET, k + 1))]
            if not all(point in times.times for point in points):
                continue
            measured = measured_round(k, *(times.times[point] for point in points))
            middle, samples = (replace(costs, batch=batch, context=context).round_cost(k) for costs in (pair, drawn))
            low, high = np.quantile(speedup(samples), (0.025, 0.975))
            tau = 1 + float(acceptance.law(k) @ np.arange(k + 1))
            rows.append(
                Row(
                    target=f"{pair.target.name}, batch {batch}, context {context}",
                    draft_length=k,
                    fitted=all(fitted.has_seen(times, point) for point in points),
                    tokens_per_round=tau,
                    measured_tokens_per_round=tau,
                    forecast=tau * float(speedup(middle)),
                    forecast_ci95=(tau * float(low), tau * float(high)),
                    measured=tau * measured.speedup,
                    measured_ci95=(tau * measured.ends[0], tau * measured.ends[1]),
                )
            )
    if not rows:
        raise UserError(f"{times.path}: points: no batch and context has a plain step, a draft step and a verification")
    return rows


def pair_of(times: PassTimes, profile: Profile) -> ModelPair:
    """Return both models on a profiled device."""
    if times.dtype not in profile.passes:
        known = ", ".join(profile.passes) or "none"
        raise UserError(f"--profile {profile.name}: has {known}, expected {times.dtype} as in {times.path}")
    target, draft = times.shapes[TARGET], times.shapes[DRAFT]
    return ModelPair(profile=profile, target=target, draft=draft, dtype=times.dtype, draft_dtype=times.dtype)


def speedup(cost: RoundCost) -> Floats:
    """Return plain steps over rounds, of a token a round."""
    return np.asarray(cost.baseline_s / cost.after_miss_s)
