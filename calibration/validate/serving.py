"""Forecasts of served loads held against the rows that were measured: errors by batch, lengths and devices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.fit.far_rows import Held, far_in_words, far_json, far_rows
from calibration.fit.loads import Loads
from calibration.fit.row_words import notes_of, row_warnings
from calibration.fit.serving_report import Errors, errors_json, errors_of
from simulator.costs.beyond import Beyond, beyond_rows, error_beyond
from simulator.costs.moved import moved
from simulator.costs.profile import Profile
from simulator.costs.sampled import drawn_profile
from simulator.costs.step import Floats
from simulator.ground.artefacts import envelope
from simulator.ground.command import table
from simulator.ground.pictures import MARKERS, PALETTE, log_axis, new_figure, set_title
from simulator.serving.steady import Steady

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND = "serving_validation"
# 1: first version.
SCHEMA_VERSION = 1
# Ranges of clients and lengths are of this factor.
RANGE = 4
# Draws of a profile that was fitted to no rows, least and most; rows that are priced for them.
DRAWS, MOST_PRICED = (50, 400), 60_000
# Of a row, what results repeat.
STATED = ("path", "line", "concurrency", "isl", "osl", "tp", "dp", "draft_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingValidation:
    """Rows and their forecasts.

    tpot, ttft: relative errors, NaN where there is none. factors: what forecasts are multiplied and divided by to hold
    95 % of rows, by kind.
    """

    loads: Loads
    profile: Profile
    found: Steady
    tpot: Floats
    ttft: Floats
    factors: Mapping[str, Floats]

    @property
    def held(self) -> Held:
        """Rows held against their forecasts."""
        return Held(self.loads, self.profile, np.log1p([self.tpot, self.ttft]), "forecast")

    @property
    def inside(self) -> dict[str, NDArray[np.bool_]]:
        """Whether rows lie within 95 % intervals, by kind."""
        both = {"tpot": self.tpot, "ttft": self.ttft}
        return {name: np.abs(np.log1p(both[name])) <= np.log(factor) for name, factor in self.factors.items()}

    @property
    def coverage(self) -> dict[str, float | None]:
        """Shares of rows within their intervals; None where there is none."""
        inside, shown = self.inside, {"tpot": np.isfinite(self.tpot), "ttft": np.isfinite(self.ttft)}
        return {n: float(np.mean(inside[n][at])) if n in inside and at.any() else None for n, at in shown.items()}

    def groups(self) -> Iterator[tuple[str, str, Errors, Errors]]:
        """Yield what rows are grouped by, their range, and the errors of each."""
        for name in ("concurrency", "isl", "osl", "devices"):
            values = [p.devices for p in self.loads.placings] if name == "devices" else self.loads.column(name)
            labels = np.array([range_of(float(v), exact=name == "devices") for v in values])
            for label in sorted(set(labels), key=lambda text: float(text.partition(" ")[0])):
                at = labels == label
                yield name, label, errors_of(self.tpot[at]), errors_of(self.ttft[at])


def range_of(value: float, *, exact: bool) -> str:
    """Return the range that a number lies in, in words."""
    if exact:
        return f"{value:g}"
    low = RANGE ** int(np.floor(np.log(max(value, 1.0) * (1 + 1e-12)) / np.log(RANGE)))
    return f"{low} to {RANGE * low - 1}"


def log_errors(loads: Loads, profile: Profile) -> dict[str, Floats]:
    """Return standard errors of the logarithms of rows' times: of constants by their draws, and of rows besides.

    Of a profile that was timed, and not fitted to rows, nobody knows what these are off by besides.
    """
    fit, here = profile.fitted, loads.priced(profile)
    drawn = moved(profile, fit.factors(fit.draws)) if fit else drawn_sheet(profile, len(loads))
    beyond, there, found = error_beyond(beyond_of(loads, profile)), loads.priced(drawn), {}
    for kind, besides in zip(("tpot", "ttft"), profile.served_errors or (0.0, 0.0), strict=True):
        if besides is not None:
            off = np.log(getattr(there, f"{kind}_s") / getattr(here, f"{kind}_s"))
            found[kind] = np.sqrt(np.mean(off**2, 0) + besides**2 + beyond**2)
    return found


def drawn_sheet(profile: Profile, rows: int) -> Profile:
    """Draw a profile that was fitted to no rows, as `simulate` does for its intervals."""
    samples = int(np.clip(MOST_PRICED / rows, *DRAWS))
    drawn, overhead = drawn_profile(profile, np.random.default_rng(0), samples, profile.round_overhead_error)
    return replace(drawn, round_overhead_s=profile.round_overhead_s * overhead)


def beyond_of(loads: Loads, profile: Profile) -> Iterator[Beyond]:
    """Yield what of rows lies beyond those that a profile was fitted to."""
    return beyond_rows(profile, loads.shape.name, loads.formats, loads.engine, loads.loaded())


def validate_serving(loads: Loads, profile: Profile) -> ServingValidation:
    """Forecast rows."""
    from scipy.stats import t

    found = loads.priced(profile)
    most = t.ppf(0.975, profile.fitted.degrees if profile.fitted else np.inf)
    return ServingValidation(
        loads=loads,
        profile=profile,
        found=found,
        tpot=found.tpot_s / loads.column("tpot_s") - 1,
        ttft=found.ttft_s / loads.column("ttft_s") - 1,
        factors={name: np.exp(most * errors) for name, errors in log_errors(loads, profile).items()},
    )


def serving_json(validation: ServingValidation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors, by groups and of every row."""
    loads, found, coverage = validation.loads, validation.found, validation.coverage
    both = {"tpot": validation.tpot, "ttft": validation.ttft}
    rows = [
        {
            **{name: getattr(row, name) for name in STATED},
            "tpot_ms": 1e3 * row.tpot_s,
            "tpot_forecast_ms": shown(1e3 * float(found.tpot_s[i])),
            "tpot_ms_ci95": ends_ms(validation, "tpot", i),
            "tpot_error": shown(float(validation.tpot[i])),
            "ttft_ms": row.ttft_s and 1e3 * row.ttft_s,
            "ttft_forecast_ms": shown(1e3 * float(found.ttft_s[i])),
            "ttft_ms_ci95": ends_ms(validation, "ttft", i),
            "ttft_error": shown(float(validation.ttft[i])),
        }
        for i, row in enumerate(loads.rows)
    ]
    groups = [
        {"by": name, "range": label, "tpot": errors_json(tpot), "ttft": errors_json(ttft)}
        for name, label, tpot, ttft in validation.groups()
    ]
    return envelope(KIND, SCHEMA_VERSION, parameters) | {
        "headline": headline(validation),
        "model": loads.shape.name,
        "engine": loads.engine,
        "profile": validation.profile.name,
        "status": validation.profile.status,
        **{name: errors_json(errors_of(off)) | {"coverage": coverage[name]} for name, off in both.items()},
        "groups": groups,
        "left_out": dict(loads.left_out),
        "assumed": list(loads.assumed),
        "rows_read": loads.read,
        "warnings": list(warnings_of(validation)),
        "far_rows": far_json(far_rows(validation.held)),
        "unfit_rows": int(np.isnan(found.tpot_s).sum()),
        "rows": rows,
    }


