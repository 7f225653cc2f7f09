"""Fits the parameters that a published case leaves open on its fitted rows, and forecasts the others (model §2, §5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.published.cases import FITTED, PARAMETERS, TOKEN, Case, Row
from simulator.costs.step import RoundCost, step_s
from simulator.ground.artefacts import UserError

from .curve import Points, along, rising
from .load import ALPHA, Server
from .priced import priced_s
from .turning import Turn, turns_of

Floats = NDArray[np.float64]
# Below this share of the largest singular value a direction of the parameters is not decided by the rows.
LEAST_SINGULAR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A row, its forecast in the unit it was measured in, and forecast / measured - 1."""

    row: Row
    forecast: float

    @property
    def error(self) -> float:
        """forecast / measured - 1."""
        return self.forecast / self.row.measured - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What became of a case.

    parameters: fitted values by group: milliseconds, of a load what constants of the profile are multiplied by; and an
    alpha. rows: all of them, in the case's order. bound:
    what |error| of the forecast rows may be at most; None for no bound besides the case's on their middle.
    """

    case: Case
    parameters: Mapping[str, Mapping[str, float]]
    rows: tuple[RowResult, ...]
    bound: float | None

    @property
    def errors(self) -> Floats:
        """|error| of the forecast rows, shape [rows]."""
        return np.array([abs(r.error) for r in self.rows if r.row.use == "forecast"])

    @property
    def median_error(self) -> float:
        """Median of |error| over the forecast rows."""
        return float(np.median(self.errors))

    @property
    def p90_error(self) -> float:
        """90th percentile of |error| over the forecast rows."""
        return float(np.quantile(self.errors, 0.9))

    @property
    def largest_error(self) -> float:
        """Largest |error| of the forecast rows."""
        return float(self.errors.max())

    @property
    def bounds(self) -> tuple[tuple[str, float, float], ...]:
        """The bounds that there are: of what, the error and what it may be at most."""
        found = {
            "median": (self.median_error, self.case.max_median),
            "90 %": (self.p90_error, self.case.max_p90),
            "largest": (self.largest_error, self.bound),
        }
        return tuple((of, error, bound) for of, (error, bound) in found.items() if bound is not None)

    @property
    def right(self) -> float | None:
        """Of speedups that are forecast, the share of which it is said rightly whether they pay; None without one."""
        rows = [r for r in self.rows if r.row.use == "forecast" and r.row.measured_as == "speedup"]
        return float(np.mean([(r.forecast > 1) == (r.row.measured > 1) for r in rows])) if rows else None

    @property
    def is_right(self) -> bool:
        """Whether that is as often as the case wants."""
        return self.case.min_right is None or (self.right or 0.0) >= self.case.min_right

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Where speculation stops paying, of every group of rows of a load."""
        return () if self.case.load is None else turns_of(self.rows)

    @property
    def turns_hold(self) -> bool:
        """Whether that is forecast as near as the case wants."""
        return self.case.max_steps is None or all(turn.steps <= self.case.max_steps for turn in self.turns)

    @property
    def holds(self) -> bool:
        """Whether the errors of the forecast rows are within the bounds; without one it always holds."""
        return self.is_right and self.turns_hold and all(error <= bound for _, error, bound in self.bounds)


def validate_case(case: Case, max_error: float | None = None) -> CaseResult:
    """Fit each group of a case on its fitted rows, and forecast every row.

    Args:
        case: The case.
        max_error: Bound in place of the case's own.

    Raises:
        UserError: The fitted rows do not decide the parameters, or leave a row without any cost.
    """
    parameters, results = {}, {}
    for group in case.groups:
        rows = [row for row in case.rows if row.group == group]
        found, values = forecast_load(case, rows) if case.load else forecast_group(case, rows)
        rows = with_alpha(rows, found.get(ALPHA))
        parameters[group] = found
        for row, value in zip(rows, values, strict=True):
            if not (value > 0 and np.isfinite(value)):
                why = "as what it consists of is fitted to 0"
                raise UserError(f"case {case.name!r}: row {row.name!r} costs nothing, {why}")
            results[group, row.name] = RowResult(row=row, forecast=float(value))
    ordered = tuple(results[row.group, row.name] for row in case.rows)
    bound = case.max_error if max_error is None else max_error
    return CaseResult(case=case, parameters=parameters, rows=ordered, bound=bound)


