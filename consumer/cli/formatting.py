"""Parse positions and times from the command line, and print untrusted text safely."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from consumer import timestamps
from consumer.errors import UsageError
from consumer.printable import printable

_PARTITION_OFFSET: Final = re.compile(r"(\d{1,10})[:@](\d{1,19})")
_AGO: Final = re.compile(r"(\d+)([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def parse_partition_offset(text: str) -> tuple[int, int]:
    """Return partition and offset of ``PARTITION:OFFSET``.

    Raises:
        UsageError: The text has another form.
    """
    found = _PARTITION_OFFSET.fullmatch(text)
    if not found:
        raise UsageError(f"{text}: write PARTITION:OFFSET, such as 0:1234")
    return int(found[1]), int(found[2])


def parse_time(text: str | None, now: datetime, option: str) -> datetime | None:
    """Return the time that an option names, in UTC if it has no zone; ``None`` if it is not given.

    Args:
        text: An ISO 8601 time, or an age such as ``30m``, ``24h`` or ``7d``.
        now: The time that an age is counted from.
        option: The option's name, for the error message.

    Raises:
        UsageError: The text has another form.
    """
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return timestamps.parse(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text}: write 2026-01-31T12:00Z, or 24h, 7d, 30m") from error


def shortened(text: str, characters: int) -> str:
    """Return printable text of at most this many characters."""
    text = printable(text)
    return text if len(text) <= characters else text[: characters - 1] + "…"
