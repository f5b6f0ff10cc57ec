"""Render the templates: escape every text, and format numbers and times for people. Pure.

Texts from outside (ids, details, reasons) can hold anything. Autoescape keeps them from becoming markup,
and ``printable`` shows characters that would hide or reorder text.
"""

from __future__ import annotations

from datetime import UTC
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from consumer import timestamps
from consumer.printable import printable

UNKNOWN: Final = "—"
"""The text for an unknown value."""

_NO_BREAK_SPACE: Final = "\N{NO-BREAK SPACE}"
_WHOLE_NUMBERS_FROM: Final = 100
_SCIENTIFIC_FROM: Final = 1e12
_TIME_UNITS: Final = ((86_400, "days"), (3600, "h"), (60, "min"))
_MIN_UNITS: Final = 2
"""The units of durations; a duration of less than two days is shown in hours, and so on."""


def render(template: str, view: dict[str, Any]) -> bytes:
    """Render a template as an HTML document in UTF-8."""
    return ENVIRONMENT.get_template(template).render(view).encode()


def static_text(name: str) -> str:
    """Return a file of the folder ``static``."""
    return files("consumer.dashboard").joinpath("static", name).read_text("utf-8")


def number(value: float | None) -> str:
    """Format a number with about three digits: ``0.0123``, ``4.57``, ``12,345``."""
    if value is None:
        return UNKNOWN
    if abs(value) >= _SCIENTIFIC_FROM:
        return f"{value:.2e}"
    whole = abs(value) >= _WHOLE_NUMBERS_FROM or value == int(value)
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def percent(ratio: float | None) -> str:
    """Format a share with one decimal: ``12.3 %``."""
    return UNKNOWN if ratio is None else f"{100 * ratio:.1f}{_NO_BREAK_SPACE}%"


def precise_percent(ratio: float) -> str:
    """Format a share with three digits, so that a score near 0 does not become ``0.0 %``."""
    return f"{number(100 * ratio)}{_NO_BREAK_SPACE}%"


def duration(seconds: float | None) -> str:
    """Format a duration: ``12 ms``, ``3.4 s``, ``5 min``, ``7 h``, ``40 days``."""
    if seconds is None:
        return UNKNOWN
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit_s, name in _TIME_UNITS:
        if size >= _MIN_UNITS * unit_s:
            return f"{seconds / unit_s:,.0f} {name}"
    return f"{seconds:.1f} s"


def timestamp(text: str | None) -> str:
    """Return an RFC 3339 time as a ``<time>`` element in UTC; a text that is not a time stays as it is."""
    if text is None:
        return UNKNOWN
    try:
        at = timestamps.parse(text).astimezone(UTC)
    except (OverflowError, ValueError):
        return Markup("<bdi>{}</bdi>").format(printable(text))
    exact = timestamps.format_s(at.timestamp())
    return Markup('<time datetime="{}">{} UTC</time>').format(exact, f"{at:%Y-%m-%d %H:%M:%S}")


def seconds_between(start: str, stop: str) -> float:
    """Return the seconds between two RFC 3339 times, at least 0."""
    return max(0.0, (timestamps.parse(stop) - timestamps.parse(start)).total_seconds())


def title(name: str) -> str:
    """Return the title of a series: ``Days on platform``."""
    return "Predicted purchases" if name == "predicted_purchase" else name.replace("_", " ").capitalize()


def sentence(text: str) -> str:
    """Return a message as a sentence, with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _printed(value: Any) -> Any:
    """Prepare the value of an expression: keep markup, make text printable, show ``None`` as unknown."""
    if value is None:
        return UNKNOWN
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


ENVIRONMENT: Final = Environment(
    loader=PackageLoader("consumer.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printed,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
ENVIRONMENT.filters.update(
    {made.__name__: made for made in (number, percent, duration, timestamp, title, sentence)}
)
ENVIRONMENT.globals["seconds_between"] = seconds_between
ENVIRONMENT.globals["stylesheet"] = Markup(static_text("page.css"))  # noqa: S704 - a file of this package
