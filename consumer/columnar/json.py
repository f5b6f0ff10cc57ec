"""Columns → JSON, column by column, for rows that all have the same shape. Pure.

A piece of JSON is text of one character per byte (Latin-1), whatever the bytes mean: strings are cut,
joined and encoded faster than bytes, and no text is decoded. So what is joined here becomes UTF-8 by
``encode("latin-1")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.columnar.text import all_equal, encode_two_byte_strings

_SMALL_TEXTS: Final = [str(n) for n in range(1024)]
"""Counts, days and partitions are nearly always below; looking them up beats forming them."""

_FIRST_WITHOUT_ESCAPE: Final = 0x20
"""JSON has no character below as it is (RFC 8259, section 7)."""

_LINE_ENDS: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""Unicode's line ends, which JSON leaves as they are, and their escapes: a reader may split at them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of few texts for each row: row i has ``texts[which[i]]``."""

    texts: list[str]
    which: IntArray

    def within(self, before: str = "", after: str = "") -> Choice:
        """Return the same between two texts that are in every row."""
        return Choice([before + text + after for text in self.texts], self.which)

    def column(self) -> list[str]:
        """Return the text of each row."""
        column: list[str] = np.array(self.texts, object)[self.which].tolist()
        return column


Piece: TypeAlias = str | Choice | list[str]
"""A piece of each row: the same in all, one of few, or one for each."""


def interleaved(pieces: list[Piece], m: int) -> str:
    """Join the pieces of m rows, row after row.

    Filled piece by piece and joined once, this takes half of what formatting row by row does; and
    the fewer pieces, the less.
    """
    columns = _merged(pieces)
    flat = [""] * (len(columns) * m)
    for k, piece in enumerate(columns):
        column = piece.column() if isinstance(piece, Choice) else piece
        flat[k :: len(columns)] = [column] * m if isinstance(column, str) else column
    return "".join(flat)


def each_joined(pieces: list[Piece], m: int) -> list[str]:
    """Join the pieces of each of m rows."""
    columns = [piece.column() if isinstance(piece, Choice) else piece for piece in _merged(pieces)]
    return list(map("".join, zip(*(repeat(c, m) if isinstance(c, str) else c for c in columns), strict=True)))


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Put what is the same in all rows together with what is beside it, where that is cheap."""
    merged: list[Piece] = []
    for piece in pieces:
        before = merged[-1] if merged else None
        if isinstance(before, str) and isinstance(piece, str):
            merged[-1] = before + piece
        elif isinstance(before, str) and isinstance(piece, Choice):
            merged[-1] = piece.within(before=before)
        elif isinstance(before, Choice) and isinstance(piece, str):
            merged[-1] = before.within(after=piece)
        else:
            merged.append(piece)
    return merged


def numbers(column: NDArray[Any]) -> Piece:
    """Return each number as JSON; one that is not finite is ``null``."""
    bits = column.view(np.int64)  # 0.0 and -0.0 are equal, and not the same text
    if len(column) > 1 and (bits == bits[0]).all():
        return orjson.dumps(column[0].item()).decode()
    largest = int(column.max()) if column.dtype == np.int64 and column.min() >= 0 else len(_SMALL_TEXTS)
    if largest < min(len(_SMALL_TEXTS), len(column)):
        return Choice(_SMALL_TEXTS[: largest + 1], column)
    return each_number(column.tolist())


def each_number(column: list[Any]) -> list[str]:
    """Return each number as JSON, one by one; one that is not finite is ``null``."""
    return orjson.dumps(column).decode()[1:-1].split(",") if column else []


def strings(data: bytes, characters: str, begins: IntArray, ends: IntArray) -> Piece:
    """Return the inside of the JSON string of each text ``data[begins[i]:ends[i]]``.

    Args:
        data: the buffer; the texts are known to be UTF-8.
        characters: ``data`` as Latin-1.
        begins: int64 (m,).
        ends: int64 (m,).
    """
    if len(begins) > 1 and all_equal(data, begins, ends):
        return escaped(data[begins[0] : ends[0]].decode())
    if (pairs := encode_two_byte_strings(data, begins, ends)) is not None:
        distinct, which = pairs
        return Choice([escaped(pair.decode()) for pair in distinct], which)
    texts = [characters[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    if is_plain("".join(texts).encode("latin-1")):  # one look at all costs less than a look at each
        return texts
    return [escaped(text.encode("latin-1").decode()) for text in texts]


def is_plain(text: bytes) -> bool:
    """Tell whether a text is the inside of its own JSON string, as nearly always."""
    if not text.isascii() or b'"' in text or b"\\" in text:
        return False
    codes = np.frombuffer(text, np.uint8)
    return int(codes.min(initial=_FIRST_WITHOUT_ESCAPE)) >= _FIRST_WITHOUT_ESCAPE


def escaped(value: str) -> str:
    """Return the inside of a JSON string that no reader splits."""
    text = orjson.dumps(value).decode()[1:-1]
    return text if text.isascii() else text.translate(_LINE_ENDS).encode().decode("latin-1")
