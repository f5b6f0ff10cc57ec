"""Make text and bytes from outside safe to show, on a terminal and on a web page."""

from __future__ import annotations

import unicodedata
from typing import Final

_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BYTES_PER_LINE: Final = 16


def printable(text: str) -> str:
    r"""Replace control, bidirectional, surrogate and unassigned characters by escapes.

    The result neither controls a terminal nor hides or reorders the text around it.

    >>> printable("invoice\u202egpj.exe")
    'invoice\\u202egpj.exe'
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN_CATEGORIES else c
        for c in text
    )


def hex_lines(data: bytes) -> list[str]:
    """Format bytes as ``xxd`` does: offset, 16 bytes in hexadecimal, and as ASCII.

    >>> hex_lines(b"to be")
    ['00000000  74 6f 20 62 65                                   to be']
    """
    lines = []
    for start in range(0, len(data), _BYTES_PER_LINE):
        part = data[start : start + _BYTES_PER_LINE]
        text = "".join(chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {text}")
    return lines
