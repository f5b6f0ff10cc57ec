"""What flows through the core. One batch is one poll, and becomes one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
"""Rows, offsets, counts, milliseconds."""

FloatArray: TypeAlias = NDArray[np.float64]
"""Probabilities, minutes, features."""

Headers: TypeAlias = list[tuple[str, bytes | None]]
"""A record's headers, in their order; names may repeat."""


EVENT_FIELDS: Final = (
    "event_id",
    "student_id",
    "occurred_at",
    "student_country",
    "days_on_platform",
    "minutes_watched",
    "courses_started",
    "practice_exams_started",
    "practice_exams_passed",
    "minutes_spent_on_exams",
)
"""The fields of an event in the order of the schema."""

INPUTS_BEGIN: Final = EVENT_FIELDS.index("student_country")
"""From here on, the fields are the model's seven inputs."""


class Code(StrEnum):
    """Why an event was rejected. A closed set: it is a metric's label and a dead letter's ``code``."""

    TOMBSTONE = "tombstone"
    UNKNOWN_FRAMING = "unknown_framing"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNDECODABLE = "undecodable"
    TRAILING_BYTES = "trailing_bytes"
    FIELD_INVALID = "field_invalid"
    RULE_VIOLATED = "rule_violated"
    MODEL_FAILED = "model_failed"
    PUBLISH_REFUSED = "publish_refused"

    @property
    def status(self) -> int:
        """The HTTP status that an API would have answered with: whose fault it was."""
        return 500 if self in (Code.MODEL_FAILED, Code.PUBLISH_REFUSED) else 422


Detail: TypeAlias = str | list[dict[str, Any]]
"""What is wrong: one sentence, or a list in the form of FastAPI's 422."""


class Rejection(NamedTuple):
    """One row that goes no further.

    Attributes:
        row: index in the poll batch.
        code: the closed reason.
        detail: the reason in words, for the people who sent the event. Rejections may share a list.
        event: the decoded fields, or ``None`` where decoding itself failed.
    """

    row: int
    code: Code
    detail: Detail
    event: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RawBatch:
    """n messages of one topic as they were polled; all sequences have length n.

    Attributes:
        topic: the events topic.
        partitions: source partition of each row.
        offsets: source offset of each row; rising within a partition.
        keys: record keys, opaque.
        values: record values; ``None`` is a tombstone.
        timestamp_ms: looks up the record timestamp of a row, -1 where there is none. Like the headers,
            only rejected rows need it.
        headers: looks up the headers of a row.
    """

    topic: str
    partitions: Sequence[int]
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamp_ms: Callable[[int], int] = field(repr=False)
    headers: Callable[[int], Headers] = field(repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def next_offsets(self) -> dict[int, int]:
        """Offset to go on from, per partition: one past the last of this batch."""
        last = dict(zip(self.partitions, self.offsets, strict=True))
        return {partition: offset + 1 for partition, offset in last.items()}

    def take(self, rows: Sequence[int]) -> RawBatch:
        """Return a batch of some of the rows, in the given order."""
        return RawBatch(
            topic=self.topic,
            partitions=[self.partitions[row] for row in rows],
            offsets=[self.offsets[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            values=[self.values[row] for row in rows],
            timestamp_ms=lambda row: self.timestamp_ms(rows[row]),
            headers=lambda row: self.headers(rows[row]),
        )


@dataclass(frozen=True, slots=True)
class EventBatch:
    """m decoded events, as columns over one buffer.

    Attributes:
        rows: int64 (m,), index of each event in its :class:`RawBatch`, rising.
        data: the events in the reader's own encoding, end to end, somewhere in here.
        starts: int64 (m, 11); ``starts[:, j]`` is where field j of each event begins in ``data`` and
            ``starts[:, 10]`` is where the event ends. The fields follow each other without gaps.
        numbers: the longs (int64, (m,)) and doubles (float64, (m,)) by field name.
        texts: where the text of each string field lies: int64 (m,) starts; it ends where the next
            field begins.
    """

    rows: IntArray
    data: bytes = field(repr=False)
    starts: IntArray = field(repr=False)
    numbers: dict[str, NDArray[Any]] = field(repr=False)
    texts: dict[str, IntArray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def event(self, i: int) -> dict[str, Any]:
        """Return the fields of the i-th event as plain values, in the schema's order."""
        (fields,) = self.select(np.array([i])).events()
        return fields

    def events(self) -> list[dict[str, Any]]:
        """Return the fields of every event as plain values, in the schema's order."""
        data = self.data
        columns: list[list[Any]] = []
        for j, name in enumerate(EVENT_FIELDS):
            if name in self.texts:
                begins, ends = self.texts[name].tolist(), self.starts[:, j + 1].tolist()
                columns.append([data[begin:end].decode() for begin, end in zip(begins, ends, strict=True)])
            else:
                columns.append(self.numbers[name].tolist())
        return [dict(zip(EVENT_FIELDS, fields, strict=True)) for fields in zip(*columns, strict=True)]

    def select(self, indexes: IntArray) -> EventBatch:
        """Return the events at these indexes, in this order."""
        return EventBatch(
            rows=self.rows[indexes],
            data=self.data,
            starts=self.starts[indexes],
            numbers={name: column[indexes] for name, column in self.numbers.items()},
            texts={name: column[indexes] for name, column in self.texts.items()},
        )
