"""Decode many Avro records of one schema at once, into NumPy columns.

The loop runs over the schema's fields, not over the records: each step reads one field of all m
records with a few array operations, from m cursors into one buffer. That costs some 0.2 µs per
event instead of the 2.4 µs of a call per record.

Strict: every byte must be accounted for. A record is malformed if it ends early, if a varint runs
past 64 bits, if an int leaves 32 bits, if a length is negative, if a boolean is neither 0 nor 1,
if a string is not UTF-8, or if bytes are left over. (Over-long varints that still fit in 64 bits
are legal Avro and accepted.)

Covers records of primitive fields and of records of such, which is all that this software writes
or reads on its hot path. What else a writer may send goes through :mod:`consumer.pipeline.resolution`.

Wire format: Avro specification 1.12, "Binary encoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.columnar.text import unaligned_view

PAD: Final = b"\0" * 16
"""Lets a window be read at any cursor: no field's fixed part is longer than 8 bytes, no frame than 10."""

_CONTINUATION: Final = np.uint64(0x8080808080808080)
_PAYLOAD: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS: Final = np.array([int(_CONTINUATION) & ((1 << 8 * n) - 1) for n in range(9)], np.uint64)
"""The bits that ASCII never sets, in the first n bytes of a window."""

_LOOK_AT_BYTES: Final = 64
_VARINT_MAX_BYTES: Final = 10
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1

_WIDTHS: Final = {"double": 8, "float": 4, "boolean": 1}


@dataclass(frozen=True, slots=True)
class Columns:
    """m records as columns.

    Attributes:
        data: the buffer that all positions point into.
        starts: int64 (m, k+1): where each of the k fields begins, and where the record ends.
        numbers: int64 (m,) for ``int`` and ``long``, float64 (m,) for ``float`` and ``double``,
            bool (m,) for ``boolean``, by field name (nested: ``outer.inner``).
        texts: int64 (m,) begin of each text, which ends where the next field begins.
        malformed: bool (m,), records that break the encoding; their other values mean nothing.
        ended_in: int64 (m,), the field in which a malformed record ended early; -1 for every other.
        trailing: bool (m,), records with bytes left over.
    """

    data: bytes
    starts: IntArray
    numbers: dict[str, NDArray[Any]]
    texts: dict[str, IntArray]
    malformed: NDArray[np.bool_]
    ended_in: IntArray
    trailing: NDArray[np.bool_]