def warnings_of(validation: ServingValidation) -> Iterator[str]:
    """Yield what to know before the numbers: of the rows, and of what lies beyond those of a fit."""
    yield from row_warnings(validation.loads, validation.profile)
    yield from (beyond.said for beyond in beyond_of(validation.loads, validation.profile))
    yield from far_in_words(far_rows(validation.held), "look at them before the errors")


def ends_ms(validation: ServingValidation, kind: str, at: int) -> tuple[float, float] | None:
    """Return the interval of a row's forecast, None where there is none."""
    middle_ms = 1e3 * float(getattr(validation.found, f"{kind}_s")[at])
    if kind not in validation.factors or not np.isfinite(middle_ms):
        return None
    factor = float(validation.factors[kind][at])
    return middle_ms / factor, middle_ms * factor


def shown(value: float) -> float | None:
    """Return a number, None for one that is none."""
    return value if np.isfinite(value) else None


def serving_text(validation: ServingValidation) -> str:
    """Return the errors in a table."""
    heads = ("rows", "", "count", "TPOT median", "mean", "signed", "TTFT median", "mean", "signed")
    rows: list[tuple[str, ...]] = [heads]
    whole = ("all", "", errors_of(validation.tpot), errors_of(validation.ttft))
    for name, label, tpot, ttft in (whole, *validation.groups()):
        parts = [p for of in (tpot, ttft) for p in (of.median_error, of.mean_error, of.signed_median)]
        signs = ("", "", "+") * 2
        cells = ["" if p is None else f"{p:{sign}.1%}" for p, sign in zip(parts, signs, strict=True)]
        rows.append((name, label, str(tpot.rows), *cells))
    loads, notes = validation.loads, []
    told = {"the time a token": validation.coverage["tpot"], "the first": validation.coverage["ttft"]}
    inside = [f"{share:.0%} of {what}" for what, share in told.items() if share is not None]
    if inside:
        notes.append(f"Within 95 % intervals lie {', '.join(inside)}.")
    notes += notes_of(loads)
    head = [*(f"warning: {warning}" for warning in warnings_of(validation)), headline(validation)]
    return "\n\n".join(filter(None, ("\n".join(head), table(rows, (0, 1)), "\n".join(notes))))


