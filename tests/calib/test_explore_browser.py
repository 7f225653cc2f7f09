"""The page of `explore` in a real browser: its controls change the numbers to what the command line says."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.calib.explore_browser import NUMBER, Seen, Served, browser
from tests.calib.test_browser import BROWSER

pytest.importorskip("streamlit")
pytest.importorskip("playwright")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("served"))
    yield found
    found.stop()


@pytest.fixture
def watched(chromium: Any, served: Served) -> Iterator[Any]:
    """Pages by address, width and scheme; at the end none has said an error, or asked another machine."""
    pages: list[Seen] = []

    def look(query: str = "", width: int = 1400, scheme: str = "light") -> Seen:
        pages.append(Seen(chromium, f"{served.url}{query}", width, scheme))
        return pages[-1]

    yield look
    for seen in pages:
        seen.context.close()
        assert (seen.errors, seen.outside) == ([], [])


def told(run, line: str) -> dict[str, Any]:
    """Return what the command line on the page says."""
    command, *words = shlex.split(line)
    words.remove("--why")
    return json.loads(run(command, *words, "--json").stdout)


def speedup_of(answer: dict[str, Any]) -> str:
    """Return the speedup as the page writes it."""
    return f"{answer['verdict']['speedup']:.2f}x"


def test_controls_change_the_numbers_to_what_the_command_line_says(watched, run) -> None:
    seen = watched()
    page, found = seen.page, []
    page.get_by_label("Draft length K", exact=True).wait_for(timeout=60_000)
    for change, words in (
        (lambda: page.get_by_label("Draft length K", exact=True).fill("6"), "--draftN 6"),
        (lambda: page.get_by_text("a rate α, i.i.d.").click(), "--alpha 0.8"),
        (lambda: page.get_by_role("slider").press("ArrowLeft"), "--alpha 0.79"),
        (lambda: page.get_by_label("Batch", exact=True).fill("8"), "--batch 8"),
        (lambda: page.get_by_text("clients of a server").click(), "--concurrency 16"),
        (lambda: page.get_by_label("Prompt", exact=True).fill("2k"), "--isl 2k"),
    ):
        change()
        page.keyboard.press("Tab")
        line = seen.line(words)
        answer = told(run, line)
        shown = seen.metrics()
        assert speedup_of(answer) in (shown.get("Speedup"), shown.get("Speedup, tokens a second")), line
        assert page.get_by_role("note").first.inner_text() == answer["headline"]
        assert words.split()[0][2:] in page.url
        found.append((line, shown))
    assert len({str(shown) for _, shown in found}) > 4
    page.reload()
    assert (seen.line("--isl 2k"), seen.metrics()) == found[-1]
    page.go_back()
    assert (seen.line("--isl 1024"), seen.metrics()) == found[-2]


def test_what_an_address_has_wrong_is_a_line_each(watched) -> None:
    page = watched("?draftN=x&foo=1&target-model=lama-9").page
    page.get_by_role("alert").nth(1).wait_for(timeout=60_000)
    said = page.get_by_role("alert").all_inner_texts()
    assert [text.partition(":")[0] for text in said] == ["'foo'", "--draftN"]
    assert "Traceback" not in page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_readable_narrow_and_wide_light_and_dark(watched, width: int, scheme: str) -> None:
    seen = watched(width=width, scheme=scheme)
    seen.line()
    page = seen.page
    for at in range(3):
        page.locator(".js-plotly-plot .main-svg").nth(at).wait_for(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    behind = sum(map(int, colour.partition("(")[2].rstrip(")").split(",")[:3])) / 3
    assert behind < 60 if scheme == "dark" else behind > 200
    for box in page.locator(NUMBER).all():
        place = box.bounding_box()
        assert place is not None
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width


def test_a_result_is_shown_and_its_settings_are_taken(watched, run, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(run("simulate", *shlex.split("--target-model qwen3-8b --method eagle3 --profile h200 --alpha 0.6"),
                        "--json").stdout)  # fmt: skip
    seen = watched(f"?file={path}")
    assert "--target-model llama-3.1-8b" in seen.line()
    seen.page.get_by_role("button", name="Take its settings").click()
    line = seen.line("--target-model qwen3-8b")
    assert seen.metrics()["Speedup"] == speedup_of(json.loads(path.read_text())) == speedup_of(told(run, line))


def test_requests_to_others_would_be_noticed(chromium, served: Served) -> None:
    seen = Seen(chromium, served.url)
    seen.page.evaluate("fetch('http://nowhere.invalid/').catch(() => 0)")
    assert seen.outside == ["http://nowhere.invalid/"]
    seen.context.close()


def test_an_interrupt_ends_it_without_a_traceback(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert served.url.startswith("http://127.0.0.1:")
    code, out, err = served.stop()
    assert code in (0, 130)
    assert (served.said, out, err) == ("Ctrl-C ends it", "", "")
    assert not list(tmp_path.iterdir())
