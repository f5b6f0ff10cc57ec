"""Check files of events offline: find the events that the stream would reject.

A file is an Avro container, JSON Lines with the fields of one event per line, or one value as it would be in
the topic. Its events are checked by the stream's own code, as values with a registry id in a header.
"""

from __future__ import annotations

import bz2
import json
import lzma
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from consumer.errors import BadInputError
from consumer.pipeline.batch import Headers
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.pipeline import find_rejections
from consumer.pipeline.rejections import Rejection
from consumer.pipeline.walk import DecodeError, Walk, encode_long
from schemas.avro import AvroSchema, SchemaError
from schemas.repository import (
    CONFLUENT_MARKER,
    SCHEMA_ID_HEADER,
    SINGLE_OBJECT_MARKER,
    RegistryId,
    confluent_header,
    engagement_event,
)

_CONTAINER_MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_BATCH_EVENTS: Final = 10_000
_MAX_BLOCK_BYTES: Final = 256 * 1024 * 1024
_CRC_BYTES: Final = 4
_JSON_TYPES: Final = ("null", "boolean", "long", "double", "string", {"type": "map", "values": "null"})
"""The types of a JSON value. Each field of our record is read from a union of them."""
_LONG_LIMIT: Final = 2**63


@dataclass(frozen=True, slots=True)
class EventFile:
    """The events of a file.

    Attributes:
        unit: The name of one event in the file: ``record``, ``line`` or ``value``.
        numbers: The number of each event.
        values: The values of the events.
        schema_ids: The id of each event's writer schema; ``None`` if its frame names it.
        schemas: The writer schemas by id.
    """

    unit: str
    numbers: Sequence[int]
    values: Sequence[bytes] = field(repr=False)
    schema_ids: Sequence[int | None] = field(repr=False)
    schemas: Mapping[int, AvroSchema] = field(repr=False)

    def check(self, known: WriterSchemas) -> Iterator[tuple[int, Rejection | None]]:
        """Yield the number of each event, and its rejection if the stream would reject it.

        Args:
            known: Finds schemas by fingerprint.
        """
        decoder = Decoder(engagement_event(), _Given(self.schemas, known), keep_nulls=True)
        for start in range(0, len(self.values), _BATCH_EVENTS):
            stop = start + _BATCH_EVENTS
            ids = self.schema_ids[start:stop]
            headers = partial(_headers, ids)
            rejections = find_rejections(decoder, self.values[start:stop], headers)
            rejected = {rejection.row: rejection for rejection in rejections}
            for row, number in enumerate(self.numbers[start:stop]):
                yield number, rejected.get(row)


class _Given:
    """Finds the file's own schemas by id, and known schemas by fingerprint."""

    def __init__(self, schemas: Mapping[int, AvroSchema], known: WriterSchemas) -> None:
        self._schemas = schemas
        self._known = known
        self.reads_confluent = bool(schemas)

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return a known schema."""
        return self._known.by_fingerprint(fingerprint)

    def by_id(self, schema_id: RegistryId) -> AvroSchema | None:
        """Return a schema of the file. If the file has one schema, every id names it."""
        if len(self._schemas) == 1:
            return next(iter(self._schemas.values()))
        return self._schemas.get(schema_id) if isinstance(schema_id, int) else None


def _headers(schema_ids: Sequence[int | None], rows: Sequence[int]) -> list[Headers]:
    ids = [schema_ids[row] for row in rows]
    return [[] if one is None else [(SCHEMA_ID_HEADER, confluent_header(one))] for one in ids]


def read_events(path: Path, schema: AvroSchema | None) -> EventFile:
    """Read the events of a file.

    Args:
        path: The file.
        schema: The writer schema of a value in Confluent framing, or without a frame.

    Raises:
        BadInputError: The file cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or 'it cannot be read'}") from error
    try:
        if data.startswith(_CONTAINER_MAGIC):
            return _read_container(data)
        if data.lstrip()[:1] == b"{":
            return _read_lines(data)
    except (DecodeError, SchemaError) as error:
        raise BadInputError(f"{path}: {error}") from error
    is_bare = schema is not None and not data.startswith((SINGLE_OBJECT_MARKER, CONFLUENT_MARKER))
    return EventFile("value", [1], [data], [0 if is_bare else None], {} if schema is None else {0: schema})


def _read_container(data: bytes) -> EventFile:
    """Read an Avro object container file (Avro specification, "Object Container Files")."""
    walk = Walk(data, AvroSchema.parse("null"))
    metadata, at = _read_metadata(walk, len(_CONTAINER_MAGIC))
    schema = AvroSchema.parse_json(metadata.get("avro.schema", b""))
    decompress = _decompressor(metadata.get("avro.codec", b"null").decode("ascii", "replace"))
    sync_stop = walk.need(at, _SYNC_BYTES)
    sync, at = data[at:sync_stop], sync_stop
    values: list[bytes] = []
    while at < len(data):
        count, at = walk.varint(at)
        size, at = walk.varint(at)
        if count < 0 or size < 0:
            raise DecodeError(f"damaged after record {len(values)}: a block of negative size")
        stop = walk.need(at, size)
        try:
            block = decompress(data[at:stop])
        except DecodeError as error:
            raise DecodeError(f"damaged after record {len(values)}: {error}") from error
        values += _split(block, count, schema, len(values))
        at = walk.need(stop, _SYNC_BYTES)
        if data[stop:at] != sync:
            raise DecodeError(f"damaged after record {len(values)}: the block's end mark is missing")
    return EventFile("record", range(1, len(values) + 1), values, [0] * len(values), {0: schema})


