"""How every picture of ours looks and is written: white, by suffix, the same bytes for the same figure."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artefacts import UserError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
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
    """Refuse a suffix we do not draw.

    Raises:
        UserError: Names the suffix and those that are allowed.
    """
    if path is not None and path.suffix not in FORMATS:
        raise UserError(f"--plot {path}: suffix {path.suffix!r}, expected {' or '.join(FORMATS)}")
