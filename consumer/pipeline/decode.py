"""Decode framed values to columns of records in the reader's encoding; reject what cannot be decoded.

Most records were written with the reader's own schema and are decoded in place. A record of another
writer schema is first converted to the reader's encoding, one by one, so that every later stage
handles one encoding only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from consumer.columnar.arrays import DictionaryColumn, IntArray, select_rows
from consumer.columnar.avro import PAD, Columns, decode_columns, field_plan
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.framing import (
    FramedRows,
    HeadersOfRows,
    JoinedValues,
    WriterSchemas,
    join_values,
    parse_frames,
)
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejection, Rejections
from consumer.pipeline.resolution import Converted, Resolution, ResolutionError
from consumer.pipeline.walk import DecodeError, explain_decode_error
from schemas.avro import AvroSchema

_MAX_RESOLUTIONS: Final = 1000
"""The largest number of writer schemas whose resolution is kept."""


class Records(NamedTuple):
    """Records in the reader's encoding, not yet decoded.

    Attributes:
        data: The buffer, ended by :data:`PAD`.
        rows: Row numbers, sorted, int64 (m,).
        starts: The start of each record, int64 (m,).
        stops: The position where each record must stop, int64 (m,).
        nulls: The rows in which a field is null, by field name.
    """

    data: bytes
    rows: IntArray
    starts: IntArray
    stops: IntArray
    nulls: dict[str, list[int]]


class Decoder:
    """Decodes record batches with one reader schema.

    Args:
        reader: The schema to decode to.
        writers: Finds the schemas that the records were written with.
        keep_nulls: Whether fields may be null (:attr:`RecordBatch.nulls`). By default a record in which a
            field is null is undecodable, since our schemas have no nullable field.
    """

    def __init__(self, reader: AvroSchema, writers: WriterSchemas, *, keep_nulls: bool = False) -> None:
        self._reader = reader
        self._writers = writers
        self._keep_nulls = keep_nulls
        self._fields = field_plan(reader.parsed)
        self._resolutions: dict[str, Resolution] = {}

    def decode(
        self, values: Sequence[bytes | None], headers: HeadersOfRows = lambda rows: [[] for _ in rows]
    ) -> tuple[RecordBatch, Rejections]:
        """Decode the values of one poll.

        1. Parse the frames: where does each record start, and which schema wrote it?
        2. Resolve the writer schemas: convert records of other schemas to the reader's encoding.
        3. Decode the records, which now all have one encoding, to columns.

        Args:
            values: Record values; ``None`` is a tombstone.
            headers: Returns the headers of rows, which may name the schema.

        Returns:
            The records that could be decoded, and a rejection for every other row.
        """
        joined = join_values(values)
        framed, unframed = parse_frames(values, joined, self._reader, self._writers, headers)
        records, unresolved = self._resolve(joined, framed)
        batch, malformed = self._decode(records)
        return batch, Rejections.merged([unframed, unresolved, malformed])

    def _resolve(self, joined: JoinedValues, framed: Sequence[FramedRows]) -> tuple[Records, Rejections]:
        """Locate the records that are in the reader's encoding, and convert the others to it."""
        data, starts, stops = joined
        parts: list[tuple[IntArray, IntArray, IntArray]] = []
        converted: list[bytes] = []
        converted_rows: list[int] = []
        nulls: dict[str, list[int]] = {}
        rejections: list[Rejection] = []
        for schema, rows, header_bytes in framed:
            resolution = self._resolution(schema)
            if resolution.is_identity:
                parts.append((rows, select_rows(starts, rows) + header_bytes, select_rows(stops, rows)))
                continue
            for row in rows.tolist():
                record = self._convert(schema, resolution, data[starts[row] + header_bytes : stops[row]])
                if isinstance(record, Reason):
                    rejections.append(Rejection(row, *record))
                    continue
                converted.append(record.data)
                converted_rows.append(row)
                for name in record.nulls:
                    nulls.setdefault(name, []).append(row)
        if converted:
            appended_stops = len(data) + np.cumsum([len(record) for record in converted])
            appended_starts = np.concatenate([[len(data)], appended_stops[:-1]])
            parts.append((np.array(converted_rows), appended_starts, appended_stops))
            data = b"".join((data, *converted, PAD))
        return Records(data, *_in_row_order(parts), nulls), Rejections.of(rejections)

    def _resolution(self, writer: AvroSchema) -> Resolution:
        resolution = self._resolutions.get(writer.identity)
        if resolution is None:
            if len(self._resolutions) >= _MAX_RESOLUTIONS:
                self._resolutions.clear()
            resolution = self._resolutions[writer.identity] = Resolution(writer, self._reader)
        return resolution

    def _convert(self, writer: AvroSchema, resolution: Resolution, record: bytes) -> Converted | Reason:
        """Convert a record to the reader's encoding, or return why that is impossible."""
        try:
            converted = resolution.convert(record)
        except ResolutionError as error:
            return Reason(Code.UNDECODABLE, f"{writer.name} cannot be read as {self._reader.name}: {error}.")
        except DecodeError as error:
            return _undecodable(writer, str(error))
        if converted.stop != len(record):
            return _trailing_bytes(len(record) - converted.stop)
        if converted.nulls and not self._keep_nulls:
            kinds = dict(self._fields)
            problems = [f"{name}: null where a {kinds[name]} is needed" for name in converted.nulls]
            return _undecodable(writer, "; ".join(problems))
        return converted

    def _decode(self, records: Records) -> tuple[RecordBatch, Rejections]:
        """Decode records to columns; reject those that are malformed or followed by other bytes."""
        columns = decode_columns(self._fields, records.data, records.starts, records.stops)
        nulls = {name: np.isin(records.rows, rows) for name, rows in records.nulls.items()}
        batch = RecordBatch.of_columns(records.rows, columns, nulls)
        bad = columns.malformed | columns.trailing
        if not bad.any():
            return batch, NONE_REJECTED
        rejections = [_reject_trailing(records, columns), *self._reject_malformed(records, columns)]
        return batch.select_rows(np.flatnonzero(~bad)), Rejections.merged(rejections)

    def _reject_malformed(self, records: Records, columns: Columns) -> tuple[Rejections, Rejections]:
        """Reject malformed records. Those that end early in the same field share a reason."""

        def reasons(indexes: Iterable[int]) -> list[Reason]:
            bodies = [records.data[records.starts[i] : records.stops[i]] for i in indexes]
            return [_undecodable(self._reader, explain_decode_error(self._reader, body)) for body in bodies]

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
    follow = "1 byte follows" if n_bytes == 1 else f"{n_bytes} bytes follow"
    return Reason(Code.TRAILING_BYTES, f"{follow} the record.")
