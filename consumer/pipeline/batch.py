"""What flows through the core. One batch is one poll, and becomes one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray

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


@dataclass(frozen=True, slots=True)
class RawBatch:
    """n messages of one topic as they were polled; all sequences have length n.

    Attributes:
        topic: the events topic.
        partitions: source partition of each row.
        offsets: source offset of each row; rising within a partition.
        keys: record keys, opaque.
        values: record values; ``None`` is a tombstone.
        timestamps_ms: looks up the record timestamps of some rows, -1 where there is none. Like the
            headers, only rejected rows need theirs.
        headers: looks up the headers of some rows.
    """

    topic: str
    partitions: Sequence[int]
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps_ms: Callable[[Sequence[int]], list[int]] = field(repr=False)
    headers: Callable[[Sequence[int]], list[Headers]] = field(repr=False)

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
            timestamps_ms=lambda some: self.timestamps_ms([rows[row] for row in some]),
            headers=lambda some: self.headers([rows[row] for row in some]),
        )


@dataclass(frozen=True, slots=True)
class RecordBatch:
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
        return {
            name: self.data[self.texts[name][i] : self.starts[i, j + 1]].decode()
            if name in self.texts
            else self.numbers[name][i].item()
            for j, name in enumerate(EVENT_FIELDS)
        }

    def select(self, indexes: IntArray) -> RecordBatch:
        """Return the events at these indexes, in this order."""
        return RecordBatch(
            rows=self.rows[indexes],
            data=self.data,
            starts=self.starts[indexes],
            numbers={name: column[indexes] for name, column in self.numbers.items()},
            texts={name: column[indexes] for name, column in self.texts.items()},
        )
