"""Parse frames: find where each record starts, and which schema it was written with.

The values of a batch have few different frames, so each frame is looked up once, and one reason serves
all values that are framed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.columnar.avro import PAD
from consumer.columnar.dictionary import DictionaryColumn
from consumer.columnar.text import starts_with, unaligned_view
from consumer.pipeline.rejections import Code, Reason, Rejections
from schemas.framing import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
)
from schemas.repository import AvroSchema

_SHOWN_BYTES: Final = 2


class WriterSchemas(Protocol):
    """Finds writer schemas. A look-up may raise for an outage, which fails the whole batch."""

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Return the schema with this registry id."""

    @property
    def reads_confluent(self) -> bool:
        """Whether registry ids can be looked up."""


class JoinedValues(NamedTuple):
    """The n values of a poll in one buffer.

    Attributes:
        data: the values end to end, then :data:`PAD`.
        starts: int64 (n,), where each value starts.
        stops: int64 (n,), where each value stops.
    """

    data: bytes
    starts: IntArray
    stops: IntArray


class FramedRows(NamedTuple):
    """Rows whose records were written with one schema.

    Attributes:
        schema: the writer's schema.
        rows: int64 (k,), sorted.
        header_bytes: the length of the frame's header; the record follows it.
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
    values: Sequence[bytes | None], joined: JoinedValues, reader: AvroSchema, writers: WriterSchemas
) -> tuple[list[FramedRows], Rejections]:
    """Find the writer schema of each value.

    Args:
        values: the values of the poll batch; ``None`` is a tombstone.
        joined: the same values, joined.
        reader: the reader's own schema, known without a look-up.
        writers: finds other schemas.

    Returns:
        Every row once: with its writer schema, or rejected.
    """
    data, starts, stops = joined
    lengths = stops - starts

    def by_fingerprint(number: np.uint64) -> AvroSchema | None:
        fingerprint = number.tobytes()
        return reader if fingerprint == reader.fingerprint else writers.by_fingerprint(fingerprint)

    single = (lengths >= SINGLE_OBJECT_HEADER_BYTES) & starts_with(SINGLE_OBJECT_MARKER, data, starts)
    framed, rejected = _find_schemas(
        np.flatnonzero(single),
        SINGLE_OBJECT_HEADER_BYTES,
        unaligned_view(data, "<u8")[starts[single] + len(SINGLE_OBJECT_MARKER)],
        by_fingerprint,
        lambda fingerprint: f"No schema with fingerprint {int(fingerprint):016x} is known.",
    )
    if single.all():
        return framed, rejected
    confluent = np.zeros(len(values), np.bool_)
    if writers.reads_confluent:
        confluent = (lengths >= CONFLUENT_HEADER_BYTES) & starts_with(CONFLUENT_MARKER, data, starts)
    by_id, unknown_ids = _find_schemas(
        np.flatnonzero(confluent),
        CONFLUENT_HEADER_BYTES,
        unaligned_view(data, ">u4")[starts[confluent] + len(CONFLUENT_MARKER)],
        lambda schema_id: writers.by_id(int(schema_id)),
        lambda schema_id: f"The schema registry has no Avro record with id {schema_id}.",
    )
    unframed = _reject_unframed(values, np.flatnonzero(~(single | confluent)), writers)
    return [*framed, *by_id], Rejections.merged([rejected, unknown_ids, unframed])


def _find_schemas(
    rows: IntArray,
    header_bytes: int,
    ids: NDArray[Any],
    find: Callable[[Any], AvroSchema | None],
    unknown: Callable[[Any], str],
) -> tuple[list[FramedRows], Rejections]:
    """Look each distinct id up once, and reject the rows of unknown ones."""
    if not len(rows):
        return [], Rejections.merged(())
    column = _encode_ids(ids)
    schemas = column.map(find)
    framed = [
        FramedRows(schema, rows[schemas.indices == k], header_bytes)
        for k, schema in enumerate(schemas.dictionary)
        if schema is not None
    ]
    is_unknown = np.array([schema is None for schema in schemas.dictionary], np.bool_)
    unknown_rows = np.flatnonzero(is_unknown[schemas.indices])
    reasons = column.map(lambda number: Reason(Code.UNKNOWN_SCHEMA, unknown(number)))
    return framed, Rejections.without_event(rows[unknown_rows], reasons.select_rows(unknown_rows))


def _encode_ids(ids: NDArray[Any]) -> DictionaryColumn[Any]:
    """Dictionary-encode ids. Nearly all equal the first, so only the others are sorted.

    >>> column = _encode_ids(np.array([7, 7, 9, 7, 3]))
    >>> [int(n) for n in column.dictionary], column.indices
    ([7, 3, 9], array([0, 0, 2, 0, 1]))
    """
    others = np.flatnonzero(ids != ids[0])
    distinct, inverse = np.unique(ids[others], return_inverse=True)
    indices = np.zeros(len(ids), np.int64)
    indices[others] = inverse + 1
    return DictionaryColumn([ids[0], *distinct], indices)


def _reject_unframed(values: Sequence[bytes | None], rows: IntArray, writers: WriterSchemas) -> Rejections:
    """Reject tombstones and values that start with no known frame; values that start alike share a reason."""
    unframed = [values[row] for row in rows.tolist()]
    starts = [None if value is None else (value[:_SHOWN_BYTES], len(value)) for value in unframed]
    distinct = {start: k for k, start in enumerate(dict.fromkeys(starts))}
    reasons = [_unframed(*start, writers) if start else _TOMBSTONE for start in distinct]
    indices = np.array([distinct[start] for start in starts], np.int64)
    return Rejections.without_event(rows, DictionaryColumn(reasons, indices))


_TOMBSTONE: Final = Reason(Code.TOMBSTONE, "The record has no value (a tombstone).")


def _unframed(start: bytes, n_bytes: int, writers: WriterSchemas) -> Reason:
    if start.startswith(CONFLUENT_MARKER) and not writers.reads_confluent:
        detail = "The value is in Confluent framing, but no schema registry is set."
    else:
        shown = start.hex(" ") or "nothing"
        detail = f"The value ({n_bytes} bytes, starting with {shown}) has no complete Avro frame."
    return Reason(Code.UNKNOWN_FRAMING, detail)
