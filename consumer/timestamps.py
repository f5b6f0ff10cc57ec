"""The one text form of a time: RFC 3339 in UTC with milliseconds, ``2026-01-31T12:00:00.000Z``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def format_ms(time_ms: int) -> str:
    """Format milliseconds since the epoch. A time outside the years 1 to 9999 stays a number.

    >>> format_ms(1_767_225_600_123)
    '2026-01-01T00:00:00.123Z'
    >>> format_ms(10**18)
    '1000000000000000000'
    """
    try:
        time = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return str(time_ms)
    return f"{time.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def format_s(time_s: float) -> str:
    """Format seconds since the epoch, like :func:`format_ms`.

    >>> format_s(1_767_225_600.1239)
    '2026-01-01T00:00:00.123Z'
    """
    return format_ms(int(time_s * 1000))


def parse(text: str) -> datetime:
    """Parse an RFC 3339 time, or any other ISO 8601 time. Without a zone it is UTC.

    >>> parse("2026-01-31T13:00:00+01:00").timestamp() == parse("2026-01-31T12:00").timestamp()
    True

    Raises:
        ValueError: The text is not a time.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
