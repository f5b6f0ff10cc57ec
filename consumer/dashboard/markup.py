"""HTML and SVG as trees of elements, and numbers and times as people read them. Pure.

Text enters a document only as text of an element or value of an attribute, which the serialiser of the
standard library escapes. There is no way to add markup as a string, so none can be forgotten.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, TypeAlias
from xml.etree import ElementTree as ET

from consumer import timestamps

Child: TypeAlias = "ET.Element | str | None"
Attribute: TypeAlias = str | float | bool | None

UNKNOWN: Final = "—"
"""In the place of a value that is not known."""

_LARGE: Final = 100
_UNREADABLE: Final = 1e12
_MS_PER_S: Final = 1000
_S_PER_MIN: Final = 60
_S_PER_H: Final = 3600
_S_PER_DAY: Final = 86_400
_MOST_UNITS: Final = 2
"""A span of less than two days is told in hours, and so on."""


def tag(name: str, /, *children: Child, **attributes: Attribute) -> ET.Element:
    """Return an element.

    Args:
        name: its name.
        children: elements and texts in their order; ``None`` is left out.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``. ``True`` is an attribute
            without a value; ``None`` and ``False`` leave it out.
    """
    element = ET.Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.set(key.rstrip("_").replace("_", "-"), "" if value is True else str(value))
    return add(element, *children)


def add(element: ET.Element, *children: Child) -> ET.Element:
    """Add children to an element and return it."""
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
        elif child is not None and len(element):
            element[-1].tail = (element[-1].tail or "") + child
        elif child is not None:
            element.text = (element.text or "") + child
    return element


def document(root: ET.Element) -> bytes:
    """Return a whole HTML document in UTF-8; what UTF-8 cannot hold becomes a question mark."""
    html = ET.tostring(root, encoding="unicode", method="html")
    return f"<!doctype html>\n{html}\n".encode(errors="replace")


def foreign(text: str) -> ET.Element:
    """Return text of others, whose direction of writing stays its own."""
    return tag("bdi", text)


def table(caption: str, columns: list[str], rows: list[list[Child]]) -> ET.Element:
    """Return a table whose first column names the rows."""
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *[tag("th", column, scope="col") for column in columns])),
        tag(
            "tbody",
            *[tag("tr", tag("th", row[0], scope="row"), *[tag("td", c) for c in row[1:]]) for row in rows],
        ),
    )


def scrolling(content: ET.Element, name: str, label: str) -> ET.Element:
    """Return wide content in a box that a finger and the arrow keys scroll, so that the page need not."""
    return tag("div", content, class_="scroll", id=name, tabindex=0, role="region", aria_label=label)


def sentence(text: str) -> str:
    """Return a message of a program as a sentence, with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def number(value: float | None) -> str:
    """Return a number to about three digits: ``0.0123``, ``4.57``, ``12,345``."""
    if value is None:
        return UNKNOWN
    if abs(value) >= _UNREADABLE:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= _LARGE or value == int(value) else f"{value:.3g}"


def percent(ratio: float | None) -> str:
    """Return a share: ``12.3 %``."""
    return UNKNOWN if ratio is None else f"{100 * ratio:.1f}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Return a span of time: ``12 ms``, ``3.4 s``, ``5 min``, ``7 h``, ``40 days``."""
    if seconds is None:
        return UNKNOWN
    size = abs(seconds)
    if size < 1:
        return f"{seconds * _MS_PER_S:.0f} ms"
    for unit_s, name in ((_S_PER_DAY, "days"), (_S_PER_H, "h"), (_S_PER_MIN, "min")):
        if size >= _MOST_UNITS * unit_s:
            return f"{seconds / unit_s:,.0f} {name}"
    return f"{seconds:.1f} s"


def moment(time_s: float, *, with_date: bool = False) -> ET.Element:
    """Return a time of day in UTC, with the whole of it for machines; as a number where it has no date."""
    try:
        at = datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):
        return tag("span", f"{time_s:.3e} s after 1970")
    shown = f"{at:%Y-%m-%d %H:%M:%S}" if with_date else f"{at:%H:%M:%S}"
    return tag("time", f"{shown} UTC", datetime=timestamps.format_s(time_s))
