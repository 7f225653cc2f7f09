"""The pictures of the page, as plotly takes them; they show what commands answered, and compute nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from .asking import Answer, Span
from .views import View

Figure = dict[str, Any]
GAIN = "closed_form_speedup"
# Of pictures of `sweep --plot`: ColorBrewer's PuOr, for the colour-blind, from a third of 1x to three times.
BELOW = ("#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb")
COLOURS = (*BELOW, "#f7f7f7", "#fee0b6", "#fdb863", "#e08214", "#b35806", "#7f3b08")
LEAST, MOST = 1 / 3, 3.0
TICKS, TICK_TEXTS = [LEAST, 1.0, 2.0, MOST], ["≤ ⅓x", "1x", "2x", "≥ 3x"]
# Readable on light and dark.
INK, POINT, GREY = "#16181d", "#19c3b2", "#7f8792"
PHASES = {
    "decode": "#8a8f98",
    "draft": "#e08a3c",
    "draft ahead": "#c9a06a",
    "draft ahead, discarded": "#d9c7ad",
    "verify": "#3b82c4",
    "commit": "#9b5fb5",
}
LABELS = {
    "alpha": "acceptance α of a drafted token",
    "batch": "batch size, sequences",
    "concurrency": "clients",
    "context": "context, tokens",
    "isl": "prompt, tokens",
}
# Of curves: what is drawn, by the columns of drafting and of plain decoding.
MEASURES = {
    "speedup": (GAIN, None, "speedup"),
    "time a token": ("speculative_ms_per_token", "baseline_ms_per_token", "time a token, ms"),
    "first token": ("speculative_first_token_ms", "baseline_first_token_ms", "first token, ms"),
    "tokens a second": ("speculative_tokens_per_s", "baseline_tokens_per_s", "tokens a second"),
}
NOTHING_FITS = "None of it fits into memory."
CLOSED = "closed_form_speculative_ms_per_token"


# Passes that are no draft's; by how much those that are may miss its length.
OTHERS, FILLS = ("plain step", "verification"), 0.01


def column(view: View, name: str) -> list[float] | None:
    """Return a column of a sweep, None where it has none."""
    return view.columns.get(name) or (view.columns.get(CLOSED) if name == "speculative_ms_per_token" else None)


def measures(view: View) -> list[str]:
    """Return what curves can show."""
    return [name for name, (drafted, _, _) in MEASURES.items() if column(view, drafted)]


def shown(view: View, values: Sequence[float]) -> list[float | None]:
    """Return values where models fit."""
    fits = view.columns.get("fits") or [1] * len(values)
    return [v if fit and v == v else None for v, fit in zip(values, fits, strict=True)]


def fitting(view: View) -> str:
    """Return what to say of a sweep of which something does not fit into memory; nothing where all does."""
    fits = view.columns.get("fits") or [1]
    return "" if all(fits) else "What is not drawn does not fit into memory." if any(fits) else NOTHING_FITS


def surface(view: View, x: float | None, draft_length: int | None) -> Figure:
    """Draw speedup over K and something else, the line of 1x, and where the page is."""
    across, along = sorted(set(view.columns[view.x])), sorted(set(view.columns[view.y]))
    places = zip(view.columns[view.x], view.columns[view.y], shown(view, view.columns[GAIN]), strict=True)
    gains = {(a, k): gain for a, k, gain in places}
    z = [[gains.get((a, k)) for a in across] for k in along]
    # Few values, far apart: each as wide as any other.
    names: list[Any] = list(across) if view.x == "alpha" else [f"{a:,.0f}" for a in across]
    hover = f"{LABELS[view.x]} %{{x}}<br>K = %{{y}}<br>%{{z:.2f}}x<extra></extra>"
    heat = {
        "type": "heatmap",
        "x": names,
        "y": along,
        "z": z,
        "zmin": LEAST,
        "zmax": MOST,
        "colorscale": scale(),
        "colorbar": {"title": {"text": "speedup"}, "thickness": 12, "tickvals": TICKS, "ticktext": TICK_TEXTS},
        "hovertemplate": hover,
    }
    data = [heat, *line_of_one(names, along, z)]
    if x is not None and draft_length is not None:
        data.append(point(x if view.x == "alpha" else f"{x:,.0f}", draft_length))
    return figure(data, LABELS[view.x], "draft length K", legend=True, left=45, right=80)


def scale() -> list[list[Any]]:
    """Return the scale of colours: as many below 1x as above it, which is the one in the middle."""
    middle, span = len(BELOW), MOST - LEAST
    below = [[(1 - LEAST) / span * i / middle, colour] for i, colour in enumerate(BELOW)]
    above = [[(1 - LEAST + (MOST - 1) * i / middle) / span, colour] for i, colour in enumerate(COLOURS[middle:])]
    above[-1][0] = 1.0
    return [*below, *above]


def line_of_one(x: Sequence[Any], y: Sequence[float], z: Sequence[Sequence[float | None]]) -> list[Figure]:
    """Draw where speculation starts to pay, where both sides are there."""
    known = [v for row in z for v in row if v is not None]
    if not known or not min(known) < 1 < max(known):
        return []
    contours = {"start": 1, "end": 1, "size": 1, "coloring": "none", "showlabels": False}
    line = {"type": "contour", "x": list(x), "y": list(y), "z": list(z), "contours": contours, "showscale": False}
    return [line | {"line": {"color": GREY, "width": 3, "dash": "dash"}, "hoverinfo": "skip", "name": "break-even, 1x"}]


def point(x: Any, y: float) -> Figure:
    """Mark where the page is."""
    marker = {"symbol": "circle", "size": 13, "color": POINT, "line": {"color": INK, "width": 2}}
    return {"type": "scatter", "mode": "markers", "x": [x], "y": [y], "marker": marker, "name": "this page"}


def load_curves(view: View, measure: str, draft_length: int | None) -> Figure:
    """Draw a line for each K over the load, that of the page in front, beside plain decoding."""
    drafted, plain, label = MEASURES[measure]
    values, lengths, x = column(view, drafted) or [], view.columns[view.y], view.columns[view.x]
    kept = shown(view, values)
    data = []
    several = sorted(set(lengths))
    for k in sorted(several, key=lambda k: k == draft_length):
        at = [i for i, of in enumerate(lengths) if of == k]
        shade = 0.35 + 0.5 * several.index(k) / max(len(several) - 1, 1)
        own = {"color": "#e0662f", "width": 4} if k == draft_length else {"color": f"rgba(59,130,196,{shade:.2f})"}
        data.append(curve([x[i] for i in at], [kept[i] for i in at], f"K = {k:g}", own, k))
    if plain is not None:
        at = [i for i, of in enumerate(lengths) if of == several[0]]
        base = column(view, plain) or []
        data.append(
            curve([x[i] for i in at], [base[i] for i in at], "plain", {"color": GREY, "width": 3, "dash": "dot"})
        )
    drawn = figure(data, LABELS[view.x], label, legend=True)
    drawn["layout"]["xaxis"] |= {
        "type": "log",
        "tickvals": sorted(set(x)),
        "ticktext": [f"{v:g}" for v in sorted(set(x))],
    }
    drawn["layout"]["yaxis"]["rangemode"] = "tozero"
    if plain is None:
        drawn["layout"]["shapes"] = [one_times()]
    return drawn


def one_times() -> Figure:
    """Draw the line of 1x."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 1,
        "y1": 1,
        "line": {"color": GREY, "width": 2, "dash": "dash"},
    }


