"""Forecasts of a decode.jsonl's rows: speedup of decoding by draft length, beside what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from acceptance.estimate.estimators import expected_rounds
from acceptance.trace.trace import Trace
from calibration.sources.decode_log import DecodeLog
from simulator.answers.forecast import SAMPLES
from simulator.costs.profile import Decoding
from simulator.costs.step import Costs, Floats
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, IidAcceptance

MEDIAN_BOUND, P90_BOUND, BEST_K_BOUND = 0.05, 0.10, 0.02
# Probability that an output has not ended.
NEGLIGIBLE = 1e-12
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

    median, p90, largest: of absolute errors; None without such rows. best_k_loss: how much slower the forecast's best
    K was measured than the measured best, the worst of the runs.
    """

    rows: int
    median: float | None
    p90: float | None
    largest: float | None
    best_k_loss: float

    def holds(self, max_error: float | None) -> bool:
        """Whether the bounds hold: the given one for each row, or else ours for median, 90th percentile and best K.

        Where nothing was forecast, nothing holds.
        """
        if self.median is None or self.p90 is None or self.largest is None:
            return False
        if max_error is not None:
            return self.largest <= max_error
        return self.median <= MEDIAN_BOUND and self.p90 <= P90_BOUND and self.best_k_loss <= BEST_K_BOUND


def own_acceptance(log: DecodeLog) -> HistogramAcceptance:
    """Return what the run itself accepted, for forecasts whose only error is that of costs.

    Raises:
        UserError: No round of a draft length was whole.
    """
    for arm in log.arms:
        if not arm.histogram.any():
            raise UserError(f"{log.path}: {arm.name} has no whole round of {arm.draft_length} drafts, expected --hist")
    return HistogramAcceptance(tuple(AcceptanceHistogram(tuple(arm.histogram.tolist())) for arm in log.arms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What it takes to decode some outputs, expected.

    tokens: of all. rounds: by drafted tokens, [k + 1], of one sequence. stretch: steps of a batch, which goes on until
    its last row ends, over those of a row.
    """

    tokens: float
    rounds: Floats
    stretch: float

    @property
    def tokens_per_round(self) -> float:
        """Cut rounds among them."""
        return self.tokens / float(self.rounds.sum())

    def speedup(self, costs: Costs) -> Floats:
        """Return the time of plain decoding over that of these rounds, [*samples]."""
        cost = costs.round_cost(np.arange(len(self.rounds)))
        return np.asarray(self.tokens * cost.baseline_s[..., 0] / (cost.after_miss_s @ self.rounds * self.stretch))


def walk(law: Floats, lengths: Sequence[int], budget: int, batch: int) -> Walk:
    """Return the walk through outputs: the law of what is left of them, round after round.

    Args:
        law: P(A = a) of a whole round, [k + 1]; rounds are independent.
        lengths: Tokens of each output.
        budget: Tokens that each was allowed; a round drafts at most what is left of it less one.
        batch: Rows that are decoded together, here of one length.
    """
    each, counts = np.unique(lengths, return_counts=True)
    longest = int(each[-1])
    left, steps = (np.arange(longest + 1) == each[:, None]).astype(np.float64), np.zeros(len(each))
    visits = np.zeros(left.shape)
    while left[:, 1:].sum() > NEGLIGIBLE:
        visits += left
        steps += 1 - left[:, 0] ** batch
        left = after_a_round(left, law)
    drafted = np.minimum(len(law) - 1, budget - each[:, None] + np.arange(longest + 1) - 1)
    own = counts[:, None] * visits
    counted = np.bincount(drafted[:, 1:].ravel().clip(0), weights=own[:, 1:].ravel(), minlength=len(law))
    rounds = np.asarray(counted, np.float64)
    return Walk(tokens=float(counts @ each), rounds=rounds, stretch=float(counts @ steps / rounds.sum()))


def after_a_round(left: Floats, law: Floats) -> Floats:
    """Return the law of what is left after one more round, [..., tokens + 1]; an output that has ended stays so."""
    longest = left.shape[-1] - 1
    after = np.zeros(left.shape)
    after[:, 0] = left[:, 0]
    for a, share in enumerate(law[:longest]):
        after[:, : longest - a] += share * left[:, a + 1 :]
    for a, share in enumerate(law):
        # What accepts more than is left ends the output as well.
        after[:, 0] += share * left[:, 1 : a + 1].sum(1)
    return after


def forecast_rows(
    log: DecodeLog,
    costs: Costs,
    acceptance: AcceptanceModel,
    fitted: Sequence[int],
    rng: np.random.Generator,
    walked: Mapping[int, float] | None = None,
) -> list[Row]:
    """Forecast every draft length of a run.

    Args:
        log: What was measured.
        costs: What rounds cost.
        acceptance: What rounds accept; covers every draft length of the run.
        fitted: Draft lengths whose times the costs were fitted to.
        rng: Of the intervals.
        walked: Tokens a round by draft length where a trace tells them, to the last token of each output; histograms
            leave out rounds that the end of an output cut.
    """
    arms = sorted(log.arms, key=lambda arm: arm.draft_length)
    lengths = np.array([arm.draft_length for arm in arms])
    drawn, means = costs.sample(rng, SAMPLES), acceptance.sample_tokens_per_round(lengths, rng, SAMPLES)
    found = []
    for arm, mean in zip(arms, means.T, strict=True):
        k = arm.draft_length
        law = acceptance.law(k)
        own = walk(law, log.lengths, log.tokens, log.batch)
        moved = mean / (1 + float(law @ np.arange(k + 1)))
        tau = own.tokens_per_round if walked is None else walked[k]
        traced = tau / own.tokens_per_round
        low, high = np.quantile(own.speedup(drawn) * moved * traced, (0.025, 0.975))
        found.append(
            Row(
                target=log.target,
                draft_length=k,
                fitted=k in fitted,
                tokens_per_round=tau,
                measured_tokens_per_round=arm.tokens_per_round,
                forecast=float(own.speedup(costs)) * traced,
                forecast_ci95=(float(low), float(high)),
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
        largest=float(errors.max()) if len(errors) else None,
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
        k = arm.draft_length
        if k in fitted:
            continue
        walks = [walk(model.law(k), log.lengths, log.tokens, log.batch) for model in (alpha, per_position, histograms)]
        gains = [float(own.speedup(costs)) for own in walks]
        # The same rounds by drafted tokens, but as many as the trace's own.
        gains.append(gains[-1] * walked_tokens_per_round(trace, q_kind, k) / walks[-1].tokens_per_round)
        for name, gain in zip(ABLATIONS, gains, strict=True):
            found[name][k] = gain / arm.speedup - 1
    return found


def traced_histogram(trace: Trace, q_kind: str, k: int) -> AcceptanceHistogram:
    """Return the expected histogram of one draft length."""
    return AcceptanceHistogram(tuple(expected_rounds(trace, k, q_kind).counts.sum(0).tolist()))


def walked_tokens_per_round(trace: Trace, q_kind: str, k: int) -> float:
    """Return tokens a round along a trace's own walk, cut rounds among them."""
    rounds = expected_rounds(trace, k, q_kind)
    return float(trace.size / (rounds.counts.sum() + rounds.cut.sum()))


def fitted_lengths(log: DecodeLog, pair: Decoding) -> tuple[int, ...]:
    """Return the draft lengths of a run whose times went into a pair's costs: none of another run."""
    return pair.draft_lengths if pair.source_sha256 == log.sha256 else ()


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
