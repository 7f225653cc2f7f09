"""Forecasts of a decode.jsonl's rows: speedup of decoding by draft length, beside what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from acceptance.estimate.estimators import expected_rounds
from acceptance.trace.trace import Trace
from calibration.sources.decode import DecodeLog, load_decode
from simulator.answers.uncertainty import SAMPLES
from simulator.costs.profile import Decoding, Profile
from simulator.costs.profile_file import load_profile
from simulator.costs.step import Costs
from simulator.costs.timed_pair import DecodedPair
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram, load_histograms
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance

from .rows import Bounds, Row, Validation
from .walk import walk

BOUNDS = Bounds(median=0.05, p90=0.10, best_k_loss=0.02)
# What a trace is reduced to, the coarsest first.
ABLATIONS = ("one alpha", "per position", "histogram", "trace")


def validate_decode(decode: Path, profile: str | Path, histograms: Path | None = None) -> Validation:
    """Hold the forecasts of a profile's pair against a run of it.

    Args:
        decode: Results of bench-decode.
        profile: Name or file; has a pair that decoded.
        histograms: A file or folder of what rounds accept; None: what the run itself accepted.

    Raises:
        UserError: A file is of another kind, the profile of another pair, or the acceptance does not reach as far.
    """
    log, device = load_decode(decode), load_profile(profile)
    costs = pair_costs(device)
    acceptance = own_acceptance(log) if histograms is None else HistogramAcceptance(load_histograms(histograms))
    check_fits(log, costs.decoding, acceptance)
    fitted = costs.decoding.draft_lengths if costs.decoding.source_sha256 == log.sha256 else ()
    rows = forecast_rows(log, costs, acceptance, fitted, stream(0, 0, "validate"))
    remarks = tuple(remarks_of(log, device, is_own_acceptance=histograms is None))
    return Validation(rows=tuple(rows), bounds=BOUNDS, remarks=remarks)


def remarks_of(log: DecodeLog, profile: Profile, *, is_own_acceptance: bool) -> Iterator[str]:
    """Say what the errors of a check are of; is_own_acceptance: whether the acceptance is the run's own."""
    if is_own_acceptance:
        yield "acceptance is the run's own: the errors are of costs alone (--hist FILE for acceptance measured apart)"
    if profile.decoding is not None and profile.decoding.source_sha256 != log.sha256:
        yield "the profile was fitted to another file: no row counts as fitted"
    if log.device != profile.device:
        yield f"the profile is of {profile.device}, the run of {log.device}"


def pair_costs(profile: Profile) -> DecodedPair:
    """Return the costs of a profile's pair; a UserError says that it has none."""
    if profile.decoding is None:
        raise UserError(f"--profile {profile.name}: has no decoding pair, expected one of calibrate --from-decode")
    return DecodedPair(
        decoding=profile.decoding,
        round_overhead_s=profile.round_overhead_s,
        round_overhead_error=profile.round_overhead_error,
    )


def own_acceptance(log: DecodeLog) -> HistogramAcceptance:
    """Return what the run itself accepted, for forecasts whose only error is that of costs."""
    for arm in log.arms:
        if not arm.histogram.any():
            raise UserError(f"{log.path}: {arm.name} has no whole round of {arm.draft_length} drafts, expected --hist")
    return HistogramAcceptance(tuple(AcceptanceHistogram(tuple(arm.histogram.tolist())) for arm in log.arms))


