"""A page read back as a browser reads it: elements that are open and closed in turn, and what stands between them."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = frozenset(("meta", "br", "hr", "img", "link", "input"))
# Attributes that may name what is loaded or gone to.
NAMING = frozenset(("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "style"))


@dataclass
class Read(HTMLParser):
    """What a page holds."""

    tags: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    left_open: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.left_open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.left_open or self.left_open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All that is to be read, but for the style."""
        return " ".join(text for text in self.texts if not text.startswith(":root"))

    @property
    def spoken(self) -> list[str]:
        """What those are told who cannot see a picture."""
        return [value for tag, name, value in self.attributes if name == "aria-label"]


def read_page(page: Path | str) -> Read:
    """Read a page; it is whole, and loads nothing from anywhere."""
    text = page.read_text() if isinstance(page, Path) else page
    found = Read()
    found.feed(text)
    found.close()
    assert (found.wrong, found.left_open) == ([], [])
    assert text.startswith("<!doctype html>\n")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    named = {value for _, name, value in found.attributes if name in NAMING}
    assert all(value.startswith("#") for value in named)
    assert "@import" not in text
    assert "url(" not in text
    assert "<html lang=" in text
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    return found
