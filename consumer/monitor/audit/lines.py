"""Format committed predictions as audit log lines: one JSON object per prediction, in order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from consumer.columnar.arrays import DictionaryColumn, IntArray, select_rows
from consumer.columnar.json import JsonColumn, join_rows_flat, json_escaped, json_numbers, json_strings
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.pipeline.batch import NUMERIC_INPUT_FIELDS, RecordBatch

_YEAR_0001_MS: Final = -62_135_596_800_000
_YEAR_9999_END_MS: Final = 253_402_300_799_999
"""RFC 3339 years have four digits (section 5.6)."""


def audit_lines(
    predictions: RecordBatch,
    *,
    source_topic: str,
    output_topic: str,
    partitions: Sequence[int] | IntArray,
    offsets: Sequence[int] | IntArray,
    hasher: IdHasher | None = None,
) -> bytes:
    """Format one line per prediction.

    Every prediction gets a line: a number that is not finite becomes ``null``, and a time outside the
    years 1 to 9999, which RFC 3339 cannot express, stays a number of milliseconds.

    Args:
        predictions: Decoded predictions in the schema ``PurchasePrediction``.
        source_topic: The events topic.
        output_topic: The predictions topic.
        partitions: Output partition of each row of the batch.
        offsets: Output offset of each row of the batch.
        hasher: Hashes event ids and student ids; by default they are written as they are.

    Returns:
        One line per prediction in UTF-8, each with a line feed at its end.
    """
    m = len(predictions)
    if m == 0:
        return b""
    rows, columns = predictions.rows, predictions.numbers
    characters = predictions.data.decode("latin-1")

    def text(name: str) -> JsonColumn:
        return json_strings(predictions.data, characters, *predictions.span(name))

    def id_(name: str) -> JsonColumn:
        return text(name) if hasher is None else hasher.column(predictions.data, *predictions.span(name))

    pieces: list[JsonColumn] = [
        '{"timestamp_utc":', _times(columns["scored_at"]),
        ',"event_id":"', id_("event_id"),
        '","student_id":"', id_("student_id"),
        '","occurred_at":', _times(columns["occurred_at"]),
        ',"predicted_purchase_probability":', json_numbers(columns["predicted_purchase_probability"]),
        ',"predicted_purchase":', json_numbers(columns["predicted_purchase"]),
        ',"threshold":', json_numbers(columns["threshold"]),
        ',"model_version":"', text("model_version"),
        '","features":{"student_country":"', text("features.student_country"), '"',
    ]  # fmt: skip
    for name in NUMERIC_INPUT_FIELDS:
        pieces += [f',"{name}":', json_numbers(columns[f"features.{name}"])]
    pieces += [
        '},"source":{"topic":"', json_escaped(source_topic),
        '","partition":', json_numbers(columns["source_partition"]),
        ',"offset":', json_numbers(columns["source_offset"]),
        '},"output":{"topic":"', json_escaped(output_topic),
        '","partition":', json_numbers(select_rows(np.asarray(partitions, np.int64), rows)),
        ',"offset":', json_numbers(select_rows(np.asarray(offsets, np.int64), rows)),
        "}}\n",
    ]  # fmt: skip
    return join_rows_flat(pieces, m).encode("latin-1")


def _times(times_ms: IntArray) -> JsonColumn:
    """Return milliseconds since the Unix epoch, int64 (m,), as ``"2026-01-31T12:00:00.000Z"``."""
    # Many predictions share a time, and formatting a time is the slowest step here.
    distinct_ms, indices = np.unique(times_ms, return_inverse=True)
    in_range = (distinct_ms >= _YEAR_0001_MS) & (distinct_ms <= _YEAR_9999_END_MS)
    texts = np.datetime_as_string(np.where(in_range, distinct_ms, 0).astype("datetime64[ms]"), timezone="UTC")
    column = [f'"{text}"' for text in texts]
    for i in np.flatnonzero(~in_range).tolist():
        column[i] = str(distinct_ms[i])
    return column[0] if len(column) == 1 else DictionaryColumn(column, indices)
