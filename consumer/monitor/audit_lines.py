"""Committed predictions → lines of the audit log: one JSON object each, in their order. Pure.

Columns are turned into JSON text column by column, and a line is put together from one text of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from consumer.core.batch import EventBatch, IntArray
from consumer.core.columns import plan
from consumer.core.spans import all_equal
from schemas.repository import purchase_prediction

_YEAR_0001_MS: Final = -62_135_596_800_000
_YEAR_9999_END_MS: Final = 253_402_300_799_999
"""RFC 3339 has four digits for the year (section 5.6)."""

_MILLISECONDS: Final = tuple(f'{n:03d}Z"' for n in range(1000))

_NUMBERS: Final = (
    "days_on_platform",
    "minutes_watched",
    "courses_started",
    "practice_exams_started",
    "practice_exams_passed",
    "minutes_spent_on_exams",
)

_LINE_ENDS: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""Unicode's line ends, which JSON leaves as they are, and their escapes: a reader may split at them."""


def audit_lines(
    predictions: EventBatch,
    *,
    source_topic: str,
    output_topic: str,
    partitions: Sequence[int],
    offsets: Sequence[int],
) -> bytes:
    """Write one line per prediction.

    A number that is not finite becomes ``null``, and a time outside the years 1 to 9999, for which
    RFC 3339 has no form, stays a number of milliseconds: the line is written in any case.

    Args:
        predictions: m decoded predictions, in the schema ``PurchasePrediction``.
        source_topic: the topic of the events.
        output_topic: the topic that the predictions were read from.
        partitions: output partition of each row of the poll batch.
        offsets: output offset of each row of the poll batch.

    Returns:
        m lines in UTF-8, each ended by a line feed.
    """
    m = len(predictions)
    if m == 0:
        return b""
    rows, numbers = predictions.rows, predictions.numbers
    texts = _Texts(predictions)
    pieces: list[str | list[str]] = [
        '{"timestamp_utc":', _times(numbers["scored_at"]),
        ',"event_id":', texts.column("event_id"),
        ',"student_id":', texts.column("student_id"),
        ',"occurred_at":', _times(numbers["occurred_at"]),
        ',"predicted_purchase_probability":', _numbers(numbers["predicted_purchase_probability"]),
        ',"predicted_purchase":', _numbers(numbers["predicted_purchase"]),
        ',"threshold":', _numbers(numbers["threshold"]),
        ',"model_version":', texts.column("model_version"),
        ',"features":{"student_country":', texts.column("features.student_country"),
    ]  # fmt: skip
    for name in _NUMBERS:
        pieces += [f',"{name}":', _numbers(numbers[f"features.{name}"])]
    pieces += [
        f'}},"source":{{"topic":{_text(source_topic)},"partition":', _numbers(numbers["source_partition"]),
        ',"offset":', _numbers(numbers["source_offset"]),
        f'}},"output":{{"topic":{_text(output_topic)},"partition":',
        _numbers(np.asarray(partitions, np.int64)[rows]),
        ',"offset":', _numbers(np.asarray(offsets, np.int64)[rows]),
        "}}\n",
    ]  # fmt: skip
    return _interleaved(pieces, m).encode()


def _interleaved(pieces: list[str | list[str]], m: int) -> str:
    """Join m lines of the same pieces: a text is the same in each line, a list has one per line.

    Filled piece by piece and joined once, this takes half of what formatting line by line does.
    """
    merged: list[str | list[str]] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    flat = [""] * (len(merged) * m)
    for k, piece in enumerate(merged):
        flat[k :: len(merged)] = [piece] * m if isinstance(piece, str) else piece
    return "".join(flat)


def _numbers(column: NDArray[Any]) -> str | list[str]:
    """Return each number as JSON; one that is not finite is ``null``."""
    bits = column.view(np.int64)  # 0.0 and -0.0 are equal, and not the same text
    if len(column) > 1 and (bits == bits[0]).all():
        return orjson.dumps(column[0].item()).decode()
    return orjson.dumps(column.tolist()).decode()[1:-1].split(",")


class _Texts:
    """The texts of predictions as JSON strings; the decoder has made sure that they are UTF-8."""

    def __init__(self, predictions: EventBatch) -> None:
        self._predictions = predictions
        # One character per byte: positions stay the same, and cutting a text out needs no decoding.
        self._characters = predictions.data.decode("latin-1")

    def column(self, name: str) -> str | list[str]:
        """Return one text per prediction, or the one that they all share."""
        begins = self._predictions.texts[name]
        ends = self._predictions.starts[:, _field_indexes()[name] + 1]
        if len(begins) > 1 and all_equal(self._predictions.data, begins, ends):
            return _text(self._predictions.data[begins[0] : ends[0]].decode())
        characters = self._characters
        texts = [characters[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        together = "".join(texts)
        # The usual column needs no escape, and one look at it costs less than a look at each text.
        if together.isascii() and together.isprintable() and '"' not in together and "\\" not in together:
            return [f'"{text}"' for text in texts]
        return [_text(text.encode("latin-1").decode()) for text in texts]


def _text(value: str) -> str:
    """Return a JSON string that no reader splits."""
    text = orjson.dumps(value).decode()
    return text if text.isascii() else text.translate(_LINE_ENDS)


def _times(times_ms: IntArray) -> list[str]:
    """Return milliseconds since the Unix epoch, int64 (m,), as ``"2026-01-31T12:00:00.000Z"``."""
    formed = (times_ms >= _YEAR_0001_MS) & (times_ms <= _YEAR_9999_END_MS)
    seconds, milliseconds = np.divmod(np.where(formed, times_ms, 0), 1000)
    # Many predictions share a second, and forming one takes longer than anything else here.
    distinct_s, where = np.unique(seconds, return_inverse=True)
    texts = [f'"{text}.' for text in np.datetime_as_string(distinct_s.astype("datetime64[s]"))]
    column = [texts[i] + _MILLISECONDS[n] for i, n in zip(where.tolist(), milliseconds.tolist(), strict=True)]
    for i in np.flatnonzero(~formed).tolist():
        column[i] = str(times_ms[i])
    return column


@cache
def _field_indexes() -> dict[str, int]:
    """Where each field of a prediction stands in wire order."""
    return {name: j for j, (name, _) in enumerate(plan(purchase_prediction().parsed))}
