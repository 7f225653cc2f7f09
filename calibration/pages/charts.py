"""Pictures as SVG that is part of the page: as wide as there is room, its letters of one size, its colours the page's.

Places are percent of the picture, so that nothing is scaled but what has no letters: lines and bands stand in a square
of their own that is stretched, of which the strokes are not. Matplotlib's pictures are of one size and one colour.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from xml.etree.ElementTree import Element

from .elements import el
from .page import Bar, Bars, Line, Plot
from .scales import Scale, scale_of

# Lines have a colour, a dash and a mark of their own: as many as the page's style knows.
SERIES = 6
# Points beyond which lines have no marks.
MOST_MARKS = 24
MARKS = ("circle", "square", "diamond", "triangle", "circle", "square")
SHAPES = {"square": "M-4,-4H4V4H-4Z", "diamond": "M0,-5.5L5.5,0L0,5.5L-5.5,0Z", "triangle": "M0,-5.5L5,4H-5Z"}


def percent(value: float) -> str:
    """Return a place."""
    return f"{value:.2f}%"


def drawn(picture: Plot | Bars) -> Element:
    """Return a picture with its caption, for a page."""
    return plot(picture) if isinstance(picture, Plot) else bars(picture)


def framed(picture: Plot | Bars, *inside: Element | None, of: str) -> Element:
    """Return a figure."""
    caption = el("figcaption", el("b", picture.caption), None if of == "bars" else legend(picture))
    return el("figure", caption, *inside, class_=of)


def legend(picture: Plot | Bars) -> Element | None:
    """Return which line is which, where there are several."""
    if not isinstance(picture, Plot) or len(picture.lines) < 2:
        return None
    items = []
    for i, line in ((i, line) for i, line in enumerate(picture.lines) if line.xs):
        stroke = el("line", x1=0, y1=6, x2=26, y2=6, class_=f"line s{i % SERIES}") if picture.joined else None
        items.append(el("span", el("svg", stroke, mark(i, "13", "6"), class_="key", aria_hidden="true"), line.name))
    return el("span", *items, class_="legend")


def mark(series: int, x: str, y: str) -> Element:
    """Return the mark of a point."""
    shape = MARKS[series % SERIES]
    if shape == "circle":
        return el("circle", cx=x, cy=y, r=4, class_=f"mark s{series % SERIES}")
    inside = el("path", d=SHAPES[shape], class_=f"mark s{series % SERIES}")
    return el("svg", inside, x=x, y=y, overflow="visible", width=1, height=1)


def plot(picture: Plot) -> Element:
    """Return lines or points between two axes."""
    xs = [x for line in picture.lines for x in line.xs]
    ys = [y for line in picture.lines for of in (line.ys, line.lows, line.highs) for y in of]
    level = [] if picture.level is None else [picture.level]
    if picture.diagonal:
        xs = ys = [*xs, *ys]
    x, y = scale_of(picture.x, xs), scale_of(picture.y, [*ys, *level])
    parts = [*grid(x, y), *guides(picture, y)]
    stretched: list[Element] = []
    for i, line in enumerate(picture.lines):
        stretched += in_square(i % SERIES, line, x, y, joined=picture.joined)
    square = el(
        "svg", *stretched, **{"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}, width="100%", height="100%"
    )
    marks = [m for i, line in enumerate(picture.lines) for m in marks_of(i, line, x, y, picture)]
    image = el(
        "svg", *parts, square, *marks, role="img", aria_label=picture.says, width="100%", height="100%", class_="area"
    )
    return framed(
        picture,
        el("div", y.axis.title, class_="ytitle"),
        el("div", image, class_="plot"),
        el("div", x.axis.title, class_="xtitle"),
        of="lines square" if picture.diagonal else "lines",
    )


def grid(x: Scale, y: Scale) -> Iterator[Element]:
    """Yield lines of the grid, and the numbers beside them."""
    for tick in x.ticks:
        at = percent(x.at(tick))
        yield el("line", x1=at, x2=at, y1="0", y2="100%", class_="grid")
        yield el("text", x.told(tick), x=at, y="100%", dy="1.4em", text_anchor="middle")
    for tick in y.ticks:
        at = percent(100 - y.at(tick))
        yield el("line", x1="0", x2="100%", y1=at, y2=at, class_="grid")
        yield el("text", y.told(tick), x="0", y=at, dx="-0.6em", dy="0.35em", text_anchor="end")


def guides(picture: Plot, y: Scale) -> Iterator[Element]:
    """Yield what the picture is held against."""
    if picture.level is not None:
        at = percent(100 - y.at(picture.level))
        yield el("line", x1="0", x2="100%", y1=at, y2=at, class_="level")
    if picture.diagonal:
        yield el("line", x1="0", x2="100%", y1="100%", y2="0", class_="level")


def in_square(series: int, line: Line, x: Scale, y: Scale, *, joined: bool) -> Iterator[Element]:
    """Yield the band and the path of a line, or the intervals of points, in a square of 100 by 100."""
    places = [(x.at(at), 100 - y.at(value)) for at, value in known(line.xs, line.ys)]
    ends = [
        (x.at(at), 100 - y.at(low), 100 - y.at(high))
        for at, low, high in zip(line.xs, line.lows, line.highs, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if joined and len(ends) > 1:
        around = [*((at, high) for at, _, high in ends), *((at, low) for at, low, _ in reversed(ends))]
        yield el("path", d=path_of(around) + "Z", class_=f"band s{series}")
    elif not joined:
        for at, low, high in ends:
            yield el("path", d=path_of([(at, low), (at, high)]), class_=f"span s{series}")
    if joined:
        yield el("path", d=path_of(places), class_=f"line s{series}")


def path_of(places: Sequence[tuple[float, float]]) -> str:
    """Return the way through some places."""
    return "".join(f"{'L' if i else 'M'}{x:.2f},{y:.2f}" for i, (x, y) in enumerate(places))


def known(xs: Sequence[float], ys: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield the points of which both are known."""
    yield from ((x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y))