def headline(validation: ServingValidation) -> str:
    """Say what was forecast, and how well."""
    loads, errors = validation.loads, errors_of(validation.tpot)
    who = f"{loads.engine} serving {loads.shape.name}" if loads.engine else loads.shape.name
    median = "nothing to compare" if errors.median_error is None else f"median error {errors.median_error:.1%}"
    where = f"{validation.profile.name} ({validation.profile.status})"
    return f"{who} on {where}: time a token of {errors.rows} rows, {median}."


def serving_figure(validation: ServingValidation, *, failed: bool) -> "Figure":
    """Return forecast against measured times, a token and to the first, coloured by devices."""
    with new_figure(9.0, 4.6, parse_math=False) as figure:
        one, other = figure.subplots(1, 2)
        draw(one, validation, "tpot_s", "ms a token")
        draw(other, validation, "ttft_s", "ms to the first token")
        handles, labels = one.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False, fontsize=8)
        set_title(figure, headline(validation), failed=failed)
    return figure


def draw(panel: "Axes", validation: ServingValidation, name: str, what: str) -> None:
    """Draw one of the times."""
    measured, found = 1e3 * validation.loads.column(name), 1e3 * np.asarray(getattr(validation.found, name))
    devices = np.array([p.devices for p in validation.loads.placings])
    shown_at = np.isfinite(measured) & np.isfinite(found)
    for place, count in enumerate(sorted(set(devices.tolist()))):
        at = shown_at & (devices == count)
        style: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
        label = f"{count} device{'s' if count > 1 else ''}"
        panel.plot(measured[at], found[at], linestyle="", markersize=4, alpha=0.7, label=label, **style)
    if not shown_at.any():
        return
    values = np.concatenate([measured[shown_at], found[shown_at]])
    low, high = float(values.min()) / 1.1, float(values.max()) * 1.1
    panel.plot([low, high], [low, high], color="black", linewidth=1)
    for which in "xy":
        log_axis(panel, which, low, high)
    panel.set_xlabel(f"measured, {what}")
    panel.set_ylabel("forecast")
