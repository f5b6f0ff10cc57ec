"""Parse frames: find where each record starts, and which schema it was written with.

The values of a batch have few different frames, so each frame is looked up once, and one reason serves
all values that are framed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import DictionaryColumn, IntArray
from consumer.columnar.avro import PAD
from consumer.columnar.text import starts_with, unaligned_view
from consumer.pipeline.batch import Headers
from consumer.pipeline.rejections import Code, Reason, Rejections
from schemas.avro import AvroSchema
from schemas.repository import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SCHEMA_ID_HEADER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
    RegistryId,
    UnusableSchema,
    parse_schema_id_header,
)

_SHOWN_BYTES: Final = 2


HeadersOfRows: TypeAlias = Callable[[Sequence[int]], list[Headers]]
"""Returns the headers of rows of the poll batch."""


class WriterSchemas(Protocol):
    """Finds writer schemas. A look-up may raise for an outage, which fails the whole batch."""

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""

    def by_id(self, schema_id: RegistryId) -> AvroSchema | UnusableSchema | None:
        """Return the schema with this registry id or GUID."""

    @property
    def reads_confluent(self) -> bool:
        """Whether registry ids can be looked up."""


class JoinedValues(NamedTuple):
    """The n values of a poll in one buffer.

    Attributes:
        data: The values end to end, then :data:`PAD`.
        starts: The start of each value, int64 (n,).
        stops: The stop of each value, int64 (n,).
    """

    data: bytes
    starts: IntArray
    stops: IntArray


class FramedRows(NamedTuple):
    """Rows whose records were written with one schema.

    Attributes:
        schema: The writer's schema.
        rows: Row numbers, sorted, int64 (k,).
        header_bytes: The length of the frame's header; the record follows it.
    """

    schema: AvroSchema
    rows: IntArray
    header_bytes: int


def join_values(values: Sequence[bytes | None]) -> JoinedValues:
    """Join the values of a poll; a tombstone (``None``) has no bytes."""
    present = [value or b"" for value in values]
    lengths = np.fromiter(map(len, present), np.int64, len(present))
    stops = np.cumsum(lengths)
    return JoinedValues(b"".join((*present, PAD)), stops - lengths, stops)


def parse_frames(
    values: Sequence[bytes | None],
    joined: JoinedValues,
    reader: AvroSchema,
    writers: WriterSchemas,
    headers: HeadersOfRows,
) -> tuple[list[FramedRows], Rejections]:
    """Find the writer schema of each value.

    Args:
        values: The values of the poll batch; ``None`` is a tombstone.
        joined: The same values, joined.
        reader: The reader's own schema, known without a look-up.
        writers: Finds other schemas.
        headers: Returns the headers of rows; not called for rows in single-object encoding.

    Returns:
        Every row once: with its writer schema, or rejected.
    """
    data, starts, stops = joined
    lengths = stops - starts

    def by_fingerprint(number: np.uint64) -> AvroSchema | None:
        fingerprint = number.tobytes()
        return reader if fingerprint in reader.fingerprints else writers.by_fingerprint(fingerprint)

    single = (lengths >= SINGLE_OBJECT_HEADER_BYTES) & starts_with(SINGLE_OBJECT_MARKER, data, starts)
    framed, unknown = _find_schemas(
        np.flatnonzero(single),
        SINGLE_OBJECT_HEADER_BYTES,
        _encode_ids(unaligned_view(data, "<u8")[starts[single] + len(SINGLE_OBJECT_MARKER)]),
        by_fingerprint,
        lambda fingerprint: f"No schema with fingerprint {int(fingerprint):016x} is known.",
    )
    if single.all():
        return framed, unknown
    in_headers = _schema_id_headers(np.flatnonzero(~single & (lengths > 0)).tolist(), headers)
    by_id: list[FramedRows] = []
    unknown_ids: list[Rejections] = []
    is_framed = single
    if writers.reads_confluent:
        bare = np.zeros(len(values), np.bool_)
        bare[list(in_headers)] = True
        confluent = (lengths >= CONFLUENT_HEADER_BYTES) & starts_with(CONFLUENT_MARKER, data, starts)
        confluent &= ~bare
        is_framed = single | bare | confluent
        ids = _encode_ids(unaligned_view(data, ">u4")[starts[confluent] + len(CONFLUENT_MARKER)]).map(int)
        for rows, header_bytes, column in (
            (np.flatnonzero(confluent), CONFLUENT_HEADER_BYTES, ids),
            (np.flatnonzero(bare), 0, DictionaryColumn.encode(in_headers.values())),
        ):
            found, not_found = _find_schemas(rows, header_bytes, column, writers.by_id, _unknown_id)
            by_id += found
            unknown_ids.append(not_found)
    unframed = _reject_unframed(values, np.flatnonzero(~is_framed), in_headers, writers)
    return [*framed, *by_id], Rejections.merged([unknown, *unknown_ids, unframed])


def _schema_id_headers(rows: list[int], headers: HeadersOfRows) -> dict[int, RegistryId]:
    """Return the id or GUID of the rows that name their schema in a header, sorted by row."""
    with_headers = [(row, names) for row, names in zip(rows, headers(rows), strict=True) if names]
    return {
        row: schema_id
        for row, names in with_headers
        for name, value in names
        if name == SCHEMA_ID_HEADER and (schema_id := parse_schema_id_header(value)) is not None
    }


def _find_schemas(
    rows: IntArray,
    header_bytes: int,
    ids: DictionaryColumn[Any],
    find: Callable[[Any], AvroSchema | UnusableSchema | None],
    unknown: Callable[[Any], str],
) -> tuple[list[FramedRows], Rejections]:
    """Look up each distinct id once, and reject the rows of unknown ones."""
    schemas = ids.map(find)
    framed = [
        FramedRows(schema, rows[schemas.indices == k], header_bytes)
        for k, schema in enumerate(schemas.dictionary)
        if isinstance(schema, AvroSchema)
    ]
    is_unknown = np.array([not isinstance(schema, AvroSchema) for schema in schemas.dictionary], np.bool_)
    unknown_rows = np.flatnonzero(is_unknown[schemas.indices])
    reasons = [
        Reason(
            Code.UNKNOWN_SCHEMA,
            f"The schema with {_id_text(schema_id)} cannot be used: {schema.reason}."
            if isinstance(schema, UnusableSchema)
            else unknown(schema_id),
        )
        for schema_id, schema in zip(ids.dictionary, schemas.dictionary, strict=True)
    ]
    return framed, Rejections.without_event(
        rows[unknown_rows], DictionaryColumn(reasons, ids.indices[unknown_rows])
    )


def _unknown_id(schema_id: RegistryId) -> str:
    return f"The schema registry has no schema with {_id_text(schema_id)}."


def _id_text(schema_id: RegistryId) -> str:
    return f"{'GUID' if isinstance(schema_id, UUID) else 'id'} {schema_id}"


def _encode_ids(ids: NDArray[Any]) -> DictionaryColumn[Any]:
    """Dictionary-encode ids. Nearly all equal the first, so only the others are sorted.

    >>> column = _encode_ids(np.array([7, 7, 9, 7, 3]))
    >>> [int(n) for n in column.dictionary], column.indices
    ([7, 3, 9], array([0, 0, 2, 0, 1]))
    """
    others = np.flatnonzero(ids != ids[:1])
    distinct, inverse = np.unique(ids[others], return_inverse=True)
    indices = np.zeros(len(ids), np.int64)
    indices[others] = inverse + 1
    return DictionaryColumn([*ids[:1], *distinct], indices)


def _reject_unframed(
    values: Sequence[bytes | None],
    rows: IntArray,
    in_headers: Mapping[int, RegistryId],
    writers: WriterSchemas,
) -> Rejections:
    """Reject tombstones and values that start with no known frame."""
    reasons = [_unframed(values[row], writers, has_id=row in in_headers) for row in rows.tolist()]
    return Rejections.without_event(rows, DictionaryColumn.encode(reasons))


def _unframed(value: bytes | None, writers: WriterSchemas, *, has_id: bool) -> Reason:
    if value is None:
        return Reason(Code.TOMBSTONE, "The record has no value (a tombstone).")
    if has_id:
        detail = f"The header {SCHEMA_ID_HEADER} names the schema, but no schema registry is set."
    elif value.startswith(CONFLUENT_MARKER) and not writers.reads_confluent:
        detail = "The value is in Confluent framing, but no schema registry is set."
    else:
        shown = value[:_SHOWN_BYTES].hex(" ") or "nothing"
        size = "1 byte" if len(value) == 1 else f"{len(value)} bytes"
        detail = f"The value ({size}, starting with {shown}) has no complete Avro frame."
    return Reason(Code.UNKNOWN_FRAMING, detail)