def forecast_group(case: Case, rows: Sequence[Row]) -> tuple[dict[str, float], Floats]:
    """Return what the fitted rows of a group tell, and what each row should measure."""
    fits = [row for row in rows if row.use == "fit"]
    found = fit_acceptance(case, fits) if case.acceptance else fit(case, fits)
    own = told(case, fits) if case.curve == FITTED else case
    return found, forecast(own, with_alpha(rows, found.get(ALPHA)), found)


def forecast_load(case: Case, rows: Sequence[Row]) -> tuple[dict[str, float], Floats]:
    """Return the same of throughputs of a server."""
    server = Server.of(case, rows)
    found, told = server.told_by([row for row in rows if row.use == "fit"])
    return found, server.forecast(rows, told)


def round_s(case: Case, rows: Sequence[Row], fitted: Mapping[str, float]) -> Floats:
    """Return the seconds of a round of each row, shape [rows]; linear in the parameters.

    A round drafts K tokens one after another, verifies K + 1 positions of each sequence and costs the overhead
    besides, and something for each sequence; a row of draft length 0 is plain decoding. A curve over verified tokens is
    a part of either, and so is what tokens cost besides. fitted: milliseconds by parameter.
    """
    seconds = {name: np.array([value_ms(case, row, name, fitted) for row in rows]) * 1e-3 for name in PARAMETERS}
    k, per_token_s = np.array([row.drafted or 0.0 for row in rows]), seconds["verify_ms_per_token"]
    batch = np.array([row.sequences for row in rows])
    cost = RoundCost(
        draft_length=np.rint(k).astype(np.int64),
        baseline_s=seconds["baseline_ms"] + curve_s(case, batch),
        draft_step_s=seconds["draft_ms"],
        draft_s=seconds["draft_ms"] * k,
        verify_s=step_s(batch * (k + 1), 0.0, flop_scale=per_token_s, mem_scale=0.0, fixed_s=seconds["verify_ms"])
        + curve_s(case, batch * (k + 1)),
        overhead_s=seconds["overhead_ms"] + batch * seconds["sequence_ms"],
    )
    besides_s = np.array([row.tau * value_ms(case, row, TOKEN, fitted) for row in rows]) * 1e-3
    return besides_s + np.where([row.is_plain for row in rows], cost.baseline_s, cost.after_miss_s)


def curve_s(case: Case, tokens: Floats) -> Floats:
    """Return a case's curve at some verified tokens, in seconds; nothing without one, or before it is fitted."""
    points = case.curve
    return np.zeros(len(tokens)) if points is None or isinstance(points, str) else along(points, tokens) * 1e-3


def fitted_curve(case: Case, rows: Sequence[Row]) -> Points:
    """Return the curve over verified tokens that some rows tell, in milliseconds; what else they cost is known."""
    known_s = round_s(case, rows, {})
    left = np.array([measured_round_s(case, row) for row in rows]) - known_s
    tokens = [row.sequences * ((row.drafted or 0.0) + 1) for row in rows]
    return rising(zip(tokens, (float(value) * 1e3 for value in left), strict=True))


def told(case: Case, fits: Sequence[Row]) -> Case:
    """Return a case whose curve its fitted rows have told: what is left is to forecast all rows."""
    rows = tuple(replace(row, use="forecast") for row in case.rows)
    return replace(case, rows=rows, curve=fitted_curve(case, fits))


def with_alpha(rows: Sequence[Row], alpha: float | None) -> list[Row]:
    """Return the rows, an alpha in those that do not say what a round yields."""
    return [row if alpha is None or row.says_yield else replace(row, alpha=alpha) for row in rows]


def times_s(case: Case, rows: Sequence[Row], fitted: Mapping[str, float]) -> Floats:
    """Return the seconds of a round of each row, shape [rows], as the profile or the parameters say."""
    return round_s(case, rows, fitted) if case.profile is None else priced_s(case, rows)[0]


