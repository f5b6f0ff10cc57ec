"""Bring a record written with another schema into the reader's own encoding.

Avro schema resolution (int → long, added fields with defaults, aliases, …) is fastavro's. It is
lenient about the bytes, though: it takes a union index of -1 for the last branch, any byte for a
boolean, an eleven-byte varint. So the bytes are walked first, strictly, with the writer's schema.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import parse_schema

_VARINT_MAX_BYTES: Final = 10
_FIXED_BYTES: Final = {"null": 0, "float": 4, "double": 8}
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_REASON_MAX_CHARACTERS: Final = 200


class DecodeError(Exception):
    """The bytes are no record of the schema; the message says how."""


def named_types(schema: Any) -> dict[str, Any]:
    """Return the types that a parsed schema defines and may name again, by name."""
    named: dict[str, Any] = {}
    _collect_names(schema, named)
    return named


def explain_decode_error(schema: Any, named: dict[str, Any], record: bytes) -> str:
    """Say at which field and why these bytes are no record of a parsed schema.

    Args:
        schema: the parsed schema.
        named: its :func:`named_types`.
        record: the bytes.
    """
    try:
        _Walk(record, named).skip(schema, 0)
    except DecodeError as malformed:
        return str(malformed)
    return "the bytes are none of its records"


class Resolution:
    """From one writer schema to the reader's.

    Args:
        writer: parsed schema that the bytes were written with.
        reader: parsed schema that they are wanted in.
    """

    def __init__(self, writer: Any, reader: Any) -> None:
        # Logical types are dropped on both sides: a timestamp stays the number that it is, and one
        # that no datetime can hold does not fail here but is judged like every other number.
        self._writer = parse_schema(_without_logical_types(writer))
        self._reader = parse_schema(_without_logical_types(reader))
        self._named = named_types(self._writer)

    def convert(self, record: bytes) -> tuple[bytes, int]:
        """Re-encode one record.

        Returns:
            The record in the reader's encoding, and how many bytes it took of the input.

        Raises:
            DecodeError: the bytes are no such record, or it does not resolve to the reader's schema.
        """
        end = _Walk(record, self._named).skip(self._writer, 0)
        try:
            value = schemaless_reader(BytesIO(record), self._writer, self._reader)
            out = BytesIO()
            schemaless_writer(out, self._reader, value)
        except Exception as error:  # fastavro raises many kinds; all mean the same here
            raise DecodeError(f"it does not resolve to the reader's schema: {_in_short(error)}") from error
        return out.getvalue(), end


class _Walk:
    """Steps over values without building them, and accepts no byte that Avro does not allow."""

    def __init__(self, data: bytes, named: dict[str, Any]) -> None:
        self._data = data
        self._named = named

    def skip(self, node: Any, at: int) -> int:  # noqa: C901, PLR0911 - one branch per Avro type
        """Return where the value of this schema that begins at ``at`` ends."""
        if isinstance(node, list):
            branch, at = self._varint(at)
            if not 0 <= branch < len(node):
                raise DecodeError(f"union has no branch {branch}")
            return self.skip(node[branch], at)
        kind = node if isinstance(node, str) else node["type"]
        if kind in self._named:
            return self.skip(self._named[kind], at)
        match kind:
            case "record" | "error":
                return self._skip_fields(node, at)
            case "int" | "long" | "enum":
                value, at = self._varint(at)
                self._check_number(kind, value, node)
                return at
            case "string" | "bytes":
                return self._skip_bytes(kind, at)
            case "boolean":
                at = self._need(at, 1)
                if self._data[at - 1] > 1:
                    raise DecodeError(f"boolean is {self._data[at - 1]}, neither 0 nor 1")
                return at
            case "array" | "map":
                return self._skip_blocks(kind, node["items"] if kind == "array" else node["values"], at)
            case "fixed":
                return self._need(at, node["size"])
            case str() if kind in _FIXED_BYTES:
                return self._need(at, _FIXED_BYTES[kind])
            case _:
                return self.skip(kind, at)  # {"type": {"type": …}}

    def _skip_fields(self, node: Any, at: int) -> int:
        for field in node["fields"]:
            try:
                at = self.skip(field["type"], at)
            except DecodeError as malformed:
                raise DecodeError(f"{field['name']}: {malformed}") from malformed
        return at

    @staticmethod
    def _check_number(kind: str, value: int, node: Any) -> None:
        if kind == "int" and not _INT_MIN <= value <= _INT_MAX:
            raise DecodeError(f"int {value} does not fit in 32 bits")
        if kind == "enum" and not 0 <= value < len(node["symbols"]):
            raise DecodeError(f"enum has no symbol {value}")

    def _skip_bytes(self, kind: str, at: int) -> int:
        length, at = self._varint(at)
        if length < 0:
            raise DecodeError(f"{kind} of negative length {length}")
        end = self._need(at, length)
        if kind == "string":
            try:
                self._data[at:end].decode()
            except UnicodeDecodeError as error:
                raise DecodeError(f"string is not UTF-8: {error.reason}") from error
        return end

    def _skip_blocks(self, kind: str, items: Any, at: int) -> int:
        while True:
            count, at = self._varint(at)
            if count == 0:
                return at
            size = None
            if count < 0:  # the block's size in bytes follows; the items are walked all the same
                size, at = self._varint(at)
            begin = at
            for _ in range(abs(count)):
                if kind == "map":
                    at = self._skip_bytes("string", at)
                at = self.skip(items, at)
            if size is not None and size != at - begin:
                raise DecodeError(f"{kind} block says {size} bytes and takes {at - begin}")

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for n in range(_VARINT_MAX_BYTES):
            end = self._need(at, n + 1)
            byte = self._data[end - 1]
            value |= (byte & 0x7F) << (7 * n)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                if value >> 64:
                    break
                return (value >> 1) ^ -(value & 1), end
        raise DecodeError("varint runs past 64 bits")

    def _need(self, at: int, length: int) -> int:
        if length > len(self._data) - at:
            raise DecodeError("the record ends early")
        return at + length


def _in_short(error: Exception) -> str:
    """Say an error in one short line of ASCII: fastavro's repeat both schemas in full."""
    line = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()
    return line if len(line) <= _REASON_MAX_CHARACTERS else line[:_REASON_MAX_CHARACTERS] + "..."


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            k: _without_logical_types(v)
            for k, v in node.items()
            if k != "logicalType" and not k.startswith("__")
        }
    if isinstance(node, list):
        return [_without_logical_types(branch) for branch in node]
    return node


def _collect_names(node: Any, named: dict[str, Any]) -> None:
    if isinstance(node, list):
        for branch in node:
            _collect_names(branch, named)
    elif isinstance(node, dict):
        if node["type"] in ("record", "error", "fixed", "enum"):
            named[node["name"]] = node
        for key in ("type", "items", "values"):
            _collect_names(node.get(key), named)
        for field in node.get("fields", ()):
            _collect_names(field["type"], named)