def forecast_rows(
    log: DecodeLog,
    costs: Costs,
    acceptance: AcceptanceModel,
    fitted: Sequence[int],
    rng: np.random.Generator,
    walked: Mapping[int, float] | None = None,
) -> list[Row]:
    """Forecast every draft length of a run; the acceptance covers all of them.

    fitted: draft lengths whose times the costs were fitted to. walked: tokens a round of a trace, by draft length, with
    the rounds that the end of an output cut; None: those of the acceptance.
    """
    arms = sorted(log.arms, key=lambda arm: arm.draft_length)
    lengths = np.array([arm.draft_length for arm in arms])
    drawn, means = costs.sample(rng, SAMPLES), acceptance.sample_tokens_per_round(lengths, rng, SAMPLES)
    rows = []
    for arm, mean in zip(arms, means.T, strict=True):
        law = acceptance.law(arm.draft_length)
        expected = walk(law, log.lengths, log.tokens, log.batch)
        moved = mean / (1 + float(law @ np.arange(len(law))))
        tau = expected.tokens_per_round if walked is None else walked[arm.draft_length]
        traced = tau / expected.tokens_per_round
        low, high = np.quantile(expected.speedup(drawn) * moved * traced, (0.025, 0.975))
        rows.append(
            Row(
                target=log.target,
                draft_length=arm.draft_length,
                fitted=arm.draft_length in fitted,
                tokens_per_round=tau,
                measured_tokens_per_round=arm.tokens_per_round,
                forecast=float(expected.speedup(costs)) * traced,
                forecast_ci95=(float(low), float(high)),
                measured=arm.speedup,
                measured_ci95=arm.speedup_ci95,
            )
        )
    return rows


def ablation(
    trace: Trace, q_kind: str, log: DecodeLog, costs: Costs, fitted: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Return the error of each row that was not fitted, by how much of a trace the forecast may use.

    One alpha: accepted positions over all. Per position: the rates of the longest draft length, for all. Histogram: of
    each draft length. Trace: its own walk, to the last token of each output. q_kind: "sampled" or "greedy" draft.
    """
    longest = max(arm.draft_length for arm in log.arms)
    alpha = IidAcceptance(float(trace.accept(q_kind).mean()))
    histograms = HistogramAcceptance(tuple(traced_histogram(trace, q_kind, arm.draft_length) for arm in log.arms))
    per_position = HistogramAcceptance((traced_histogram(trace, q_kind, longest),))
    errors: dict[str, dict[int, float]] = {name: {} for name in ABLATIONS}
    for arm in log.arms:
        k = arm.draft_length
        if k in fitted:
            continue
        walks = [walk(model.law(k), log.lengths, log.tokens, log.batch) for model in (alpha, per_position, histograms)]
        gains = [float(expected.speedup(costs)) for expected in walks]
        # The same rounds by drafted tokens, but as many as the trace's own.
        gains.append(gains[-1] * walked_tokens_per_round(trace, q_kind, k) / walks[-1].tokens_per_round)
        for name, gain in zip(ABLATIONS, gains, strict=True):
            errors[name][k] = gain / arm.speedup - 1
    return errors


def traced_histogram(trace: Trace, q_kind: str, k: int) -> AcceptanceHistogram:
    """Return the expected histogram of one draft length."""
    return AcceptanceHistogram(tuple(expected_rounds(trace, k, q_kind).counts.sum(0).tolist()))


def walked_tokens_per_round(trace: Trace, q_kind: str, k: int) -> float:
    """Return tokens a round along a trace's own walk, cut rounds among them."""
    rounds = expected_rounds(trace, k, q_kind)
    return float(trace.size / (rounds.counts.sum() + rounds.cut.sum()))


def check_fits(log: DecodeLog, pair: Decoding, acceptance: HistogramAcceptance) -> None:
    """Refuse costs of another pair, and acceptance that does not reach as far as the run; names what differs."""
    for name in ("target", "draft", "dtype", "batch"):
        ran, fitted = getattr(log, name), getattr(pair, name)
        if ran != fitted:
            raise UserError(f"--profile: {name} is {fitted}, but {ran} in {log.path}, expected one of the same pair")
    longest = max(arm.draft_length for arm in log.arms)
    if longest > acceptance.longest:
        raise UserError(f"--hist: k = {acceptance.longest} at most, but {log.path} drafts {longest}, expected as many")
