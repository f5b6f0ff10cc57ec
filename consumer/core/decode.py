"""Framed bytes → columns of events in the reader's encoding; what cannot be read is rejected.

The usual event is framed with the reader's own schema and is decoded where it lies. Any other
framing is looked at row by row; a record of another writer schema is first brought into the
reader's encoding, so that everything after this module knows one encoding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.core.batch import Code, EventBatch, IntArray, Rejection
from consumer.core.columns import PAD, Columns, decode_columns, plan
from consumer.core.resolve import Malformed, Resolution, named_types, why_malformed
from consumer.core.spans import windows
from schemas.framing import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
    single_object_header,
)
from schemas.repository import AvroSchema

_FINGERPRINT: Final = slice(len(SINGLE_OBJECT_MARKER), SINGLE_OBJECT_HEADER_BYTES)


class WriterSchemas(Protocol):
    """Where writer schemas come from. May raise for an outage, which fails the whole batch."""

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Return the schema with this registry id."""

    @property
    def reads_confluent(self) -> bool:
        """Whether registry ids can be looked up at all."""


class Decoder:
    """Decodes event batches with one reader schema.

    Args:
        reader: the schema that events are wanted in.
        writers: where the schemas come from that they were written with.
    """

    def __init__(self, reader: AvroSchema, writers: WriterSchemas) -> None:
        self._reader = reader
        self._writers = writers
        self._fields = plan(reader.parsed)
        self._named = named_types(reader.parsed)
        self._own_header = single_object_header(reader.fingerprint)
        self._resolutions: dict[str, Resolution] = {}

    def decode(self, values: Sequence[bytes | None]) -> tuple[EventBatch, list[Rejection]]:
        """Decode the values of one poll.

        Args:
            values: record values; ``None`` is a tombstone.

        Returns:
            The events that could be decoded, and a rejection for every other row.
        """
        n = len(values)
        present = [value or b"" for value in values]
        data = b"".join((*present, PAD))
        lengths = np.fromiter(map(len, present), np.int64, n)
        ends = np.cumsum(lengths)
        begins = ends - lengths + SINGLE_OBJECT_HEADER_BYTES
        ours = _has_header(self._own_header, data, ends - lengths, lengths)

        rejections: list[Rejection] = []
        rows = np.arange(n)
        if not ours.all():
            data, begins, ends = self._convert_others(
                values, data, begins, ends, np.flatnonzero(~ours), rejections
            )
            keep = np.ones(n, np.bool_)
            keep[[rejection.row for rejection in rejections]] = False
            rows, begins, ends = rows[keep], begins[keep], ends[keep]
        columns = decode_columns(self._fields, data, begins, ends)
        bad = columns.malformed | columns.trailing
        if not bad.any():
            return _events(rows, columns), rejections
        for i in np.flatnonzero(bad).tolist():
            row, end = int(rows[i]), int(ends[i])
            if columns.trailing[i]:
                rejections.append(_trailing(row, end - int(columns.starts[i, -1])))
            else:
                reason = why_malformed(self._reader.parsed, self._named, data[int(begins[i]) : end])
                rejections.append(_undecodable(row, self._reader, reason))
        good = np.flatnonzero(~bad)
        return _events(rows, columns).select(good), sorted(rejections, key=lambda r: r.row)

    def _convert_others(
        self,
        values: Sequence[bytes | None],
        data: bytes,
        begins: IntArray,
        ends: IntArray,
        rows: IntArray,
        rejections: list[Rejection],
    ) -> tuple[bytes, IntArray, IntArray]:
        """Append the records of other framings to the padded buffer, in the reader's encoding."""
        extra: list[bytes] = []
        at = len(data)
        for row in rows.tolist():
            record = self._record(row, values[row])
            if isinstance(record, Rejection):
                rejections.append(record)
                continue
            extra.append(record)
            begins[row], ends[row] = at, at + len(record)
            at += len(record)
        return b"".join((data, *extra, PAD)), begins, ends

    def _record(self, row: int, value: bytes | None) -> bytes | Rejection:
        """Unframe one value that is not framed with the reader's own schema."""
        if value is None:
            return Rejection(row, Code.TOMBSTONE, "The record has no value (a tombstone).")
        if value.startswith(SINGLE_OBJECT_MARKER) and len(value) >= SINGLE_OBJECT_HEADER_BYTES:
            fingerprint = value[_FINGERPRINT]
            schema = self._writers.by_fingerprint(fingerprint)
            if schema is None:
                detail = f"No schema with fingerprint {fingerprint[::-1].hex()} is known."
                return Rejection(row, Code.UNKNOWN_SCHEMA, detail)
            return self._resolve(row, schema, value[SINGLE_OBJECT_HEADER_BYTES:])
        confluent = value.startswith(CONFLUENT_MARKER) and len(value) >= CONFLUENT_HEADER_BYTES
        if confluent and self._writers.reads_confluent:
            schema_id = int.from_bytes(value[1:CONFLUENT_HEADER_BYTES], "big")
            schema = self._writers.by_id(schema_id)
            if schema is None:
                return Rejection(
                    row, Code.UNKNOWN_SCHEMA, f"The schema registry has no Avro record with id {schema_id}."
                )
            return self._resolve(row, schema, value[CONFLUENT_HEADER_BYTES:])
        return Rejection(
            row, Code.UNKNOWN_FRAMING, _framing_detail(value, reads_confluent=self._writers.reads_confluent)
        )

    def _resolve(self, row: int, writer: AvroSchema, record: bytes) -> bytes | Rejection:
        """Bring a record into the reader's encoding."""
        if writer.canonical == self._reader.canonical:
            return record
        try:
            resolution = self._resolutions.get(writer.canonical)
            if resolution is None:
                resolution = self._resolutions[writer.canonical] = Resolution(
                    writer.parsed, self._reader.parsed
                )
            converted, used = resolution.convert(record)
        except Malformed as malformed:
            return _undecodable(row, writer, str(malformed))
        if used < len(record):
            return _trailing(row, len(record) - used)
        return converted


def _has_header(header: bytes, data: bytes, begins: IntArray, lengths: IntArray) -> NDArray[np.bool_]:
    """Tell which values begin with these 10 bytes: one compare of 8 bytes and one of 2."""
    first, last = windows(data, "<u8"), windows(data, "<u2")
    same: NDArray[np.bool_] = first[begins] == np.frombuffer(header, "<u8", 1)[0]
    same &= last[begins + 8] == np.frombuffer(header, "<u2", 1, 8)[0]
    same &= lengths >= len(header)
    return same


def _framing_detail(value: bytes, *, reads_confluent: bool) -> str:
    """Say why a value's first bytes are no framing that is read here."""
    if value.startswith(CONFLUENT_MARKER) and not reads_confluent:
        return "The value is in Confluent framing, but no schema registry is set."
    start = value[:2].hex(" ") or "nothing"
    return f"The value ({len(value)} bytes, starting with {start}) has no complete Avro frame."


def _undecodable(row: int, writer: AvroSchema, reason: str) -> Rejection:
    return Rejection(row, Code.UNDECODABLE, f"Not a record of {writer.name}: {reason}.")


def _trailing(row: int, n_bytes: int) -> Rejection:
    return Rejection(row, Code.TRAILING_BYTES, f"{n_bytes} bytes follow the record.")


def _events(rows: IntArray, columns: Columns) -> EventBatch:
    return EventBatch(rows, columns.data, columns.starts, columns.numbers, columns.texts)
