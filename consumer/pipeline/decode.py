"""Decode framed values to columns of records in the reader's encoding; reject what cannot be decoded.

Most records were written with the reader's own schema and are decoded in place. A record of another
writer schema is first converted to the reader's encoding, one by one, so that every later stage
handles one encoding only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from consumer.columnar.arrays import IntArray, select_rows
from consumer.columnar.avro import PAD, Columns, decode_columns, field_plan
from consumer.columnar.dictionary import DictionaryColumn
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.framing import FramedRows, JoinedValues, WriterSchemas, join_values, parse_frames
from consumer.pipeline.rejections import Code, Reason, Rejection, Rejections
from consumer.pipeline.resolution import DecodeError, Resolution, explain_decode_error, named_types
from schemas.repository import AvroSchema


class Records(NamedTuple):
    """Records in the reader's encoding, not yet decoded.

    Attributes:
        data: the buffer, ended by :data:`PAD`.
        rows: int64 (m,), sorted.
        starts: int64 (m,), where each record starts.
        stops: int64 (m,), where each record must stop.
    """

    data: bytes
    rows: IntArray
    starts: IntArray
    stops: IntArray


class Decoder:
    """Decodes record batches with one reader schema.

    Args:
        reader: the schema to decode to.
        writers: finds the schemas that the records were written with.
    """

    def __init__(self, reader: AvroSchema, writers: WriterSchemas) -> None:
        self._reader = reader
        self._writers = writers
        self._fields = field_plan(reader.parsed)
        self._named = named_types(reader.parsed)
        self._resolutions: dict[str, Resolution] = {}

    def decode(self, values: Sequence[bytes | None]) -> tuple[RecordBatch, Rejections]:
        """Decode the values of one poll.

        1. Parse the frames: where does each record start, and which schema wrote it?
        2. Resolve the writer schemas: convert records of other schemas to the reader's encoding.
        3. Decode the records, which now all have one encoding, to columns.

        Args:
            values: record values; ``None`` is a tombstone.

        Returns:
            The records that could be decoded, and a rejection for every other row.
        """
        joined = join_values(values)
        framed, unframed = parse_frames(values, joined, self._reader, self._writers)
        records, unresolved = self._resolve(joined, framed)
        batch, malformed = self._decode(records)
        return batch, Rejections.merged([unframed, unresolved, malformed])

    def _resolve(self, joined: JoinedValues, framed: Sequence[FramedRows]) -> tuple[Records, Rejections]:
        """Locate the records of the reader's own schema, and convert those of other schemas."""
        data, starts, stops = joined
        own = [frame for frame in framed if frame.schema.canonical == self._reader.canonical]
        parts = [
            (frame.rows, select_rows(starts, frame.rows) + frame.header_bytes, select_rows(stops, frame.rows))
            for frame in own
        ]
        converted: list[bytes] = []
        converted_rows: list[int] = []
        rejections: list[Rejection] = []
        for frame in framed:
            if frame.schema.canonical == self._reader.canonical:
                continue
            for row in frame.rows.tolist():
                record = self._convert(frame.schema, data[starts[row] + frame.header_bytes : stops[row]])
                if isinstance(record, Reason):
                    rejections.append(Rejection(row, *record))
                else:
                    converted.append(record)
                    converted_rows.append(row)
        if converted:
            appended_stops = len(data) + np.cumsum([len(record) for record in converted])
            appended_starts = np.concatenate([[len(data)], appended_stops[:-1]])
            parts.append((np.array(converted_rows), appended_starts, appended_stops))
            data = b"".join((data, *converted, PAD))
        return Records(data, *_in_row_order(parts)), Rejections.of(rejections)

    def _convert(self, writer: AvroSchema, record: bytes) -> bytes | Reason:
        """Convert a record to the reader's encoding, or return why that is impossible."""
        resolution = self._resolutions.get(writer.canonical)
        if resolution is None:
            resolution = self._resolutions[writer.canonical] = Resolution(writer.parsed, self._reader.parsed)
        try:
            converted, n_bytes = resolution.convert(record)
        except DecodeError as error:
            return _undecodable(writer, str(error))
        return converted if n_bytes == len(record) else _trailing_bytes(len(record) - n_bytes)

    def _decode(self, records: Records) -> tuple[RecordBatch, Rejections]:
        """Decode records to columns; reject those that are malformed or followed by other bytes."""
        data, rows, starts, stops = records
        columns = decode_columns(self._fields, data, starts, stops)
        batch = RecordBatch.of_columns(rows, columns)
        bad = columns.malformed | columns.trailing
        if not bad.any():
            return batch, Rejections.merged(())
        rejections = [_reject_trailing(records, columns), *self._reject_malformed(records, columns)]
        return batch.select_rows(np.flatnonzero(~bad)), Rejections.merged(rejections)

    def _reject_malformed(self, records: Records, columns: Columns) -> tuple[Rejections, Rejections]:
        """Reject malformed records. Those that end early in the same field share a reason."""

        def reasons(indexes: Iterable[int]) -> list[Reason]:
            bodies = [records.data[records.starts[i] : records.stops[i]] for i in indexes]
            schema = self._reader.parsed
            return [
                _undecodable(self._reader, explain_decode_error(schema, self._named, body)) for body in bodies
            ]

        early = np.flatnonzero(columns.ended_in >= 0)
        _, examples, indices = np.unique(columns.ended_in[early], return_index=True, return_inverse=True)
        others = np.flatnonzero(columns.malformed & (columns.ended_in < 0))
        return (
            Rejections.without_event(
                records.rows[early], DictionaryColumn(reasons(early[examples].tolist()), indices)
            ),
            Rejections.without_event(
                records.rows[others], DictionaryColumn(reasons(others.tolist()), np.arange(len(others)))
            ),
        )


def _in_row_order(
    parts: Sequence[tuple[IntArray, IntArray, IntArray]],
) -> tuple[IntArray, IntArray, IntArray]:
    """Merge parts of (rows, starts, stops), sorted by row."""
    nowhere = np.empty(0, np.int64)
    rows, starts, stops = (np.concatenate(columns) for columns in zip((nowhere,) * 3, *parts, strict=True))
    order = np.argsort(rows, kind="stable")  # the fastest kind for rows that are nearly sorted
    return rows[order], starts[order], stops[order]


def _reject_trailing(records: Records, columns: Columns) -> Rejections:
    """Reject records that are followed by other bytes."""
    trailing = np.flatnonzero(columns.trailing)
    n_bytes = records.stops[trailing] - columns.starts[trailing, -1]
    distinct, indices = np.unique(n_bytes, return_inverse=True)
    reasons = [_trailing_bytes(n) for n in distinct.tolist()]
    return Rejections.without_event(records.rows[trailing], DictionaryColumn(reasons, indices))


def _undecodable(writer: AvroSchema, reason: str) -> Reason:
    return Reason(Code.UNDECODABLE, f"Not a record of {writer.name}: {reason}.")


def _trailing_bytes(n_bytes: int) -> Reason:
    return Reason(Code.TRAILING_BYTES, f"{n_bytes} bytes follow the record.")
