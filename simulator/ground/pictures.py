"""How every picture of ours looks and is written: white, by suffix, the same bytes for the same figure."""

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artefacts import UserError, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
# Okabe and Ito 2008, which the colour-blind tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = "osD^vP*X"
# Of what does not hold, does not pay or does not fit.
FAILED, OFF_HATCH, HATCH_COLOUR = "#C00000", "////", "#7F7F7F"
# Letters of a title that an inch holds at this size.
LETTERS_AN_INCH, TITLE_SIZE = 11.0, 10.5
# Places of ticks between powers of ten, from dense to sparse, and how many labels stand apart.
STEPS = ((*np.arange(1, 10, 0.5),), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,))
MOST_TICKS = 8
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.grid": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "font.size": 10,
    "hatch.color": HATCH_COLOUR,
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "specsim",
    "svg.fonttype": "path",
}


@contextmanager
def new_figure(
    width_in: float, height_in: float, *, pads_in: float | None = None, parse_math: bool = True
) -> Iterator["Figure"]:
    """Yield a figure to draw on, in our style, without any window.

    pads_in: around panels; None leaves them to matplotlib. parse_math: whether "$" in texts begins a formula.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE | {"text.parse_math": parse_math}):
        layout = ConstrainedLayoutEngine() if pads_in is None else ConstrainedLayoutEngine(w_pad=pads_in, h_pad=pads_in)
        figure = Figure(figsize=(width_in, height_in), layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def fitted(text: str, width_in: float, size: float = TITLE_SIZE) -> str:
    """Break text into lines that so many inches hold."""
    most = max(int(LETTERS_AN_INCH * TITLE_SIZE / size * width_in), 12)
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, most, break_long_words=True))


def set_title(figure: "Figure", first: str, second: str = "", *, failed: bool = False) -> None:
    """Title a figure in lines that it holds: what is shown, and of what; in red where a check failed.

    A dollar sign, as in a file's name, is no formula.
    """
    words = "\n".join(fitted(text, figure.get_figwidth()) for text in (first, second) if text)
    figure.suptitle(words, fontsize=TITLE_SIZE, color=FAILED if failed else "black", parse_math=False)


def log_axis(axes: "Axes", which: str, low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`, with plain numbers at a few places."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in STEPS:
        ticks = [float(s * power) for power in powers for s in steps if low <= s * power <= high]
        if len(ticks) <= MOST_TICKS:
            break
    if high < 1.6 * low:
        ticks = [float(t) for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // MOST_TICKS) or 1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a figure in the format its suffix names, atomically; the same figure gives the same bytes."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A character that the font lacks is drawn as a box; a name from a user's file may hold any.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=path.suffix[1:], dpi=160, metadata=metadata)
    with writing(path, "wb") as file:
        file.write(buffer.getvalue())


def check_format(path: Path | None) -> None:
    """Refuse a suffix we do not draw."""
    if path is not None and path.suffix not in FORMATS:
        raise UserError(f"--plot {path}: suffix {path.suffix!r}, expected {' or '.join(FORMATS)}")
