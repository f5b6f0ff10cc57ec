"""The style sheet's contrast, in the light and the dark scheme."""

from __future__ import annotations

import re

import pytest

from consumer.dashboard.rendering import static_text

LIGHT, DARK = (
    dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", block))
    for block in re.findall(r":root \{([^}]*)\}", static_text("page.css"))[:2]
)

PAIRS = [(text, paper) for paper in ("paper", "card") for text in ("ink", "soft", "live", "warn", "bad")] + [
    ("good", "good-paper"),
    ("warn", "warn-paper"),
    ("bad", "bad-paper"),
    ("paper", "ink"),
]


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "paper"), PAIRS)
def test_text_has_contrast(scheme: dict[str, str], text: str, paper: str) -> None:
    """Every text has at least 4.5:1 on its background (WCAG 2.2, 1.4.3)."""
    lighter, darker = sorted((luminance(scheme[text]), luminance(scheme[paper])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_bars_have_contrast(scheme: dict[str, str]) -> None:
    """Live bars have at least 3:1 on those of training (WCAG 2.2, 1.4.11)."""
    lighter, darker = sorted((luminance(scheme["live"]), luminance(scheme["training"])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3
