"""Costs of a pair straight from real decoding: a plain step, a drafted token, verification by its tokens, overhead.

Verification is fitted with the one cost function, in units of the pair's own: a token a sequence for FLOP, a pass for
bytes. A round's draft is a line in K; what it costs at K = 0 counts as overhead of the round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.sources.decode import ArmTimes, DecodeLog
from calibration.sources.probe import Observations
from simulator.costs.engine import MOST_ERROR
from simulator.costs.profile import MEASURED, Curve, Decoding, PassCost, Profile
from simulator.ground.artefacts import UserError

from .diagnostics import CheckedFit, Diagnosis
from .fit import Fit, Form, fit
from .lengths import check_timed

# What reports call the fit of a pair.
PAIR = "verification"
LEAST_LENGTHS = 2
LARGEST_RESIDUAL = 0.15
# Standard errors of its time by which a pass misses any smooth cost before that counts as a step.
STEP_ERRORS = 3.0
STEPS = "Verification takes longer with its tokens by steps: each length counts as it was timed."
# Of the logarithm of a token's cost: how far a step may move it, and in how many places it is looked for.
STEEPEST, STEPS_TRIED = 5.0, 4001


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLine:
    """Seconds of a round's draft: start_s + K x step_s. Errors are standard errors, step_error relative.

    covariance: of step and start, in s^2.
    """

    step_s: float
    step_error: float
    start_s: float
    start_error_s: float
    covariance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFit:
    """What a log gave: verification's fit, the draft's line, and what a round costs besides."""

    verify: Fit
    draft: DraftLine
    overhead_s: float
    overhead_error_s: float
    draft_lengths: tuple[int, ...]


def fit_pair(log: DecodeLog, lengths: Sequence[int] | None = None) -> PairFit:
    """Fit the costs of a pair to two draft lengths or more of a run, None: all; refuses one that was not run."""
    there = {arm.draft_length: arm for arm in log.arms}
    wanted = sorted(there if lengths is None else set(lengths))
    check_timed(wanted, list(there), log.path)
    if len(wanted) < LEAST_LENGTHS:
        raise UserError(f"{log.path}: {len(wanted)} draft length to fit, expected at least {LEAST_LENGTHS}")
    arms = [there[length] for length in wanted]
    line = draft_line(arms)
    rest = np.array([arm.rest.seconds for arm in arms])
    return PairFit(
        verify=fit(verifications(log, arms), Form(launch=False)),
        draft=line,
        overhead_s=float(rest.mean()) + line.start_s,
        overhead_error_s=float(np.hypot(rest.std(ddof=1) / np.sqrt(len(rest)), line.start_error_s)),
        draft_lengths=tuple(wanted),
    )


def check_pair(pair: PairFit) -> CheckedFit:
    """Check the fit of a pair: rounds within the lengths that were timed hang on its residuals, not its parameters."""
    residuals = np.abs(pair.verify.residuals)
    reasons = []
    if not pair.verify.converged:
        reasons.append(f"the solver did not converge ({pair.verify.message})")
    for name, residual in zip(pair.verify.observations.labels, residuals, strict=True):
        if residual > LARGEST_RESIDUAL and not has_steps(pair):
            reasons.append(f"{name} is {residual:.1%} off its fit, expected at most {LARGEST_RESIDUAL:.0%}")
    if pair.draft.step_s == 0:
        reasons.append("a draft of more tokens takes no longer, expected each to take some time")
    errors = {"the time of a pass": pass_error(pair)}
    if pair.draft.step_s > 0:
        errors["a drafted token's time"] = pair.draft.step_error
    for name, error in errors.items():
        if not error <= LARGEST_RESIDUAL:
            reasons.append(f"{name} is known to {error:.1%}, expected at most {LARGEST_RESIDUAL:.0%}")
    diagnosis = Diagnosis(
        reasons=tuple(reasons),
        fitted_points=len(residuals),
        held_out_points=0,
        fitted_median=float(np.median(residuals)),
        held_out_median=None,
        held_out_largest=None,
    )
    return CheckedFit(fit=pair.verify, diagnosis=diagnosis)


def verifications(log: DecodeLog, arms: Sequence[ArmTimes]) -> Observations:
    """Return verification passes, and the target's pass of a plain step as one over one token."""
    tokens = np.array([1.0, *(arm.drafted + 1 for arm in arms)])
    times = [log.plain_pass, *(arm.verify for arm in arms)]
    ones = np.ones(len(tokens))
    return Observations(
        labels=("a plain pass", *(f"verification at K = {arm.draft_length}" for arm in arms)),
        passes=ones,
        flops=tokens,
        bytes=ones,
        tokens=tokens,
        launches=ones,
        seconds=np.array([t.seconds for t in times]),
        error_s=np.array([max(t.error_s, 1e-3 * t.seconds) for t in times]),
        held_out=np.zeros(len(tokens), np.bool_),
    )


