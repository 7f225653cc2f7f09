"""How soon the page of `explore` is there in Chromium, and how soon a control answers. Prints a table, asserts nothing.

Each first paint is that of a browser that has seen nothing: until something, and until the answer stands there. A
control answers when the numbers have changed, and when no part of the page is being made any more.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timing import options, show

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.calib.explore_browser import NUMBER, SHOWN, Seen, Served, browser

FIRST_BAR, ANSWER_BAR = "under 3 s", "under 300 ms"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
PICTURE = ".js-plotly-plot .main-svg"
DONE = "document.querySelector('[data-testid=stApp]').getAttribute('data-test-script-state') === 'notRunning'"
NUMBERS = f"[...document.querySelectorAll('{NUMBER}')].map(one => one.innerText).join()"
CHANGED = f"before => {NUMBERS} !== before"


def first(chromium: object, url: str) -> tuple[Seen, float, float]:
    """Return a page, and the seconds until it was painted, and until its numbers were there."""
    began = time.perf_counter()
    seen = Seen(chromium, url)
    seen.page.locator(SHOWN).first.wait_for(timeout=120_000)
    there_s = time.perf_counter() - began
    return seen, seen.page.evaluate(PAINT) / 1e3, there_s


def answers(seen: Seen, change: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds from a change until the first number is another, and until the page is whole."""
    before = seen.page.evaluate(NUMBERS)
    began = time.perf_counter()
    change()
    seen.page.wait_for_function(CHANGED, arg=before, timeout=60_000)
    changed_s = time.perf_counter() - began
    seen.page.wait_for_function(DONE, timeout=60_000)
    return changed_s, time.perf_counter() - began


def p95(times_s: list[float]) -> str:
    """Return median and 95th percentile, in ms."""
    ordered = sorted(times_s)
    return f"{statistics.median(ordered) * 1e3:.0f}, {ordered[int(0.95 * (len(ordered) - 1))] * 1e3:.0f} ms"


def main() -> None:
    smoke = options(__doc__).parse_args().smoke
    paints, changes = (1, 2) if smoke else (7, 60)
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        served = Served(Path(folder))
        try:
            first(chromium, served.url)[0].context.close()  # what the server loads once
            found = []
            for left in reversed(range(paints)):
                found.append(first(chromium, f"{served.url}?alpha=0.8"))
                # Its pictures are made while no other page is loaded.
                found[-1][0].page.locator(PICTURE).nth(2).wait_for()
                found[-1][0].page.wait_for_timeout(1_000)
                if left:
                    found[-1][0].context.close()
            show(
                "first paint, median and most",
                f"{spread([f[1] for f in found])}",
                "a browser without a cache",
                FIRST_BAR,
            )
            show("numbers there, median and most", f"{spread([f[2] for f in found])}", "", FIRST_BAR)
            seen = found[-1][0]
            seen.page.wait_for_function(DONE)
            lengths, alpha = seen.page.get_by_label("Draft length K", exact=True), seen.page.get_by_role("slider")
            each = {
                "draft length": lambda i: (lengths.fill(str(2 + i % 9)), lengths.press("Enter")),
                "acceptance": lambda i: alpha.press("ArrowLeft"),
            }
            for name, change in each.items():
                times = [answers(seen, lambda i=i, change=change: change(i)) for i in range(changes // 2)]
                show(f"{name}: number, median and p95", p95([t[0] for t in times]), "never asked before", ANSWER_BAR)
                show(f"{name}: whole page, median and p95", p95([t[1] for t in times]), "", ANSWER_BAR)
        finally:
            served.stop()


def spread(times_s: list[float]) -> str:
    """Return median and largest, in s."""
    return f"{statistics.median(times_s):.2f}, {max(times_s):.2f} s"


if __name__ == "__main__":
    main()
