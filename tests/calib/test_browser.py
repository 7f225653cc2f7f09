"""Pages in a real browser, Chromium without a window: light and dark, narrow and wide, and on paper."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.pages.document import document
from calibration.pages.kinds import page_of
from tests.calib.test_pages import GIVEN

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
# As Blink's setting has them.
SCHEMES = {"dark": 0, "light": 1}
TALL = 3000


def browse(folder: Path, page: Path, *words: str) -> None:
    """Have a browser of its own do something with a page; no name is looked up in any network."""
    always = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    alone = [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    subprocess.run([str(BROWSER), *always, *alone, *words, page.as_uri()], check=True, capture_output=True, timeout=120)


def shot(folder: Path, page: Path, width: int, scheme: str) -> np.ndarray:
    """Return what a browser of some width shows, [rows, columns, colours]."""
    out = folder / "shot.png"
    words = (f"--window-size={width},{TALL}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}")
    browse(folder, page, *words, f"--screenshot={out}")
    seen = np.asarray(Image.open(out).convert("RGB"), np.float64)
    assert seen.shape == (TALL, width, 3)
    return seen


def is_within(seen: np.ndarray) -> bool:
    """Whether nothing reaches over the right edge: the margin there has one colour."""
    return bool((seen[:, -6:] == seen[0, -1]).all())


@pytest.mark.parametrize("name", ["advice", "forecasts of decoding"])
def test_a_page_is_readable_narrow_and_wide_light_and_dark(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(document([page_of(GIVEN[name])]))
    for width in (400, 1400):
        behind = {}
        for scheme in SCHEMES:
            seen = shot(tmp_path, page, width, scheme)
            assert is_within(seen), (width, scheme)
            behind[scheme] = seen[0, -1].mean()
            # Letters, lines and marks: much that is far from what lies behind it.
            inked = np.abs(seen.mean(2) - behind[scheme]) > 100
            assert 0.01 < inked[:1000].mean() < 0.3, (width, scheme)
        assert behind["dark"] < 40 < 215 < behind["light"]


def test_what_is_too_wide_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = document([page_of(GIVEN["advice"])])
    page.write_text(text.replace("<main>", "<main><p style='width:60rem;max-width:none;background:red'>.</p>"))
    assert not is_within(shot(tmp_path, page, 400, "light"))


def test_a_page_prints(tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(document([page_of(GIVEN["advice"])]))
    browse(tmp_path, page, f"--print-to-pdf={out}", "--no-pdf-header-footer")
    data = out.read_bytes()
    assert data.startswith(b"%PDF")
    # Not the record of all figures, which would take dozens.
    assert 1 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 6
