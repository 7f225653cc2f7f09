"""Pages as one document of HTML that needs nothing else: no script, no font, no address.

It opens from a disk without a network, follows the reader's choice of light or dark, and prints.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from simulator.ground.artefacts import to_json

from .charts import drawn
from .elements import as_html, el
from .page import Bars, Code, Page, Part, Plot, Table

STYLE = Path(__file__).with_name("page.css")
# What may be loaded: the style within the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# Letters of a title, and of a record that is shown whole.
MOST_TITLE, MOST_RECORD = 90, 400_000


def document(pages: Sequence[Page]) -> str:
    """Return the document of some results."""
    first = pages[0].answer if len(pages) == 1 else f"{len(pages)} results: {', '.join(p.name for p in pages)}"
    title = first if len(first) <= MOST_TITLE else f"{first[: MOST_TITLE - 3]}..."
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", STYLE.read_text()),
    )
    several = len(pages) > 1
    inside = [result(page, f"r{i}", 2 if several else 1) for i, page in enumerate(pages, 1)]
    top = [el("h1", f"{len(pages)} results"), contents(pages)] if several else []
    return f"<!doctype html>\n{as_html(el('html', head, el('body', el('main', *top, *inside)), lang='en'))}\n"


def contents(pages: Sequence[Page]) -> Element:
    """Return the list of several results, each with its answer."""
    items = [
        el("li", el("a", page.name, href=f"#r{i}"), el("span", page.kind, class_="kind"), el("p", page.answer))
        for i, page in enumerate(pages, 1)
    ]
    return el("nav", el("ol", *items), aria_label="Results")


def result(page: Page, name: str, level: int) -> Element:
    """Return a result: its answer first."""
    chip = el("span", page.verdict, class_=f"chip {page.mark}") if page.verdict else None
    head = el(
        "header",
        el("p", el("span", f"{page.kind} · {page.name}"), chip, class_="kind"),
        el(f"h{level}", page.answer, class_="answer", id=f"{name}-answer"),
        tiles(page),
    )
    warned = el("ul", *(el("li", text) for text in page.warnings)) if page.warnings else None
    caution = None if warned is None else el("aside", el("strong", "Know before the numbers"), warned)
    parts = [part_of(part, level + 1) for part in page.parts]
    rests = el("section", heading(level + 1, "What it rests on"), pairs(page.rests, "rests")) if page.rests else None
    return el(
        "article", head, caution, rests, *parts, *origin(page, level + 1), id=name, aria_labelledby=f"{name}-answer"
    )


def heading(level: int, text: str) -> Element:
    """Return a heading."""
    return el(f"h{level}", text)


def tiles(page: Page) -> Element | None:
    """Return the numbers that stand out."""
    if not page.figures:
        return None
    each = [
        el("div", el("dt", f.name), el("dd", el("b", f.value), el("span", f.beside) if f.beside else None))
        for f in page.figures
    ]
    return el("dl", *each, class_="tiles")


def pairs(told: Sequence[tuple[str, str]], of: str = "pairs") -> Element:
    """Return names with what they are."""
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in told), class_=of)


def part_of(part: Part, level: int) -> Element:
    """Return a part: pictures side by side where there is room."""
    inside: list[Element] = []
    pictures: list[Element] = []
    for shown in part.shown:
        if isinstance(shown, Plot | Bars):
            pictures.append(drawn(shown))
            continue
        if pictures:
            inside.append(el("div", *pictures, class_="pictures"))
            pictures = []
        inside.append(table_of(shown) if isinstance(shown, Table) else code_of(shown))
    if pictures:
        inside.append(el("div", *pictures, class_="pictures"))
    return el("section", heading(level, part.heading), *(el("p", text) for text in part.sentences), *inside)


def code_of(code: Code) -> Element:
    """Return lines to type."""
    label = el("figcaption", code.of) if code.of else None
    return el("figure", label, el("pre", el("code", "\n".join(code.lines)), tabindex="0"), class_="code")


def table_of(table: Table) -> Element:
    """Return a table that scrolls within itself where the page is narrow; a column that says nothing is left out."""
    kept = [i for i in range(len(table.heads)) if i < table.keys or any(row[i] for row in table.rows)]
    heads = [el("th", table.heads[i], scope="col", class_="text" if i in table.left else None) for i in kept]
    rows = [
        el("tr", *cells(table, row, kept), class_=mark or None)
        for row, mark in zip(table.rows, marks(table), strict=True)
    ]
    inside = el("table", el("caption", table.caption), el("thead", el("tr", *heads)), el("tbody", *rows))
    return el("div", inside, class_="scroll", tabindex="0", role="region", aria_label=table.caption)


def marks(table: Table) -> Sequence[str]:
    """Return how each row is marked."""
    return table.marks or [""] * len(table.rows)


def cells(table: Table, row: Sequence[str], kept: Sequence[int]) -> Iterator[Element]:
    """Yield the cells of a row; those that name it are its heads."""
    for i in kept:
        of = "text" if i in table.left else None
        yield el("th", row[i], scope="row", class_=of) if i < table.keys else el("td", row[i], class_=of)


def origin(page: Page, level: int) -> Iterator[Element]:
    """Yield what was asked, where the result comes from, and all of it."""
    yield el("section", heading(level, "What was asked"), pairs(page.asked)) if page.asked else el("section")
    yield el("section", heading(level, "Where it comes from"), pairs(page.made))
    text = record_text(page.record)
    left = f"; the first {MOST_RECORD:,} letters of {len(text):,} are shown" if len(text) > MOST_RECORD else ""
    yield el(
        "details",
        el("summary", f"All that the file says{left}"),
        el("pre", el("code", text[:MOST_RECORD]), tabindex="0"),
    )


def record_text(record: Any) -> str:
    """Return all of a result as text."""
    return record if isinstance(record, str) else to_json(record).rstrip()
