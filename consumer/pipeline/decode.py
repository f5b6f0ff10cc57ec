"""Framed bytes → columns of events in the reader's encoding; what cannot be read is rejected.

The usual event was written with the reader's own schema and is decoded where it lies. A record of
another writer schema is first brought into the reader's encoding, one by one, so that everything after
this module knows one encoding only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.columnar.avro import PAD, Columns, decode_columns, field_plan
from consumer.columnar.text import starts_with
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.framing import FramedRows, WriterSchemas, parse_frames
from consumer.pipeline.rejections import Code, Reason, Rejection, Rejections
from consumer.pipeline.resolution import DecodeError, Resolution, explain_decode_error, named_types
from schemas.framing import SINGLE_OBJECT_HEADER_BYTES, single_object_header
from schemas.repository import AvroSchema


class Decoder:
    """Decodes event batches with one reader schema.

    Args:
        reader: the schema that events are wanted in.
        writers: where the schemas come from that they were written with.
    """

    def __init__(self, reader: AvroSchema, writers: WriterSchemas) -> None:
        self._reader = reader
        self._writers = writers
        self._fields = field_plan(reader.parsed)
        self._named = named_types(reader.parsed)
        self._own_header = single_object_header(reader.fingerprint)
        self._resolutions: dict[str, Resolution] = {}

    def decode(self, values: Sequence[bytes | None]) -> tuple[RecordBatch, Rejections]:
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
        begins = ends - lengths
        ours = _has_header(self._own_header, data, begins, lengths)
        begins[ours] += SINGLE_OBJECT_HEADER_BYTES

        rejected: list[Rejections] = []
        rows = np.arange(n)
        if not ours.all():
            others = np.flatnonzero(~ours)
            written, rejected = parse_frames(values, data, others, begins[others], self._writers)
            foreign = []
            for one in written:
                if one.schema.canonical == self._reader.canonical:
                    begins[one.rows] += one.header_bytes
                else:
                    foreign.append(one)
            if foreign:
                data, malformed = self._convert(values, data, begins, ends, foreign)
                rejected.append(malformed)
            keep = np.ones(n, np.bool_)
            keep[np.concatenate([part.rows for part in rejected])] = False
            rows, begins, ends = rows[keep], begins[keep], ends[keep]
        columns = decode_columns(self._fields, data, begins, ends)
        bad = columns.malformed | columns.trailing
        events = RecordBatch(rows, columns.data, columns.starts, columns.numbers, columns.texts)
        if bad.any():
            events = events.select(np.flatnonzero(~bad))
            rejected += [
                _trailing(rows, columns, ends),
                *self._malformed(rows, columns, begins, ends),
            ]
        return events, Rejections.merged(rejected)

    def _convert(
        self,
        values: Sequence[bytes | None],
        data: bytes,
        begins: IntArray,
        ends: IntArray,
        foreign: Sequence[FramedRows],
    ) -> tuple[bytes, Rejections]:
        """Append records of other schemas to the padded buffer, in the reader's encoding."""
        rejections: list[Rejection] = []
        extra: list[bytes] = []
        at = len(data)
        for schema, rows, header_bytes in foreign:
            for row in rows.tolist():
                record = self._converted(schema, (values[row] or b"")[header_bytes:])
                if isinstance(record, Reason):
                    rejections.append(Rejection(row, *record))
                    continue
                extra.append(record)
                begins[row], ends[row] = at, at + len(record)
                at += len(record)
        return b"".join((data, *extra, PAD)), Rejections.of(rejections)

    def _converted(self, writer: AvroSchema, record: bytes) -> bytes | Reason:
        """Bring a record into the reader's encoding, or say why that cannot be."""
        try:
            converted, used = self._resolution(writer).convert(record)
        except DecodeError as malformed:
            return _undecodable(writer, str(malformed))
        return converted if used == len(record) else _bytes_follow(len(record) - used)

    def _resolution(self, writer: AvroSchema) -> Resolution:
        resolution = self._resolutions.get(writer.canonical)
        if resolution is None:
            resolution = self._resolutions[writer.canonical] = Resolution(writer.parsed, self._reader.parsed)
        return resolution

    def _malformed(
        self, rows: IntArray, columns: Columns, begins: IntArray, ends: IntArray
    ) -> tuple[Rejections, Rejections]:
        """Reject records that break the encoding: those that end early in the same field say the same."""

        def why(indexes: IntArray) -> list[Reason]:
            schema, spans = self._reader.parsed, zip(begins[indexes], ends[indexes], strict=True)
            return [
                _undecodable(self._reader, explain_decode_error(schema, self._named, columns.data[begin:end]))
                for begin, end in spans
            ]

        early = np.flatnonzero(columns.ended_in >= 0)
        _, examples, which = np.unique(columns.ended_in[early], return_index=True, return_inverse=True)
        others = np.flatnonzero(columns.malformed & (columns.ended_in < 0))
        return (
            Rejections.without_event(rows[early], which, why(early[examples])),
            Rejections.without_event(rows[others], np.arange(len(others)), why(others)),
        )


def _has_header(header: bytes, data: bytes, begins: IntArray, lengths: IntArray) -> NDArray[np.bool_]:
    """Tell which values begin with these 10 bytes: one compare of 8 bytes and one of 2."""
    same = starts_with(header[:8], data, begins) & starts_with(header[8:], data, begins + 8)
    return same & (lengths >= len(header))


def _trailing(rows: IntArray, columns: Columns, ends: IntArray) -> Rejections:
    """Reject records with bytes left over."""
    trailing = np.flatnonzero(columns.trailing)
    n_bytes, which = np.unique(ends[trailing] - columns.starts[trailing, -1], return_inverse=True)
    return Rejections.without_event(rows[trailing], which, [_bytes_follow(n) for n in n_bytes.tolist()])


def _undecodable(writer: AvroSchema, reason: str) -> Reason:
    return Reason(Code.UNDECODABLE, f"Not a record of {writer.name}: {reason}.")


def _bytes_follow(n_bytes: int) -> Reason:
    return Reason(Code.TRAILING_BYTES, f"{n_bytes} bytes follow the record.")
