"""Committed predictions → lines of the audit log: one JSON object each, in their order. Pure.

Columns are turned into JSON text column by column, and a line is put together from one text of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

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

_NUMBERS: Final = (
    "days_on_platform",
    "minutes_watched",
    "courses_started",
    "practice_exams_started",
    "practice_exams_passed",
    "minutes_spent_on_exams",
)

_SMALL_TEXTS: Final = [str(n) for n in range(1024)]
"""Counts, days and partitions are nearly always below; looking them up beats forming them."""

_LINE_ENDS: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""Unicode's line ends, which JSON leaves as they are, and their escapes: a reader may split at them."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of few texts for each line: line i has ``texts[which[i]]``."""

    texts: list[str]
    which: IntArray

    def within(self, before: str = "", after: str = "") -> _Choice:
        """Return the same between two texts that are in every line."""
        return _Choice([before + text + after for text in self.texts], self.which)

    def column(self) -> list[str]:
        """Return the text of each line."""
        column: list[str] = np.array(self.texts, object)[self.which].tolist()
        return column


_Piece: TypeAlias = str | _Choice | list[str]
"""A piece of each line: the same in all, one of few, or one for each. One character per byte (Latin-1),
whatever the bytes mean: strings are cut, joined and encoded faster than bytes, and no text is decoded."""


def audit_lines(
    predictions: EventBatch,
    *,
    source_topic: str,
    output_topic: str,
    partitions: Sequence[int] | IntArray,
    offsets: Sequence[int] | IntArray,
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

    characters = predictions.data.decode("latin-1")

    def text(name: str) -> _Piece:
        return _texts(predictions, name, characters)

    pieces: list[_Piece] = [
        '{"timestamp_utc":', _times(numbers["scored_at"]),
        ',"event_id":"', text("event_id"),
        '","student_id":"', text("student_id"),
        '","occurred_at":', _times(numbers["occurred_at"]),
        ',"predicted_purchase_probability":', _numbers(numbers["predicted_purchase_probability"]),
        ',"predicted_purchase":', _numbers(numbers["predicted_purchase"]),
        ',"threshold":', _numbers(numbers["threshold"]),
        ',"model_version":"', text("model_version"),
        '","features":{"student_country":"', text("features.student_country"), '"',
    ]  # fmt: skip
    for name in _NUMBERS:
        pieces += [f',"{name}":', _numbers(numbers[f"features.{name}"])]
    pieces += [
        '},"source":{"topic":"', _escaped(source_topic),
        '","partition":', _numbers(numbers["source_partition"]),
        ',"offset":', _numbers(numbers["source_offset"]),
        '},"output":{"topic":"', _escaped(output_topic),
        '","partition":', _numbers(np.asarray(partitions, np.int64)[rows]),
        ',"offset":', _numbers(np.asarray(offsets, np.int64)[rows]),
        "}}\n",
    ]  # fmt: skip
    return _interleaved(pieces, m).encode("latin-1")


def _interleaved(pieces: list[_Piece], m: int) -> str:
    """Join m lines of the same pieces.

    Filled piece by piece and joined once, this takes half of what formatting line by line does; and
    the fewer pieces, the less.
    """
    columns = _merged(pieces)
    flat = [""] * (len(columns) * m)
    for k, piece in enumerate(columns):
        column = piece.column() if isinstance(piece, _Choice) else piece
        flat[k :: len(columns)] = [column] * m if isinstance(column, str) else column
    return "".join(flat)


def _merged(pieces: list[_Piece]) -> list[_Piece]:
    """Put what is the same in all lines together with what is beside it, where that is cheap."""
    merged: list[_Piece] = []
    for piece in pieces:
        before = merged[-1] if merged else None
        if isinstance(before, str) and isinstance(piece, str):
            merged[-1] = before + piece
        elif isinstance(before, str) and isinstance(piece, _Choice):
            merged[-1] = piece.within(before=before)
        elif isinstance(before, _Choice) and isinstance(piece, str):
            merged[-1] = before.within(after=piece)
        else:
            merged.append(piece)
    return merged


def _numbers(column: NDArray[Any]) -> _Piece:
    """Return each number as JSON; one that is not finite is ``null``."""
    bits = column.view(np.int64)  # 0.0 and -0.0 are equal, and not the same text
    if len(column) > 1 and (bits == bits[0]).all():
        return orjson.dumps(column[0].item()).decode()
    largest = int(column.max()) if column.dtype == np.int64 and column.min() >= 0 else len(_SMALL_TEXTS)
    if largest < min(len(_SMALL_TEXTS), len(column)):
        return _Choice(_SMALL_TEXTS[: largest + 1], column)
    return orjson.dumps(column.tolist()).decode()[1:-1].split(",")


def _texts(predictions: EventBatch, name: str, characters: str) -> _Piece:
    """Return the inside of each text's JSON string; the decoder has made sure that they are UTF-8."""
    data, begins = predictions.data, predictions.texts[name]
    ends = predictions.starts[:, _field_indexes()[name] + 1]
    if len(begins) > 1 and all_equal(data, begins, ends):
        return _escaped(data[begins[0] : ends[0]].decode())
    texts = [characters[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    # The usual column needs no escape, and one look at it costs less than a look at each text.
    together = "".join(texts)
    if together.isascii() and together.isprintable() and '"' not in together and "\\" not in together:
        return texts
    return [_escaped(text.encode("latin-1").decode()) for text in texts]


def _escaped(value: str) -> str:
    """Return the inside of a JSON string that no reader splits."""
    text = orjson.dumps(value).decode()[1:-1]
    return text if text.isascii() else text.translate(_LINE_ENDS).encode().decode("latin-1")


def _times(times_ms: IntArray) -> _Piece:
    """Return milliseconds since the Unix epoch, int64 (m,), as ``"2026-01-31T12:00:00.000Z"``."""
    # Many predictions share a time, and forming one takes longer than anything else here.
    distinct_ms, which = np.unique(times_ms, return_inverse=True)
    formed = (distinct_ms >= _YEAR_0001_MS) & (distinct_ms <= _YEAR_9999_END_MS)
    texts = np.datetime_as_string(np.where(formed, distinct_ms, 0).astype("datetime64[ms]"), timezone="UTC")
    column = [f'"{text}"' for text in texts]
    for i in np.flatnonzero(~formed).tolist():
        column[i] = str(distinct_ms[i])
    return column[0] if len(column) == 1 else _Choice(column, which)


@cache
def _field_indexes() -> dict[str, int]:
    """Where each field of a prediction stands in wire order."""
    return {name: j for j, (name, _) in enumerate(plan(purchase_prediction().parsed))}
