"""Write columns as JSON, column by column, for rows that all have the same shape. Pure.

JSON is handled here as text of one character per byte (Latin-1), whatever the bytes mean: strings are
sliced, joined and encoded faster than bytes, and no UTF-8 is decoded. ``encode("latin-1")`` turns the
joined text into UTF-8 again.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from consumer.columnar.arrays import DictionaryColumn, IntArray
from consumer.columnar.text import all_equal, encode_two_byte_strings

_SMALL_NUMBERS: Final = [str(n) for n in range(1024)]
"""Most counts, days and partitions are below this; a look-up is faster than formatting."""

_FIRST_UNESCAPED: Final = 0x20
"""JSON must escape every character below this one (RFC 8259, section 7)."""

_LINE_SEPARATORS: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""Escapes of Unicode's line separators. JSON does not require them, but some readers split lines there."""

JsonColumn: TypeAlias = str | DictionaryColumn[str] | list[str]
"""One piece of JSON per row: one text for all rows, a dictionary column, or one text per row."""


def join_rows_flat(pieces: list[JsonColumn], m: int) -> str:
    """Join the pieces of m rows, row after row, to one text.

    One list is filled piece by piece and joined once: twice as fast as formatting row by row.

    >>> join_rows_flat(["a", ["1", "2"], ";"], 2)
    'a1;a2;'
    """
    columns = _merged(pieces)
    flat = [""] * (len(columns) * m)
    for k, piece in enumerate(columns):
        column = piece.to_list() if isinstance(piece, DictionaryColumn) else piece
        flat[k :: len(columns)] = [column] * m if isinstance(column, str) else column
    return "".join(flat)


def join_rows(pieces: list[JsonColumn], m: int) -> list[str]:
    """Join the pieces of m rows to one text per row.

    >>> join_rows(["a", ["1", "2"], ";"], 2)
    ['a1;', 'a2;']
    """
    columns = [piece.to_list() if isinstance(piece, DictionaryColumn) else piece for piece in _merged(pieces)]
    return list(map("".join, zip(*(repeat(c, m) if isinstance(c, str) else c for c in columns), strict=True)))


def _merged(pieces: list[JsonColumn]) -> list[JsonColumn]:
    """Join neighbours that can be joined once for all rows: fewer pieces are faster to join."""
    merged: list[JsonColumn] = []
    for piece in pieces:
        before = merged[-1] if merged else None
        if isinstance(before, str) and isinstance(piece, str):
            merged[-1] = before + piece
        elif isinstance(before, str) and isinstance(piece, DictionaryColumn):
            merged[-1] = piece.map(before.__add__)
        elif isinstance(before, DictionaryColumn) and isinstance(piece, str):
            merged[-1] = _with_suffix(before, piece)
        else:
            merged.append(piece)
    return merged


def _with_suffix(column: DictionaryColumn[str], suffix: str) -> DictionaryColumn[str]:
    return column.map(lambda text: text + suffix)


def json_numbers(column: NDArray[Any]) -> JsonColumn:
    """Return each number or boolean as JSON; NaN and the infinities are ``null``."""
    if column.dtype == np.bool_:
        return DictionaryColumn(["false", "true"], column.astype(np.int64))
    bits = column.view(np.int64)  # 0.0 and -0.0 are equal, but not as text
    if len(column) > 1 and (bits == bits[0]).all():
        return orjson.dumps(column[0].item()).decode()
    is_count = column.dtype == np.int64 and len(column) > 0 and column.min() >= 0
    if is_count and column.max() < min(len(_SMALL_NUMBERS), len(column)):
        return DictionaryColumn(_SMALL_NUMBERS[: int(column.max()) + 1], column)
    return orjson.dumps(column.tolist()).decode()[1:-1].split(",") if len(column) else []


def json_strings(data: bytes, characters: str, starts: IntArray, stops: IntArray) -> JsonColumn:
    """Return each text ``data[starts[i]:stops[i]]`` as the inside of a JSON string.

    Args:
        data: The buffer; the texts must be valid UTF-8.
        characters: ``data`` as Latin-1.
        starts: The start of each text, int64 (m,).
        stops: The stop of each text, int64 (m,).
    """
    if len(starts) > 1 and all_equal(data, starts, stops):
        return json_escaped(data[starts[0] : stops[0]].decode())
    if (codes := encode_two_byte_strings(data, starts, stops)) is not None:
        return codes.map(lambda code: json_escaped(code.decode()))
    texts = [characters[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    if needs_no_escape("".join(texts).encode("latin-1")):  # one test of all is faster than one of each
        return texts
    return [json_escaped(text.encode("latin-1").decode()) for text in texts]


def needs_no_escape(text: bytes) -> bool:
    """Return whether a text can stand in a JSON string as it is; true for nearly all texts."""
    if not text.isascii() or b'"' in text or b"\\" in text:
        return False
    codes = np.frombuffer(text, np.uint8)
    return int(codes.min(initial=_FIRST_UNESCAPED)) >= _FIRST_UNESCAPED


def json_escaped(value: str) -> str:
    """Return the inside of a JSON string that contains no line separator, as Latin-1 characters."""
    text = orjson.dumps(value).decode()[1:-1]
    return text if text.isascii() else text.translate(_LINE_SEPARATORS).encode().decode("latin-1")