def marks_of(series: int, line: Line, x: Scale, y: Scale, picture: Plot) -> Iterator[Element]:
    """Yield the marks of a line that has not too many points, each with what it says."""
    points = list(known(line.xs, line.ys))
    if picture.joined and len(points) > MOST_MARKS:
        return
    for at, value in points:
        said = f"{line.name}: {x.told(at)}, {y.told(float(f'{value:.4g}'))}"
        yield el("g", el("title", said), mark(series, percent(x.at(at)), percent(100 - y.at(value))))


def bars(picture: Bars) -> Element:
    """Return values below one another, each with its interval on a track below its name."""
    level = [] if picture.level is None else [picture.level]
    ends = [e for bar in picture.bars for e in (bar.value, *(bar.ends or ()))]
    x = scale_of(picture.x, [*ends, 0.0 if picture.level is None else picture.level])
    rows = []
    for bar in picture.bars:
        head = el("span", el("span", bar.name), el("b", bar.written), class_="name")
        places = (("grid", at) for at in x.ticks), (("level", at) for at in level)
        lines = [
            el("line", x1=percent(x.at(at)), x2=percent(x.at(at)), y1=0, y2=18, class_=of) for of, at in chain(*places)
        ]
        track = el("rect", x="0", y="0", width="100%", height=18, rx=3, class_="track")
        image = el("svg", track, *lines, *bar_of(bar, x, picture.level), class_="area", width="100%", height=18)
        rows.append(el("div", head, image, class_="bar-row"))
    ticks = (el("text", x.told(at), x=percent(x.at(at)), y=12, text_anchor="middle") for at in x.ticks)
    axis = el("svg", *ticks, class_="area", width="100%", height=16, aria_hidden="true")
    inside = el("div", *rows, axis, class_="plot", role="img", aria_label=picture.says)
    return framed(picture, inside, el("div", x.axis.title, class_="xtitle"), of="bars")


def bar_of(bar: Bar, x: Scale, level: float | None) -> Iterator[Element]:
    """Yield a value and its interval, marked by whether all of it is beyond the level."""
    low, high = bar.ends or (bar.value, bar.value)
    sure = "" if level is None or bar.ends is None else "good" if low > level else "bad" if high < level else "open"
    if level is None:
        zero = x.at(0.0)
        yield el("rect", x=percent(zero), y=3, width=percent(x.at(bar.value) - zero), height=12, class_="bar")
    if bar.ends:
        yield el("line", x1=percent(x.at(low)), x2=percent(x.at(high)), y1=9, y2=9, class_=f"range {sure}")
    if level is not None:
        yield el("circle", cx=percent(x.at(bar.value)), cy=9, r=6, class_=f"dot {sure}")
