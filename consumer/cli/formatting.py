"""How records and times are named on the command line, and how texts of others are printed."""

from __future__ import annotations

import re
from typing import Final

from consumer.errors import UsageError

_PLACE: Final = re.compile(r"(\d{1,10})[:@](\d{1,19})")


def parse_partition_offset(text: str) -> tuple[int, int]:
    """Return partition and offset of ``PARTITION:OFFSET``.

    Raises:
        UsageError: it is no such text.
    """
    found = _PLACE.fullmatch(text)
    if not found:
        raise UsageError(f"{text}: write PARTITION:OFFSET, such as 0:1234")
    return int(found[1]), int(found[2])


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal: what cannot be printed is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, characters: int) -> str:
    """Return a printable text of at most so many characters."""
    text = printable(text)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def hex_lines(data: bytes) -> list[str]:
    """Return bytes as `xxd` shows them: offset, 16 bytes in hexadecimal, and as text."""
    return [
        f"{at:08x}  {data[at : at + 16].hex(' '):<47}  "
        + "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data[at : at + 16])  # noqa: PLR2004 - ASCII
        for at in range(0, len(data), 16)
    ]
