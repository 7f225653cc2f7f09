"""Elements of HTML and SVG as a tree, of which the standard library writes text so that nothing said becomes markup."""

import re
from xml.etree.ElementTree import Element, tostring

# What no page may hold: control characters, halves of characters, and what XML knows not.
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
Child = "Element | str | None"


def plain(text: str) -> str:
    """Return text that a page can hold."""
    return NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def el(tag: str, /, *children: Element | str | None, **attributes: str | float | None) -> Element:
    """Return an element; `class_` is class, and "_" in the names of attributes "-"."""
    told = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    made = Element(tag, {name: written(value) for name, value in told.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + plain(child)
        elif child is not None:
            made.text = (made.text or "") + plain(child)
    return made


def written(value: str | float) -> str:
    """Return the value of an attribute."""
    return plain(value) if isinstance(value, str) else f"{value:.5g}"


def as_html(element: Element) -> str:
    """Return the text of an element."""
    return tostring(element, encoding="unicode", method="html")
