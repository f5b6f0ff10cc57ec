"""Skip the values of an Avro record without building them, and reject what Avro forbids.

The columnar decoder (:mod:`consumer.columnar.avro`) is fast, and only notices that a record is malformed. A
walk is slow, handles every schema, and says which field is malformed and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas.avro import MAX_DEPTH, AvroSchema, Node

_VARINT_MAX_BYTES: Final = 10
_FIXED_BYTES: Final = {"null": 0, "float": 4, "double": 8}
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class DecodeError(Exception):
    """The bytes are not a record of the schema, or cannot be read as ours; the message says why."""


def explain_decode_error(schema: AvroSchema, record: bytes) -> str:
    """Explain why these bytes are not a record of a schema, and at which field they differ."""
    try:
        Walk(record, schema).skip(schema.parsed, 0)
    except DecodeError as error:
        return str(error)
    return "the bytes are not one of its records"


class Walk:
    """A strict cursor: skips the values of a record without building them, and rejects what Avro forbids.

    Args:
        data: The buffer.
        schema: The schema of the record.
    """

    def __init__(self, data: bytes, schema: AvroSchema) -> None:
        self.data = data
        self._named = schema.named
        self._empty = schema.empty

    def skip(self, node: Node, at: int, depth: int = 0) -> int:  # noqa: C901, PLR0911 - a branch per Avro type
        """Return where the value that starts at ``at`` stops."""
        if depth > MAX_DEPTH:
            raise DecodeError(f"the record nests deeper than {MAX_DEPTH} levels")
        if isinstance(node, list):
            index, at = self.branch(node, at)
            return self.skip(node[index], at, depth + 1)
        kind = node if isinstance(node, str) else node["type"]
        if kind in self._named:
            return at if kind in self._empty else self.skip(self._named[kind], at, depth)
        match kind:
            case "record":
                return self._skip_fields(node, at, depth)
            case "int" | "long":
                return self.number(kind, at)[1]
            case "enum":
                symbol, at = self.varint(at)
                if not 0 <= symbol < len(node["symbols"]):
                    raise DecodeError(f"the enum has no symbol {symbol}")
                return at
            case "string" | "bytes":
                return self.text(at, utf8=kind == "string")
            case "boolean":
                at = self.need(at, 1)
                if self.data[at - 1] > 1:
                    raise DecodeError(f"the boolean is {self.data[at - 1]}, neither 0 nor 1")
                return at
            case "array" | "map":
                return self._skip_blocks(kind, node["items" if kind == "array" else "values"], at, depth)
            case "fixed":
                return self.need(at, node["size"])
        return self.need(at, _FIXED_BYTES[kind])

    def branch(self, union: Sequence[Any], at: int) -> tuple[int, int]:
        """Read the index of a union's branch; return it and where its value starts."""
        index, at = self.varint(at)
        if not 0 <= index < len(union):
            raise DecodeError(f"the union has no branch {index}")
        return index, at

    def number(self, kind: str, at: int) -> tuple[int, int]:
        """Read an int or a long; return it and where it stops."""
        value, at = self.varint(at)
        if kind == "int" and not _INT_MIN <= value <= _INT_MAX:
            raise DecodeError(f"the int {value} does not fit in 32 bits")
        return value, at

    def text(self, at: int, *, utf8: bool) -> int:
        """Return where a string or bytes stop."""
        length, at = self.varint(at)
        if length < 0:
            raise DecodeError(f"the {'string has' if utf8 else 'bytes have'} the negative length {length}")
        stop = self.need(at, length)
        if utf8:
            try:
                self.data[at:stop].decode()
            except UnicodeDecodeError as error:
                raise DecodeError(f"byte {error.start} of the text is not UTF-8") from error
        return stop

    def varint(self, at: int) -> tuple[int, int]:
        """Read a zig-zag varint; return it and where it stops."""
        value = 0
        for n in range(_VARINT_MAX_BYTES):
            stop = self.need(at, n + 1)
            byte = self.data[stop - 1]
            value |= (byte & 0x7F) << (7 * n)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                if value >> 64:
                    break
                return (value >> 1) ^ -(value & 1), stop
        raise DecodeError("a number runs past 64 bits")

    def need(self, at: int, length: int) -> int:
        """Return where the next ``length`` bytes stop."""
        if length > len(self.data) - at:
            raise DecodeError("the record ends early")
        return at + length

    def _skip_fields(self, node: Node, at: int, depth: int) -> int:
        for spec in node["fields"]:
            try:
                at = self.skip(spec["type"], at, depth + 1)
            except DecodeError as error:
                raise DecodeError(f"{spec['name']}: {error}") from error
        return at

    def _skip_blocks(self, kind: str, items: Node, at: int, depth: int) -> int:
        """Skip the blocks of an array or a map. Items that take no bytes are not counted through."""
        item = items if isinstance(items, str) else "" if isinstance(items, list) else items.get("name")
        takes_bytes = kind == "map" or not (item == "null" or item in self._empty)
        while True:
            count, at = self.varint(at)
            if count == 0:
                return at
            size = None
            if count < 0:  # the size of the block in bytes follows
                size, at = self.varint(at)
            start = at
            for _ in range(abs(count) if takes_bytes else 0):
                if kind == "map":
                    at = self.text(at, utf8=True)
                at = self.skip(items, at, depth + 1)
            if size is not None and size != at - start:
                raise DecodeError(f"a block of the {kind} says {size} bytes and takes {at - start}")


def encode_long(value: int) -> bytes:
    r"""Encode a 64-bit number as a zig-zag varint.

    >>> encode_long(-1), encode_long(64)
    (b'\x01', b'\x80\x01')
    """
    rest, encoded = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:  # noqa: PLR2004 - 7 bits per byte
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