def field_plan(schema: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a parsed record schema to its (name, primitive type) fields in wire order.

    Raises:
        ValueError: a field is neither a primitive nor a record of such.
    """
    fields: list[tuple[str, str]] = []
    for spec in schema["fields"]:
        name, kind = prefix + spec["name"], spec["type"]
        if isinstance(kind, dict) and kind["type"] == "record":
            fields += field_plan(kind, name + ".")
            continue
        kind = kind["type"] if isinstance(kind, dict) else kind
        if kind not in ("int", "long", "string", *_WIDTHS):
            raise ValueError(f"field {name} of type {kind} has no columnar plan")
        fields.append((name, kind))
    return fields


def decode_columns(fields: list[tuple[str, str]], data: bytes, begins: IntArray, ends: IntArray) -> Columns:
    """Decode the records that lie at ``data[begins[i]:ends[i]]``.

    Args:
        fields: what :func:`plan` returned for the schema.
        data: the buffer, ended by :data:`PAD`.
        begins: int64 (m,), where each record begins.
        ends: int64 (m,), where each must end.
    """
    reader = _Reader(data, begins, ends)
    starts = np.empty((len(fields) + 1, len(begins)), np.int64)  # a row per field: written whole
    numbers: dict[str, NDArray[Any]] = {}
    texts: dict[str, IntArray] = {}
    for j, (name, kind) in enumerate(fields):
        starts[j] = reader.cursor
        reader.field = j
        if kind == "string":
            texts[name] = reader.text()
        elif kind == "long":
            numbers[name] = reader.varint()
        elif kind == "int":
            numbers[name] = reader.int32()
        else:
            numbers[name] = reader.fixed_width(kind)
    starts[-1] = reader.cursor
    trailing = (reader.cursor < ends) & ~reader.malformed
    for j, (name, _) in enumerate(fields):
        if name in texts:
            reader.refuse_bad_utf8(j, texts[name], starts[j + 1])
    malformed, ended_in = reader.malformed, reader.ended_in
    return Columns(data, starts.T, numbers, texts, malformed, ended_in, trailing & ~malformed)


class _Reader:
    """m cursors that move forward together; a malformed record's cursor no longer matters."""

    def __init__(self, data: bytes, begins: IntArray, ends: IntArray) -> None:
        self._bytes = np.frombuffer(data, np.uint8)
        # One element per byte position: a gather reads a field of all records.
        self._u64 = unaligned_view(data, "<u8")
        self._f64 = unaligned_view(data, "<f8")
        self._f32 = unaligned_view(data, "<f4")
        self._data = data
        self._ends = ends
        self.cursor = begins.astype(np.int64)
        self.field = 0
        self.malformed = np.zeros(len(begins), np.bool_)
        self.ended_in = np.full(len(begins), -1)

    def varint(self) -> IntArray:
        """Read a zig-zag varint of at most 64 bits."""
        first = self._bytes[self.cursor]
        if int(first.max(initial=0)) < len(_ZIGZAG_1BYTE):  # as most lengths and counts
            self._advance(np.int64(1))
            return _ZIGZAG_1BYTE[first]
        window = self._u64[self.cursor]
        stop = ~window & _CONTINUATION  # a set bit where a byte is its varint's last
        lowest = stop & (~stop + np.uint64(1))
        length = ((np.bitwise_count(lowest - np.uint64(1)).astype(np.int64)) + 1) >> 3
        decoded = _zig_zag(_pack_7bit_groups(window & ((lowest << np.uint64(1)) - np.uint64(1))))
        if not stop.all():
            for i in np.flatnonzero(stop == 0).tolist():
                decoded[i], length[i] = self._long_varint(i)
        self._advance(length)
        return decoded

    def _long_varint(self, i: int) -> tuple[int, int]:
        """Read one varint of 9 or 10 bytes, and return its value and length; past the end where it is cut."""
        at, end = int(self.cursor[i]), int(self._ends[i])
        value = 0
        for n, byte in enumerate(self._data[at : min(end, at + _VARINT_MAX_BYTES)]):
            value |= (byte & 0x7F) << (7 * n)
            if byte < 0x80 and not value >> 64:  # noqa: PLR2004 - the continuation bit
                return (value >> 1) ^ -(value & 1), n + 1
        if end - at < _VARINT_MAX_BYTES:
            return 0, end - at + 1
        self.malformed[i] = True
        return 0, 0

    def int32(self) -> IntArray:
        """Read a varint that must fit in 32 bits."""
        value = self.varint()
        self._fail((value < _INT_MIN) | (value > _INT_MAX))
        return value

    def fixed_width(self, kind: str) -> NDArray[Any]:
        """Read a double, a float (as float64) or a boolean."""
        value: NDArray[Any]
        if kind == "double":
            value = self._f64[self.cursor]
        elif kind == "float":
            with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one, unannounced
                value = self._f32[self.cursor].astype(np.float64)
        else:
            raw = self._bytes[self.cursor]
            self._fail(raw > 1)
            value = raw == 1
        self._advance(np.int64(_WIDTHS[kind]))
        return value

    def text(self) -> IntArray:
        """Read a string; return where its text begins."""
        length = self.varint()
        begin = self.cursor
        self._fail(length < 0)
        self._advance(np.minimum(length, len(self._data)))  # a huge one must not wrap around
        return begin

    def _advance(self, length: NDArray[np.int64] | np.int64) -> None:
        """Move every cursor; whoever passes its record's end is malformed."""
        moved = self.cursor + length
        past = moved > self._ends
        if past.any():
            self.ended_in[past & ~self.malformed] = self.field  # what was wrong before stays wrong
            self._fail(past)
        self.cursor = np.where(self.malformed, self._ends, moved) if self.malformed.any() else moved

    def _fail(self, mask: NDArray[np.bool_]) -> None:
        self.malformed |= mask

    def refuse_bad_utf8(self, field: int, begin: IntArray, end: IntArray) -> None:
        """Mark records with a text that is not UTF-8. Pure ASCII, the usual case, needs no look."""
        was_read = ~self.malformed | (self.ended_in > field)
        for i in np.flatnonzero(self._maybe_not_ascii(begin, end) & was_read).tolist():
            try:
                self._data[begin[i] : end[i]].decode()
            except UnicodeDecodeError:
                self.malformed[i], self.ended_in[i] = True, -1

    def _maybe_not_ascii(self, begin: IntArray, end: IntArray) -> NDArray[np.bool_]:
        """Tell which texts have a byte above ASCII, or are too long to be looked at like this."""
        length = end - begin
        longest = int(length.max(initial=0))
        shortest = int(length.min(initial=longest))
        high_bits = np.zeros(len(length), np.uint64)
        for at in range(0, min(longest, _LOOK_AT_BYTES), 8):
            if shortest == longest or at + 8 <= shortest:
                high_bits |= self._u64[begin + at] & _HIGH_BITS[min(shortest - at, 8)]
            else:
                window = self._u64[np.minimum(begin + at, len(self._data) - len(PAD))]
                high_bits |= window & _HIGH_BITS[np.clip(length - at, 0, 8)]
        suspects: NDArray[np.bool_] = (high_bits != 0) | (length > _LOOK_AT_BYTES)
        return suspects


def _zig_zag(value: NDArray[np.uint64]) -> IntArray:
    """Return the numbers that zig-zag encoding gives these: 0, -1, 1, -2 for 0, 1, 2, 3."""
    return (value >> np.uint64(1)).view(np.int64) ^ -((value & np.uint64(1)).view(np.int64))


_ZIGZAG_1BYTE: Final = _zig_zag(np.arange(0x80, dtype=np.uint64))
"""What each varint of one byte stands for."""


def _pack_7bit_groups(window: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Join the low 7 bits of each of 8 bytes into one number, first byte lowest."""
    x = window & _PAYLOAD
    x = (x & np.uint64(0x007F007F007F007F)) | ((x & np.uint64(0x7F007F007F007F00)) >> np.uint64(1))
    x = (x & np.uint64(0x00003FFF00003FFF)) | ((x & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2))
    return (x & np.uint64(0x0FFFFFFF)) | ((x & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))