def _read_metadata(walk: Walk, at: int) -> tuple[dict[str, bytes], int]:
    metadata: dict[str, bytes] = {}
    while True:
        count, at = walk.varint(at)
        if count == 0:
            return metadata, at
        if count < 0:
            _, at = walk.varint(at)
        for _ in range(abs(count)):
            parts = []
            for _ in range(2):
                length, at = walk.varint(at)
                stop = walk.need(at, max(length, 0))
                parts.append(walk.data[at:stop])
                at = stop
            metadata[parts[0].decode("utf-8", "replace")] = parts[1]


def _decompressor(codec: str) -> Callable[[bytes], bytes]:
    """Return the function that decompresses a block, which raises :class:`DecodeError` if it is damaged.

    Raises:
        DecodeError: Avro's specification has no such codec, or it needs a package that is not installed.
    """
    codecs: dict[str, Callable[[bytes], bytes]] = {
        "null": bytes,
        "deflate": lambda block: zlib.decompressobj(-zlib.MAX_WBITS).decompress(block, _MAX_BLOCK_BYTES),
        "bzip2": lambda block: bz2.BZ2Decompressor().decompress(block, _MAX_BLOCK_BYTES),
        "xz": lambda block: lzma.LZMADecompressor().decompress(block, _MAX_BLOCK_BYTES),
    }
    errors: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, EOFError)
    names = [*codecs, "snappy", "zstandard"]
    if codec not in names:
        raise DecodeError(f"the codec {codec} cannot be read; write the file with one of {', '.join(names)}")
    if codec not in codecs:
        try:
            import cramjam  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise DecodeError(
                f"the codec {codec} needs: pip install 'purchase-stream[codecs]'; "
                f"or write the file with one of {', '.join(codecs)}"
            ) from error
        errors = (cramjam.DecompressionError,)
        codecs |= {
            "snappy": lambda block: _unsnap(block, cramjam.snappy),
            "zstandard": lambda block: _limited(block, cramjam.zstd.decompress_into),
        }

    def decompress(block: bytes) -> bytes:
        try:
            return codecs[codec](block)
        except errors as error:
            raise DecodeError(f"the block is not {codec} data") from error

    return decompress


def _unsnap(block: bytes, snappy: Any) -> bytes:
    """Decompress a snappy block, which the CRC-32 of its content follows (Avro specification, "snappy")."""
    compressed, crc = block[:-_CRC_BYTES], block[-_CRC_BYTES:]
    content = bytes(snappy.decompress_raw(compressed))
    if zlib.crc32(content) != int.from_bytes(crc, "big"):
        raise DecodeError("the checksum of the block differs")
    return content


def _limited(block: bytes, decompress_into: Callable[[bytes, Any], int]) -> bytes:
    """Decompress a block that does not tell its size; the memory is taken page by page as it fills."""
    with mmap.mmap(-1, _MAX_BLOCK_BYTES) as buffer:
        return buffer[: decompress_into(block, buffer)]


def _split(block: bytes, count: int, schema: AvroSchema, n_before: int) -> list[bytes]:
    """Split a block into its records."""
    walk, at = Walk(block, schema), 0
    records: list[bytes] = []
    for n in range(count):
        try:
            stop = walk.skip(schema.parsed, at)
        except DecodeError as error:
            raise DecodeError(f"damaged in record {n_before + n + 1}: {error}") from error
        records.append(block[at:stop])
        at = stop
    if at != len(block):
        raise DecodeError(f"damaged after record {n_before + count}: {len(block) - at} bytes are left over")
    return records


def _read_lines(data: bytes) -> EventFile:
    """Read JSON Lines. A value is sent as the Avro type that its JSON has."""
    wanted = [spec["name"] for spec in engagement_event().parsed["fields"]]
    numbers: list[int] = []
    values: list[bytes] = []
    shapes: dict[tuple[str, ...], int] = {}
    ids: list[int | None] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"line {number} is not JSON") from error
        if not isinstance(fields, dict):
            raise DecodeError(f"line {number} is not a JSON object")
        present = tuple(name for name in wanted if name in fields)
        numbers.append(number)
        values.append(b"".join(_encode_json(fields[name]) for name in present))
        ids.append(shapes.setdefault(present, len(shapes)))
    return EventFile("line", numbers, values, ids, {k: _json_schema(shape) for shape, k in shapes.items()})


def _json_schema(names: Sequence[str]) -> AvroSchema:
    """Return the schema of events with these fields, each of any JSON type."""
    fields = [{"name": name, "type": list(_JSON_TYPES)} for name in names]
    return AvroSchema.parse({"type": "record", "name": engagement_event().name, "fields": fields})


def _encode_json(value: Any) -> bytes:
    """Encode a JSON value as the branch of its type."""
    match value:
        case None:
            return encode_long(0)
        case bool():
            return encode_long(1) + bytes([value])
        case int() if -_LONG_LIMIT <= value < _LONG_LIMIT:
            return encode_long(2) + encode_long(value)
        case int() | float():
            return encode_long(3) + struct.pack("<d", _as_double(value))
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return encode_long(4) + encode_long(len(text)) + text
    return encode_long(5) + encode_long(0)


def _as_double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
