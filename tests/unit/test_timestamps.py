"""Times have one text form."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from consumer import timestamps

YEAR_0001_MS = -62_135_596_800_000
YEAR_9999_END_MS = 253_402_300_799_999


@given(st.integers(YEAR_0001_MS, YEAR_9999_END_MS))
def test_a_formatted_time_is_parsed_to_the_same_millisecond(time_ms: int) -> None:
    """No year loses a millisecond to floating point."""
    text = timestamps.format_ms(time_ms)
    assert len(text) == len("2026-01-31T12:00:00.000Z")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    difference = timestamps.parse(text) - epoch
    assert (difference.days * 86_400 + difference.seconds) * 1000 + difference.microseconds // 1000 == time_ms


def test_a_time_outside_every_calendar_stays_a_number() -> None:
    """The formatter never raises: record timestamps are the producer's choice."""
    assert timestamps.format_ms(YEAR_9999_END_MS + 1) == "253402300800000"
    assert timestamps.format_ms(2**63 - 1) == str(2**63 - 1)
    assert timestamps.format_ms(YEAR_0001_MS - 1) == str(YEAR_0001_MS - 1)


def test_seconds_are_formatted_to_the_millisecond() -> None:
    """A float clock gives the same form."""
    assert timestamps.format_s(1_700_000_000.5) == "2023-11-14T22:13:20.500Z"


def test_no_float_is_too_large_to_be_written() -> None:
    """A time in seconds whose milliseconds are beyond every float stays a number."""
    for time_s in (1.7e308, -1.7e308, float("inf"), 1e300):
        assert float(timestamps.format_s(time_s)) == time_s * (1 if abs(time_s) > 1e305 else 1000)
