"""Format and parse times: RFC 3339 in UTC with milliseconds, ``2026-01-31T12:00:00.000Z``."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from math import isfinite
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
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return str(time_ms)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def format_s(time_s: float) -> str:
    """Format seconds since the epoch, like :func:`format_ms`. A time without milliseconds stays a number.

    >>> format_s(1_767_225_600.1239)
    '2026-01-01T00:00:00.123Z'
    >>> format_s(1.7e308), format_s(float("nan"))
    ('1.7e+308', 'nan')
    """
    time_ms = time_s * 1000
    return format_ms(int(time_ms)) if isfinite(time_ms) else str(time_s)


def now() -> str:
    """Return the current time."""
    return format_s(time.time())


def parse(text: str) -> datetime:
    """Parse an RFC 3339 time, or any other ISO 8601 time. Without a zone it is UTC.

    >>> parse("2026-01-31T13:00:00+01:00").timestamp() == parse("2026-01-31T12:00").timestamp()
    True

    Raises:
        ValueError: The text is not a time.
    """
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def seconds(written: str | int) -> float:
    """Return the time of an audit line in seconds since the epoch: a text, or a number of milliseconds.

    >>> seconds("2026-01-01T00:00:00.500Z"), seconds(10**18)
    (1767225600.5, 1000000000000000.0)

    Raises:
        ValueError: The text is not a time.
    """
    return written / 1000 if isinstance(written, int) else parse(written).timestamp()
