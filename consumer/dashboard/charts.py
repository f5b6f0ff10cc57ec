"""Pictures as inline SVG: no library of megabytes, no second request, sharp on paper and in the dark. Pure.

Colours and lines are the style sheet's. A picture holds no text, because it is stretched; what it shows
is said in its label, and in a table or a line beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from consumer.dashboard.markup import tag

_SLOT: Final = 12.0
_HEIGHT: Final = 100.0
_TRAINING_WIDTH: Final = 10.0
_LIVE_WIDTH: Final = 5.0
_THRESHOLD_AT: Final = 60.0
"""Where a gauge has its threshold, in percent of its length."""


def shares(live: Sequence[float] | None, training: Sequence[float], label: str) -> ET.Element:
    """Draw the share of each bin: live as a narrow bar before the wide one of training.

    Args:
        live: B shares, 0 to 1; ``None`` while there is nobody.
        training: B shares.
        label: what is to be seen, in words.
    """
    top = max([*training, *(live or ()), 1e-9])
    bars = []
    for i, ratio in enumerate(training):
        bars.append(_bar("training", i, _TRAINING_WIDTH, ratio / top))
        if live is not None:
            bars.append(_bar("live", i, _LIVE_WIDTH, live[i] / top))
    return _picture("shares", _SLOT * len(training), _HEIGHT, label, *bars)


def gauge(value: float, threshold: float, label: str) -> ET.Element:
    """Draw how far a value is from its threshold; one far beyond ends at the edge."""
    length = min(100.0, _THRESHOLD_AT * value / threshold)
    return _picture(
        "gauge",
        100,
        6,
        label,
        _rect("track", 0, 1, 100, 4),
        _rect("beyond" if value > threshold else "within", 0, 1, length, 4),
        _rect("threshold", _THRESHOLD_AT - 0.5, 0, 1, 6),
    )


def history(counts: Sequence[int], label: str) -> ET.Element:
    """Draw counts over time as steps, oldest first."""
    top = max(1, *counts)
    bars = [
        _rect("live", i + 0.1, _HEIGHT * (1 - count / top), 0.8, _HEIGHT * count / top)
        for i, count in enumerate(counts)
        if count
    ]
    return _picture("history", len(counts), _HEIGHT, label, *bars)


def _bar(kind: str, slot: int, width: float, height_ratio: float) -> ET.Element:
    height = _HEIGHT * height_ratio
    return _rect(kind, _SLOT * slot + (_SLOT - width) / 2, _HEIGHT - height, width, height)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> ET.Element:
    return tag("rect", class_=kind, x=f"{x:.4g}", y=f"{y:.4g}", width=f"{width:.4g}", height=f"{height:.4g}")


def _picture(kind: str, width: float, height: float, label: str, *shapes: ET.Element) -> ET.Element:
    return tag(
        "svg",
        *shapes,
        class_=kind,
        viewBox=f"0 0 {width:.6g} {height:.6g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
