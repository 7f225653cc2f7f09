"""A picture of forecasts of served loads: time a token and first token against measurement, and the gain by load."""

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.ground.pictures import MARKERS, PALETTE, log_axis, new_figure, set_title

from .rows import GAIN, Row, ServedValidation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def served_figure(validation: ServedValidation, headline: str, *, failed: bool) -> "Figure":
    """Return forecast against measured times, coloured by arms, and gains measured and forecast by load."""
    arms = list(dict.fromkeys(row.arm for row in validation.rows))
    with new_figure(10.5, 7.6, parse_math=False) as figure:
        panels = figure.subplots(2, 2)
        against(panels[0][0], validation, arms, "tpot_p50", "time a token P50, ms")
        against(panels[0][1], validation, arms, "tpot_p99", "time a token P99, ms")
        against(panels[1][0], validation, arms, "ttft_p50", "first token P50, ms")
        by_load(panels[1][1], validation, arms)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False, fontsize=8)
        set_title(figure, headline, failed=failed)
    return figure


def style_of(arms: list[str], arm: str) -> dict[str, Any]:
    """Return colour and marker of an arm."""
    at = arms.index(arm)
    return {"color": PALETTE[at % len(PALETTE)], "marker": MARKERS[at % len(MARKERS)]}


def against(panel: "Axes", validation: ServedValidation, arms: list[str], name: str, what: str) -> None:
    """Draw one of the times, with the bound of its median beside the line of what is right."""
    shown: list[float] = []
    for arm in arms:
        rows = [row for row in validation.rows if row.arm == arm and np.isfinite(row.error(name))]
        pairs = [(1e3 * row.measured[name].value, 1e3 * row.forecast[name].value) for row in rows]
        if pairs:
            x, y = zip(*pairs, strict=True)
            panel.plot(x, y, linestyle="", markersize=5, alpha=0.8, label=arm, **style_of(arms, arm))
            shown += [*x, *y]
    if not shown:
        return
    low, high = min(shown) / 1.1, max(shown) * 1.1
    panel.plot([low, high], [low, high], color="black", linewidth=1)
    if (bound := validation.bounds.get(name)) is not None:
        ends = np.array([low, high])
        panel.fill_between(ends, ends * (1 - bound), ends * (1 + bound), color="black", alpha=0.08, linewidth=0)
    for which in "xy":
        log_axis(panel, which, low, high)
    panel.set_xlabel(f"measured {what}")
    panel.set_ylabel("forecast, ms")


def by_load(panel: "Axes", validation: ServedValidation, arms: list[str]) -> None:
    """Draw gains: what was measured with its interval, and the forecast as a bar across it."""
    rows = [row for row in validation.rows if GAIN in row.measured]
    loads = list(dict.fromkeys((row.load.kind, row.load.load) for row in rows))
    places = {key: at for at, key in enumerate(sorted(loads))}
    named = {(row.load.kind, row.load.load): row.loaded for row in rows}
    drawn = [arm for arm in arms if any(row.arm == arm for row in rows)]
    for nth, arm in enumerate(drawn):
        aside = (nth - (len(drawn) - 1) / 2) * 0.8 / max(len(drawn), 1)
        draw_gains(panel, [row for row in rows if row.arm == arm], places, aside, style_of(arms, arm))
    panel.axhline(1.0, color="black", linewidth=1)
    panel.set_xticks(list(places.values()), [short(named[key]) for key in places], fontsize=7)
    panel.set_ylabel("answers so many times as fast\n(points: measured, bars: forecast)")


def draw_gains(
    panel: "Axes", rows: list[Row], places: dict[tuple[str, float], int], aside: float, style: dict[str, Any]
) -> None:
    """Draw those of one arm."""
    for row in rows:
        at, told = places[row.load.kind, row.load.load] + aside, row.measured[GAIN]
        if np.isfinite(told.low):
            panel.plot([at, at], [told.low, told.high], color=style["color"], linewidth=1)
        panel.plot([at], [told.value], linestyle="", markersize=4, **style)
        forecast = row.forecast[GAIN].value
        panel.plot([at - 0.07, at + 0.07], [forecast, forecast], color=style["color"], linewidth=2.5)


def short(text: str) -> str:
    """Return a load in two lines that stand beside others."""
    return text.replace(" requests/s", " a second").replace(" ", "\n", 1)
