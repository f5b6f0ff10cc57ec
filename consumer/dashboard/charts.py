"""Compute bars and gauges as rectangles, which a template draws as inline SVG. Pure.

A chart library would weigh megabytes and need inline styles, which the page's policy forbids. Colours
come from the style sheet. A chart is stretched to its box, so it holds no text: its label says what it
shows, each bar has a tooltip, and the axes stand beside it as HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

_SLOT: Final = 12.0
_HEIGHT: Final = 100.0
_TRAINING_WIDTH: Final = 10.0
_LIVE_WIDTH: Final = 5.0
_GAUGE_THRESHOLD: Final = 60.0
"""Position of the threshold in a gauge, in percent of its length."""


class Rect(NamedTuple):
    """One rectangle.

    Attributes:
        kind: The CSS class.
        x: Left edge, in units of the chart.
        y: Top edge.
        width: Width.
        height: Height.
        tooltip: The meaning of the bar; empty for no tooltip.
    """

    kind: str
    x: float
    y: float
    width: float
    height: float
    tooltip: str = ""


class Chart(NamedTuple):
    """A bar chart or a gauge.

    Attributes:
        kind: The CSS class.
        width: Width of the view box.
        height: Height of the view box.
        label: The content in words, for screen readers.
        rects: The rectangles, from back to front.
    """

    kind: str
    width: float
    height: float
    label: str
    rects: list[Rect]


def shares(
    live: Sequence[float] | None, training: Sequence[float], label: str, tooltips: Sequence[str] | None = None
) -> Chart:
    """Draw the share of students in each bin: a narrow live bar before a wide one of training.

    Args:
        live: The share of students in each bin, 0 to 1; ``None`` while nobody is in the window.
        training: The share of training rows in each bin, 0 to 1.
        label: The content in words.
        tooltips: One text per bin.
    """
    top = max([*training, *(live or ()), 1e-9])
    rects = []
    for i, training_ratio in enumerate(training):
        tooltip = tooltips[i] if tooltips else ""
        rects.append(_bar("training", i, _TRAINING_WIDTH, training_ratio / top, tooltip))
        if live is not None:
            rects.append(_bar("live", i, _LIVE_WIDTH, live[i] / top, tooltip))
    return Chart("shares", _SLOT * len(training), _HEIGHT, label, rects)


def gauge(value: float, threshold: float, label: str) -> Chart:
    """Draw a value and its threshold; a bar far beyond the threshold ends at the edge."""
    length = min(100.0, _GAUGE_THRESHOLD * value / threshold)
    level = Rect("beyond" if value > threshold else "within", 0, 1, length, 4)
    rects = [Rect("track", 0, 1, 100, 4), level, Rect("threshold", _GAUGE_THRESHOLD - 0.5, 0, 1, 6)]
    return Chart("gauge", 100, 6, label, rects)


def amount(value: float, largest: float, label: str) -> Chart:
    """Draw an amount to the left (less) or to the right (more) of zero.

    Args:
        value: The amount.
        largest: The largest absolute amount beside which it is drawn; above 0.
        label: What the chart shows.
    """
    length = 50 * min(1.0, abs(value) / largest)
    bar = Rect("more", 50, 1, length, 4) if value >= 0 else Rect("less", 50 - length, 1, length, 4)
    return Chart("amount", 100, 6, label, [bar, Rect("zero", 49.75, 0, 0.5, 6)])


def history(counts: Sequence[int], label: str, tooltips: Sequence[str] | None = None) -> Chart:
    """Draw one count per second, oldest first."""
    top = max(1, *counts)
    rects = [
        Rect(
            "live",
            i + 0.1,
            _HEIGHT * (1 - count / top),
            0.8,
            _HEIGHT * count / top,
            tooltips[i] if tooltips else "",
        )
        for i, count in enumerate(counts)
        if count
    ]
    return Chart("history", len(counts), _HEIGHT, label, rects)


def _bar(kind: str, slot: int, width: float, height_ratio: float, tooltip: str) -> Rect:
    height = _HEIGHT * height_ratio
    return Rect(kind, _SLOT * slot + (_SLOT - width) / 2, _HEIGHT - height, width, height, tooltip)