def has_steps(pair: PairFit) -> bool:
    """Whether verification takes longer with its tokens by steps: kernels compute widths of their own.

    That is seen where all lengths up to the longest were timed, and one is off any smooth cost by more than its noise.
    """
    seen, lengths = pair.verify.observations, pair.draft_lengths
    noise = seen.error_s / seen.seconds
    in_order = np.argsort(seen.tokens)
    falls = -np.diff(np.log(seen.seconds[in_order]))
    return (
        lengths == tuple(range(1, len(lengths) + 1))
        and bool((np.abs(pair.verify.residuals) > STEP_ERRORS * noise).any())
        and bool((falls <= STEP_ERRORS * noise.max()).all() and (np.diff(seen.tokens[in_order]) > 0).all())
    )


def with_steps(pair: PairFit) -> PassCost:
    """Return the cost of verification, each length as it was timed where there are steps."""
    smooth, seen = pair.verify.cost, pair.verify.observations
    if not has_steps(pair):
        return smooth
    logs = np.log(np.float64(smooth.flop_scale.seconds[0])) + np.linspace(-STEEPEST, STEEPEST, STEPS_TRIED)
    tried = replace(smooth, flop_scale=Curve(np.ones(1), np.exp(logs)[:, None]))
    grown = np.log(tried.pass_s(seen.tokens, 1, seen.tokens, 0))
    scales = np.array([np.interp(np.log(t), grown[:, i], logs) for i, t in enumerate(seen.seconds)])
    in_order = np.argsort(seen.tokens)
    return replace(smooth, flop_scale=Curve(seen.tokens[in_order], np.exp(scales[in_order])))


def with_one_error(pair: PairFit) -> PassCost:
    """Return the cost of verification whose passes are all off by one factor, by what the least known of them is.

    A handful of lengths leaves its parameters open one by one, though not what a pass takes between the shortest and
    the longest that was timed; beyond them nothing is known.
    """
    error, cost = pass_error(pair), with_steps(pair)
    knots = (*(f"flop_scale[{i}]" for i in range(len(cost.flop_scale.sizes))), "mem_scale[0]")
    return replace(cost, uncertain=knots, covariance=np.full((len(knots),) * 2, error**2))


def pass_error(pair: PairFit) -> float:
    """Return the largest standard error, relative, of a pass over as many tokens as were timed, or fewer.

    Never less than the noise of the times and what the fit leaves of them, but where each is as it was timed.
    """
    verify = pair.verify
    seen = verify.observations
    noise = seen.error_s / seen.seconds
    if has_steps(pair):
        return float(noise.max())
    tokens = np.arange(1, int(np.ceil(seen.tokens.max())) + 1)
    error = verify.cost.pass_errors(tokens, 1, tokens, 0).max()
    left = float(np.sqrt(np.mean(verify.residuals**2)))
    return float(np.hypot(error, max(left, float(np.median(noise)))))


def draft_line(arms: Sequence[ArmTimes]) -> DraftLine:
    """Fit seconds of a round's draft against its tokens, by least squares; neither part is below 0."""
    from scipy.optimize import nnls

    drafted = np.array([arm.drafted for arm in arms])
    seconds = np.array([arm.draft.seconds for arm in arms])
    error = np.maximum([arm.draft.error_s for arm in arms], 1e-3 * seconds)
    design = np.stack([drafted, np.ones(len(arms))], 1) / error[:, None]
    parts, _ = nnls(design, seconds / error)
    # A part that ended at 0 is certain, and the other known as if it were alone.
    free = np.flatnonzero(parts)
    covariance = np.zeros((2, 2))
    covariance[np.ix_(free, free)] = np.linalg.inv(design[:, free].T @ design[:, free])
    left = seconds / error - design @ parts
    misfit = max(1.0, float(left @ left) / max(1, len(arms) - 2))
    step_s, start_s = parts.tolist()
    covariance *= misfit
    step_error_s, start_error_s = np.sqrt(np.diag(covariance)).tolist()
    return DraftLine(
        step_s=step_s,
        step_error=step_error_s / step_s if step_s else np.inf,
        start_s=start_s,
        start_error_s=start_error_s,
        covariance=float(covariance[0, 1]),
    )


def pair_profile(name: str, log: DecodeLog, pair: PairFit) -> Profile:
    """Return the profile of a pair that was timed."""
    line, both = pair.draft, pair.draft.step_error * pair.draft.step_s * pair.overhead_error_s
    return Profile(
        name=name,
        device=log.device,
        status=MEASURED,
        passes={},
        decoding=Decoding(
            target=log.target,
            draft=log.draft,
            dtype=log.dtype,
            batch=log.batch,
            baseline_s=log.baseline.seconds,
            baseline_error=log.baseline.error_s / log.baseline.seconds,
            draft_step_s=pair.draft.step_s,
            draft_step_error=pair.draft.step_error,
            verify=with_one_error(pair),
            draft_lengths=pair.draft_lengths,
            # The overhead holds the start of the draft's line.
            draft_overhead_correlation=float(np.clip(line.covariance / both, -1, 1)) if both > 0 else 0.0,
            source_sha256=log.sha256,
        ),
        round_overhead_s=pair.overhead_s,
        # Of next to no time, any error is large.
        round_overhead_error=min(MOST_ERROR, pair.overhead_error_s / pair.overhead_s) if pair.overhead_s else 0.0,
        notes=(
            f"Costs of {log.draft} drafting for {log.target} in {log.dtype}, batch {log.batch}, and of no other pair.",
            *([STEPS] if has_steps(pair) else []),
        ),
    )
