"""Framed values → where each record begins and which schema it was written with.

The values of a batch have few frames between them. So each is looked up once, and what is said of one
value goes for all that are framed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
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
    """Where writer schemas come from. May raise for an outage, which fails the whole batch."""

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Return the schema with this registry id."""

    @property
    def reads_confluent(self) -> bool:
        """Whether registry ids can be looked up at all."""


class FramedRows(NamedTuple):
    """Values whose records were written with one schema.

    Attributes:
        schema: the writer's.
        rows: int64 (k,), their indexes in the poll batch.
        header_bytes: how far into the value the record begins.
    """

    schema: AvroSchema
    rows: IntArray
    header_bytes: int


def parse_frames(
    values: Sequence[bytes | None], data: bytes, rows: IntArray, begins: IntArray, writers: WriterSchemas
) -> tuple[list[FramedRows], list[Rejections]]:
    """Look at the frames of some values.

    Args:
        values: the values of the poll batch; ``None`` is a tombstone.
        data: the values end to end, and at least 10 bytes more.
        rows: int64 (k,), which values to look at.
        begins: int64 (k,), where each of those begins in ``data``.
        writers: where schemas come from.

    Returns:
        Every row once, by the schema that it was written with, or rejected.
    """
    some = [values[row] for row in rows.tolist()]
    lengths = np.array([-1 if value is None else len(value) for value in some], np.int64)
    single = (lengths >= SINGLE_OBJECT_HEADER_BYTES) & starts_with(SINGLE_OBJECT_MARKER, data, begins)
    confluent = (lengths >= CONFLUENT_HEADER_BYTES) & starts_with(CONFLUENT_MARKER, data, begins)
    if not writers.reads_confluent:
        confluent[:] = False
    tombstones = lengths < 0
    unknown = np.flatnonzero(~(single | confluent | tombstones))
    fingerprints = unaligned_view(data, "<u8")[begins[single] + len(SINGLE_OBJECT_MARKER)]
    ids = unaligned_view(data, ">u4")[begins[confluent] + len(CONFLUENT_MARKER)]
    by_fingerprint = _by_schema(
        rows[single],
        SINGLE_OBJECT_HEADER_BYTES,
        fingerprints,
        lambda fingerprint: writers.by_fingerprint(fingerprint.tobytes()),
        lambda fingerprint: f"No schema with fingerprint {int(fingerprint):016x} is known.",
    )
    by_id = _by_schema(
        rows[confluent],
        CONFLUENT_HEADER_BYTES,
        ids,
        lambda schema_id: writers.by_id(int(schema_id)),
        lambda schema_id: f"The schema registry has no Avro record with id {schema_id}.",
    )
    return [*by_fingerprint[0], *by_id[0]], [
        _tombstones(rows[tombstones]),
        by_fingerprint[1],
        by_id[1],
        _unknown_framing(
            rows[unknown], [some[i] or b"" for i in unknown.tolist()], confluent=writers.reads_confluent
        ),
    ]


def _by_schema(
    rows: IntArray,
    header_bytes: int,
    ids: NDArray[Any],
    find: Callable[[Any], AvroSchema | None],
    unknown: Callable[[Any], str],
) -> tuple[list[FramedRows], Rejections]:
    """Look each different id up once; reject the rows of those that nobody knows."""
    distinct, which = np.unique(ids, return_inverse=True)
    schemas = [find(number) for number in distinct]
    written = [
        FramedRows(schema, rows[which == k], header_bytes)
        for k, schema in enumerate(schemas)
        if schema is not None
    ]
    is_unknown = np.array([schema is None for schema in schemas], np.bool_)[which]
    reasons = [Reason(Code.UNKNOWN_SCHEMA, unknown(number)) for number in distinct]
    return written, Rejections.without_event(rows[is_unknown], which[is_unknown], reasons)


def _tombstones(rows: IntArray) -> Rejections:
    reason = Reason(Code.TOMBSTONE, "The record has no value (a tombstone).")
    return Rejections.without_event(rows, np.zeros(len(rows), np.int64), [reason])


def _unknown_framing(rows: IntArray, values: Sequence[bytes], *, confluent: bool) -> Rejections:
    """Reject values whose first bytes are no framing that is read here."""
    looks = [(value[:_SHOWN_BYTES], len(value)) for value in values]
    distinct = {look: k for k, look in enumerate(dict.fromkeys(looks))}
    reasons = [
        Reason(Code.UNKNOWN_FRAMING, _framing_detail(start, n_bytes, confluent=confluent))
        for start, n_bytes in distinct
    ]
    return Rejections.without_event(rows, np.array([distinct[look] for look in looks], np.int64), reasons)


def _framing_detail(start: bytes, n_bytes: int, *, confluent: bool) -> str:
    if start.startswith(CONFLUENT_MARKER) and not confluent:
        return "The value is in Confluent framing, but no schema registry is set."
    shown = start.hex(" ") or "nothing"
    return f"The value ({n_bytes} bytes, starting with {shown}) has no complete Avro frame."