def curve(x: Sequence[float], y: Sequence[float | None], name: str, line: Figure, rank: float = 0) -> Figure:
    """Draw one line."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": line,
        "legendrank": 1000 + rank,
        "hovertemplate": f"%{{x:,}}: %{{y:.4g}}<extra>{name}</extra>",
    }


def timeline(answer: Answer) -> Figure:
    """Draw what both arms do from the start, phase by phase."""
    spans = [part for span in answer.spans for part in in_passes(span, answer)]
    lanes = {"decode": "plain: decode", "draft": "draft", "verify": "verify", "commit": "overhead, tokens"}
    data = []
    for phase in dict.fromkeys(span.phase for span in spans):
        these = [span for span in spans if span.phase == phase]
        lane = lanes.get(phase.partition(" ")[0], phase)
        told = [span.told for span in these]
        hover = [
            f"{span.phase} {span.end_ms - span.begin_ms:.3g} ms{f', {span.told} tokens' if span.told else ''}"
            for span in these
        ]
        data.append(bars(these, lane, PHASES.get(phase, GREY), phase) | {"customdata": hover, "text": told})
    drawn = figure(data, "time, ms", "", legend=False, left=120)
    drawn["layout"] |= {"barmode": "overlay", "bargap": 0.25, "showlegend": False}
    drawn["layout"]["yaxis"] |= {"categoryorder": "array", "categoryarray": list(reversed([*lanes.values()]))}
    return drawn


def in_passes(span: Span, answer: Answer) -> Iterator[Span]:
    """Yield the passes of a draft one by one, where they are known and fill it."""
    passes = answer.document.get("models", {}).get("passes", {})
    each_ms = [one["total_ms"] for name, one in passes.items() if name not in OTHERS for _ in range(int(one["times"]))]
    begin_ms, length_ms = span.begin_ms, span.end_ms - span.begin_ms
    if span.phase not in ("draft", "draft ahead") or abs(sum(each_ms) - length_ms) > FILLS * length_ms:
        yield span
        return
    for ms in each_ms:
        yield span._replace(begin_ms=begin_ms, end_ms=begin_ms + ms)
        begin_ms += ms


def bars(spans: Sequence[Span], lane: str, colour: str, name: str) -> Figure:
    """Draw spans of a lane."""
    return {
        "type": "bar",
        "orientation": "h",
        "y": [lane] * len(spans),
        "x": [span.end_ms - span.begin_ms for span in spans],
        "base": [span.begin_ms for span in spans],
        "marker": {"color": colour, "line": {"color": "rgba(255,255,255,.6)", "width": int(name != "commit")}},
        "name": name,
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def request(answer: Answer) -> Figure:
    """Draw what an average request of a load waits for, plain and drafted."""
    document = answer.document
    sides = [(name, document.get(key)) for name, key in (("plain", "plain"), ("drafted", "speculative"))]
    there = [(name, side) for name, side in sides if side and side.get("ttft_ms") is not None]
    further = int(document["parameters"]["osl"]) - 1
    parts = {
        "waits": [s["queueing_ms"] for _, s in there],
        "first token": [s["ttft_ms"] - s["queueing_ms"] for _, s in there],
        f"{further:,} further tokens": [(s["tpot_ms"] or 0.0) * further for _, s in there],
    }
    colours = ("#c9a06a", "#9b5fb5", "#3b82c4")
    data = []
    for (name, of), colour in zip(parts.items(), colours, strict=True):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "y": [side for side, _ in there],
                "x": of,
                "name": name,
                "marker": {"color": colour},
                "hovertemplate": f"{name}: %{{x:.4g}} ms<extra>%{{y}}</extra>",
            }
        )
    drawn = figure(data, "time of an average request, ms", "", legend=True)
    drawn["layout"] |= {"barmode": "stack"}
    drawn["layout"]["yaxis"] |= {"categoryorder": "array", "categoryarray": ["drafted", "plain"]}
    return drawn


def figure(data: list[Figure], x: str, y: str, *, legend: bool, left: int = 60, right: int = 15) -> Figure:
    """Return a picture with named axes; its margins are stated: those that a browser finds cost it a second drawing."""
    layout = {
        "height": 360,
        "margin": {"l": left, "r": right, "t": 60 if legend else 15, "b": 50, "autoexpand": False},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": legend,
        "dragmode": False,
    }
    return {"data": data, "layout": layout}
