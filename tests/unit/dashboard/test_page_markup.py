"""Markup and pictures: whatever text comes in, it comes out as text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.dashboard.charts import gauge, history, shares
from consumer.dashboard.markup import document, duration, moment, number, percent, tag

FOREIGN = st.text(st.characters(codec="utf-8", exclude_characters="\r\0")) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "]]>", "</td>", "'"]
)


class Read(HTMLParser):
    """What a parser finds in a document: tags, attributes, text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


@given(FOREIGN, FOREIGN)
def test_text_stays_text(text: str, value: str) -> None:
    """Text of others makes no tag, no attribute and no reference, in an element as in an attribute."""
    read = Read(document(tag("p", text, title=value)))
    assert read.tags == ["p"]
    assert read.attributes == [("title", value)]
    assert read.text.removesuffix("\n").endswith(text)


def test_what_utf8_cannot_hold_is_replaced() -> None:
    """Half of a surrogate pair does not keep the page from being sent."""
    assert b"<p>?</p>" in document(tag("p", "\ud800"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (0, "0"), (0.01234, "0.0123"), (4.567, "4.57"), (12345.6, "12,346"), (9e18, "9.00e+18")],
)
def test_numbers_are_short(value: float | None, shown: str) -> None:
    """A number takes three digits where it can, and never fills a line."""
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "—"),
        (0.0123, "12 ms"),
        (3.44, "3.4 s"),
        (300, "5 min"),
        (7 * 3600, "7 h"),
        (40 * 86400, "40 days"),
    ],
)
def test_durations_have_a_fitting_unit(seconds: float | None, shown: str) -> None:
    """A span of time is told in the unit that a person would take."""
    assert duration(seconds) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_time_is_shown(time_s: float) -> None:
    """A time that no calendar has is shown as a number instead of failing."""
    assert "".join(moment(time_s).itertext())


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0, 10),
    st.floats(1e-6, 10),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=120),
)
def test_pictures_stay_within_their_frame(
    ratios: list[tuple[float, float]], value: float, threshold: float, counts: list[int]
) -> None:
    """No bar stands out of its picture, whatever the numbers."""
    live, training = [a for a, _ in ratios], [b for _, b in ratios]
    for picture in (shares(live, training, ""), gauge(value, threshold, ""), history(counts, "")):
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        for rect in picture:
            x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            slack = 0.001 * max(width, height)
            assert -slack <= x <= x + w <= width + slack
            assert -slack <= y <= y + h <= height + slack


def test_a_picture_says_what_it_shows() -> None:
    """Every picture has the role and the words that a screen reader reads."""
    picture: Any = shares(None, [0.5, 0.5], "what is seen")
    assert picture.attrib["role"] == "img"
    assert picture.attrib["aria-label"] == "what is seen"
    assert percent(None) == "—"
