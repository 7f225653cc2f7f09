"""Forecasts of a decode.jsonl's rows: speedup of decoding by draft length, beside what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from acceptance.estimators import expected_rounds
from acceptance.trace import Trace
from simulator.acceptance_model import AcceptanceModel, HistogramAcceptance, IidAcceptance
from simulator.analytic import tokens_per_round_of_output
from simulator.artefacts import UserError
from simulator.cost_model import Costs
from simulator.forecast import speedups, uncertainty
from simulator.histogram import AcceptanceHistogram
from simulator.profile import Decoding

from .decode_log import DecodeLog

MEDIAN_BOUND, P90_BOUND = 0.05, 0.10
# What a trace is reduced to, the coarsest first.
ABLATIONS = ("one alpha", "per position", "histogram", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One draft length of one run: speedups of decoding, prompt left out, and tokens a round.

    fitted: whether its times went into the costs. The measured interval is over prompts, the forecast's over what is
    uncertain in costs and acceptance.
    """

    target: str
    draft_length: int
    fitted: bool
    tokens_per_round: float
    measured_tokens_per_round: float
    forecast: float
    forecast_ci95: tuple[float, float]
    measured: float
    measured_ci95: tuple[float, float] | None

    @property
    def error(self) -> float:
        """Forecast over measured, less 1."""
        return self.forecast / self.measured - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Errors of the rows that were not fitted, and what the choice of K by forecast costs in speed.

    median, p90: of absolute errors; None without such rows. best_k_loss: how much slower the forecast's best K was
    measured than the measured best, the worst of the runs.
    """

    rows: int
    median: float | None
    p90: float | None
    best_k_loss: float

    def holds(self, max_error: float | None, errors: Sequence[float]) -> bool:
        """Whether the bounds hold: the given one for each row, or else ours for median and 90th percentile."""
        if max_error is not None:
            return all(abs(e) <= max_error for e in errors)
        return self.median is None or (self.median <= MEDIAN_BOUND and (self.p90 or 0.0) <= P90_BOUND)


def own_acceptance(log: DecodeLog) -> HistogramAcceptance:
    """Return what the run itself accepted, for forecasts whose only error is that of costs."""
    return HistogramAcceptance(tuple(AcceptanceHistogram(tuple(arm.histogram.tolist())) for arm in log.arms))


def forecast_rows(
    log: DecodeLog, costs: Costs, acceptance: AcceptanceModel, fitted: Sequence[int], rng: np.random.Generator
) -> list[Row]:
    """Forecast every draft length of a run.

    Args:
        log: What was measured.
        costs: What rounds cost.
        acceptance: What rounds accept; covers every draft length of the run.
        fitted: Draft lengths whose times the costs were fitted to.
        rng: Of the intervals.
    """
    arms = sorted(log.arms, key=lambda arm: arm.draft_length)
    lengths = np.array([arm.draft_length for arm in arms], np.int64)
    middle = speedups(costs, acceptance, lengths, np.zeros(()), overlap=False)
    longest = int(lengths[-1])
    sure = uncertainty(costs, acceptance, longest, longest, rng, overlap=False)
    found = []
    for arm, gain in zip(arms, middle, strict=True):
        law = acceptance.law(arm.draft_length)
        long_run = 1 + float(law @ np.arange(len(law)))
        tau = tokens_per_round_of_output(law, log.tokens)
        cut = tau / long_run
        at = arm.draft_length - 1
        found.append(
            Row(
                target=log.target,
                draft_length=arm.draft_length,
                fitted=arm.draft_length in fitted,
                tokens_per_round=tau,
                measured_tokens_per_round=arm.tokens_per_round,
                forecast=float(gain) * cut,
                forecast_ci95=(sure.speedup_low95[at] * cut, sure.speedup_high95[at] * cut),
                measured=arm.speedup,
                measured_ci95=arm.speedup_ci95,
            )
        )
    return found


def judge(rows: Sequence[Row]) -> Verdict:
    """Return the errors of the rows that were not fitted."""
    errors = np.array([abs(r.error) for r in rows if not r.fitted])
    losses = []
    for target in dict.fromkeys(r.target for r in rows):
        own = [r for r in rows if r.target == target]
        chosen, best = max(own, key=lambda r: r.forecast), max(own, key=lambda r: r.measured)
        losses.append(1 - chosen.measured / best.measured)
    return Verdict(
        rows=len(errors),
        median=float(np.median(errors)) if len(errors) else None,
        p90=float(np.quantile(errors, 0.9)) if len(errors) else None,
        best_k_loss=max(losses),
    )


def ablation(
    trace: Trace, q_kind: str, log: DecodeLog, costs: Costs, fitted: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Return the error of each row that was not fitted, by how much of a trace the forecast may use.

    One alpha: accepted positions over all. Per position: the rates of the longest draft length, for all. Histogram: of
    each draft length. Trace: its own walk, to the last token of each output.

    Args:
        trace: What the target says of its text and the draft of that.
        q_kind: "sampled" or "greedy" draft.
        log: What was measured.
        costs: What rounds cost.
        fitted: Draft lengths whose times the costs were fitted to.
    """
    longest = max(arm.draft_length for arm in log.arms)
    alpha = IidAcceptance(float(trace.accept(q_kind).mean()))
    histograms = HistogramAcceptance(tuple(traced_histogram(trace, q_kind, arm.draft_length) for arm in log.arms))
    per_position = HistogramAcceptance((traced_histogram(trace, q_kind, longest),))
    found: dict[str, dict[int, float]] = {name: {} for name in ABLATIONS}
    for arm in log.arms:
        if arm.draft_length in fitted:
            continue
        k = arm.draft_length
        cost = costs.round_cost(k)
        per_token = float(cost.baseline_s / cost.after_miss_s)
        taus = [tokens_per_round_of_output(m.law(k), log.tokens) for m in (alpha, per_position, histograms)]
        taus.append(walked_tokens_per_round(trace, q_kind, k))
        for name, tau in zip(ABLATIONS, taus, strict=True):
            found[name][k] = tau * per_token / arm.speedup - 1
    return found


def traced_histogram(trace: Trace, q_kind: str, k: int) -> AcceptanceHistogram:
    """Return the expected histogram of one draft length."""
    return AcceptanceHistogram(tuple(expected_rounds(trace, k, q_kind).counts.sum(0).tolist()))


def walked_tokens_per_round(trace: Trace, q_kind: str, k: int) -> float:
    """Return tokens a round along a trace's own walk, cut rounds among them."""
    rounds = expected_rounds(trace, k, q_kind)
    return float(trace.size / (rounds.counts.sum() + rounds.cut.sum()))


def check_fits(log: DecodeLog, pair: Decoding, acceptance: HistogramAcceptance) -> None:
    """Refuse costs of another pair, and acceptance that does not reach as far as the run.

    Raises:
        UserError: Names what differs.
    """
    for name in ("target", "draft", "dtype", "batch"):
        mine, theirs = getattr(log, name), getattr(pair, name)
        if mine != theirs:
            raise UserError(f"--profile: {name} is {theirs}, but {mine} in {log.path}, expected one of the same pair")
    longest = max(arm.draft_length for arm in log.arms)
    if longest > acceptance.longest:
        raise UserError(f"--hist: k = {acceptance.longest} at most, but {log.path} drafts {longest}, expected as many")