def fit_acceptance(case: Case, rows: Sequence[Row]) -> dict[str, float]:
    """Return the fitted parameters and the alpha, from 0.01 to 0.99, with which they leave least of the rows open."""
    from scipy.optimize import minimize_scalar

    def left(alpha: float) -> tuple[float, dict[str, float]]:
        own = with_alpha(rows, alpha)
        found = fit(case, own)
        measured_s = np.array([measured_round_s(case, row) for row in own])
        return float(np.sum((times_s(case, own, found) / measured_s - 1) ** 2)), found

    grid = np.linspace(0.01, 0.99, 50)
    best = int(np.argmin([left(float(alpha))[0] for alpha in grid]))
    bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
    alpha = float(minimize_scalar(lambda a: left(a)[0], bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)
    return left(alpha)[1] | {ALPHA: alpha}


def forecast(case: Case, rows: Sequence[Row], fitted: Mapping[str, float]) -> Floats:
    """Return what each row should measure, in its own unit, shape [rows]; infinite where a round costs nothing."""
    tau = np.array([row.tau for row in rows])
    if case.profile is not None:
        rounds_s, baseline_s = priced_s(case, rows)
    else:
        rounds_s = round_s(case, rows, fitted)
        baseline_s = np.array([plain_ms(case, row, fitted) for row in rows]) * 1e-3
    batch = np.array([row.sequences for row in rows])
    with np.errstate(divide="ignore", invalid="ignore"):
        units = {
            "ms_per_token": rounds_s / tau * 1e3,
            "ms_per_round": rounds_s * 1e3,
            "tokens_per_s": batch * tau / rounds_s,
            "tokens_per_s_each": tau / rounds_s,
            "speedup": tau * baseline_s / rounds_s,
        }
    return np.array([units[row.measured_as][i] for i, row in enumerate(rows)])


def measured_round_s(case: Case, row: Row) -> float:
    """Return the seconds of a round that a row's measurement stands for; a speedup by the baseline that is fixed."""
    per_token_s = {
        "ms_per_token": row.measured * 1e-3,
        "ms_per_round": row.measured * 1e-3 / row.tau,
        "tokens_per_s": row.sequences / row.measured,
        "tokens_per_s_each": 1 / row.measured,
        "speedup": plain_ms(case, row, dict.fromkeys(case.fitted, 0.0)) * 1e-3 / row.measured,
    }
    return per_token_s[row.measured_as] * row.tau


def plain_ms(case: Case, row: Row, fitted: Mapping[str, float]) -> float:
    """Return what a token of plain decoding takes, all in all."""
    known_ms = value_ms(case, row, "baseline_ms", fitted) + value_ms(case, row, TOKEN, fitted)
    return known_ms + float(curve_s(case, np.array([float(row.sequences)]))[0]) * 1e3


def value_ms(case: Case, row: Row, name: str, fitted: Mapping[str, float]) -> float:
    """Return a parameter for a row: fitted, fixed, equal to another one, or 0."""
    if name in fitted:
        return fitted[name]
    known = case.known(row).get(name, 0.0)
    return value_ms(case, row, known, fitted) if isinstance(known, str) else known


def fit(case: Case, rows: Sequence[Row]) -> dict[str, float]:
    """Return the fitted parameters in milliseconds: least squares of relative errors in time, none below 0.

    In time and not in speed, as a round's time is a sum of the parameters: the minimum is one and exact.
    """
    from scipy.optimize import nnls

    if not case.fitted:
        return {}
    measured_s = np.array([measured_round_s(case, row) for row in rows])
    none = dict.fromkeys(case.fitted, 0.0)
    known_s = round_s(case, rows, none)
    shares = [(round_s(case, rows, none | {name: 1.0}) - known_s) / measured_s for name in case.fitted]
    slopes = np.stack(shares, axis=1)
    check_decided(case, slopes)
    sizes = np.linalg.norm(slopes, axis=0)
    scaled, _ = nnls(slopes / sizes, 1 - known_s / measured_s)
    return {name: float(value) for name, value in zip(case.fitted, scaled / sizes, strict=True)}


def check_decided(case: Case, slopes: Floats) -> None:
    """Refuse parameters that the rows do not tell apart; slopes: of relative times, [rows, parameters]."""
    sizes = np.linalg.norm(slopes, axis=0)
    for name, size in zip(case.fitted, sizes, strict=True):
        if size == 0:
            raise UserError(f"case {case.name!r}: {name} is fitted, but no row with use 'fit' depends on it")
    _, singular, directions = np.linalg.svd(slopes / sizes)
    if singular[-1] < LEAST_SINGULAR * singular[0]:
        mixed = [name for name, part in zip(case.fitted, directions[-1], strict=True) if abs(part) > 0.1]
        raise UserError(
            f"case {case.name!r}: the rows with use 'fit' do not tell {' and '.join(mixed)} apart, "
            "expected rows in which their shares differ, or one of them fixed"
        )
