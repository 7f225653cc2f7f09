"""How every picture of ours looks and is written: white, by suffix, the same bytes for the same figure."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artefacts import UserError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
# Okabe and Ito 2008, which the colour-blind tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = "osD^vP*X"
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.grid": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "font.size": 10,
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
