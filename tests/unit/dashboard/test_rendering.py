"""Templates, formats and charts: text that comes in comes out as text."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import timestamps
from consumer.dashboard.charts import gauge, history, shares
from consumer.dashboard.rendering import ENVIRONMENT, duration, number, percent, timestamp
from consumer.printable import printable

FOREIGN = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "]]>", "</td>", "'"]
)


class Parsed(HTMLParser):
    """What a parser finds in a document: tags, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


def rendered(template: str, **view: object) -> str:
    """Render a template that is given as text."""
    return ENVIRONMENT.from_string(template).render(view).encode().decode()


@given(FOREIGN, FOREIGN)
def test_text_stays_text(text: str, value: str) -> None:
    """A text never becomes a tag, attribute or reference, neither in an element nor in an attribute."""
    parsed = Parsed(rendered('<p title="{{ value }}">{{ text }}</p>', text=text, value=value))
    assert parsed.tags == ["p"]
    assert parsed.attributes == [("title", printable(value))]
    assert parsed.text == printable(text)


@given(FOREIGN)
def test_hidden_characters_become_printable(text: str) -> None:
    """No control, bidirectional, unassigned or surrogate character is left; printable text is unchanged."""
    shown = printable(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in shown)
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b", r"a\x00b"),
        ("two\nlines", r"two\nlines"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("12\N{NO-BREAK SPACE}%", "12\N{NO-BREAK SPACE}%"),
        ("Zoë 王", "Zoë 王"),
    ],
)
def test_control_and_bidi_characters_are_escaped(text: str, shown: str) -> None:
    """An id can neither hide a part of itself nor reorder the text around it."""
    assert printable(text) == shown
    assert rendered("{{ text }}", text=text) == shown


def test_a_value_that_a_template_does_not_get_is_an_error() -> None:
    """A misspelt name fails in a test instead of showing nothing."""
    with pytest.raises(Exception, match="'lag' is undefined"):
        rendered("{{ lag }}")


@given(FOREIGN)
def test_a_text_that_is_no_time_is_shown_as_it_is(text: str) -> None:
    """A time that came from outside is a ``time`` element or escaped text."""
    assert Parsed(rendered("{{ text|timestamp }}", text=text)).tags in (["time"], ["bdi"])


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
    """A duration has the unit that a person would use."""
    assert duration(seconds) == shown


@given(st.integers())
def test_every_time_is_shown(time_ms: int) -> None:
    """A time that no calendar has is shown as a number instead of failing."""
    assert Parsed(timestamp(timestamps.format_ms(time_ms))).text


def test_a_time_has_its_date_and_a_form_for_machines() -> None:
    """A time is shown in UTC with its date, in whatever zone it came; its attribute is exact."""
    shown = '<time datetime="2026-01-31T12:00:00.250Z">2026-01-31 12:00:00 UTC</time>'
    assert timestamp("2026-01-31T13:00:00.250+01:00") == shown
    assert timestamp("0001-01-01T00:00:00+14:00") == "<bdi>0001-01-01T00:00:00+14:00</bdi>"
    assert timestamp(None) == "—"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0, 10),
    st.floats(1e-6, 10),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=120),
)
def test_charts_stay_within_their_frame(
    ratios: list[tuple[float, float]], value: float, threshold: float, counts: list[int]
) -> None:
    """No bar is drawn outside of its chart, whatever the numbers."""
    live, training = [a for a, _ in ratios], [b for _, b in ratios]
    for chart in (shares(live, training, ""), gauge(value, threshold, ""), history(counts, "")):
        slack = 0.001 * max(chart.width, chart.height)
        for rect in chart.rects:
            assert -slack <= rect.x <= rect.x + rect.width <= chart.width + slack
            assert -slack <= rect.y <= rect.y + rect.height <= chart.height + slack


def test_a_chart_says_what_it_shows() -> None:
    """Every chart has the role and the words that a screen reader reads, and each bar its tooltip."""
    chart = shares(None, [0.5, 0.5], "what <it> shows", ["first", "second"])
    html = rendered('{% from "macros.html" import svg %}{{ svg(chart) }}', chart=chart)
    parsed = Parsed(html)
    assert ("role", "img") in parsed.attributes
    assert ("aria-label", "what <it> shows") in parsed.attributes
    assert parsed.tags == ["svg", "rect", "title", "rect", "title"]
    assert percent(None) == "—"
