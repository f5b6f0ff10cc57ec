"""The two batches that the pipeline passes on: records as polled, and records as decoded.

One batch is one poll and becomes one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.columnar.avro import Columns
from consumer.columnar.json import JsonColumn, join_rows, json_escaped, json_numbers, json_strings

Headers: TypeAlias = list[tuple[str, bytes | None]]
"""A record's headers, in order; names may repeat."""


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
"""The fields of an event, in the schema's order."""

INPUT_FIELDS: Final = EVENT_FIELDS[EVENT_FIELDS.index("student_country") :]
"""The model's seven inputs: the last fields of an event."""

NUMERIC_INPUT_FIELDS: Final = INPUT_FIELDS[1:]
"""The six inputs that are numbers."""


@dataclass(frozen=True)
class RawBatch:
    """n records of one topic as they were polled; every sequence has length n.

    Attributes:
        topic: The events topic.
        partitions: Source partition of each row.
        offsets: Source offset of each row, increasing within a partition.
        keys: Record keys, opaque.
        values: Record values; ``None`` is a tombstone.
        timestamps_ms: Returns the timestamps of the given rows, -1 where a record has none. A function
            because only rejected rows need them.
        headers: Returns the headers of the given rows. A function for the same reason.
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

    @cached_property
    def next_offsets(self) -> dict[int, int]:
        """The offset to resume from for each partition: one past its last offset in this batch."""
        last = dict(zip(self.partitions, self.offsets, strict=True))
        return {partition: offset + 1 for partition, offset in last.items()}

    def select_rows(self, rows: Sequence[int]) -> RawBatch:
        """Return a batch of these rows, in this order."""
        return RawBatch(
            topic=self.topic,
            partitions=[self.partitions[row] for row in rows],
            offsets=[self.offsets[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            values=[self.values[row] for row in rows],
            timestamps_ms=lambda subset: self.timestamps_ms([rows[row] for row in subset]),
            headers=lambda subset: self.headers([rows[row] for row in subset]),
        )


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """m decoded records of one schema (events, predictions or outcomes), as columns over one buffer.

    Attributes:
        rows: The row of each record in its :class:`RawBatch`, sorted, int64 (m,).
        data: The buffer that holds the records in the reader's encoding.
        fields: The names of the k primitive fields in wire order; those of a nested record are
            ``outer.inner``.
        starts: int64 (m, k + 1): ``starts[:, j]`` is where field j of each record starts in ``data``, and
            ``starts[:, k]`` is where the record stops. There are no gaps between fields.
        numbers: The numeric columns by field name: int64, float64 or bool, (m,).
        texts: Where the text of each string field starts, behind its length: int64 (m,) by field name.
        nulls: The records in which a field is null, bool (m,) by field name; only fields that are null in a
            record. Their columns hold an empty value there.
    """

    rows: IntArray
    data: bytes = field(repr=False)
    fields: tuple[str, ...]
    starts: IntArray = field(repr=False)
    numbers: dict[str, NDArray[Any]] = field(repr=False)
    texts: dict[str, IntArray] = field(repr=False)
    nulls: dict[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_columns(cls, rows: IntArray, columns: Columns, nulls: dict[str, NDArray[np.bool_]]) -> RecordBatch:
        """Make a batch of decoded columns, malformed records included."""
        return cls(rows, columns.data, columns.fields, columns.starts, columns.numbers, columns.texts, nulls)

    def __len__(self) -> int:
        return len(self.rows)

    def span(self, name: str) -> tuple[IntArray, IntArray]:
        """Return where the texts of a string field lie: ``data[starts[i]:stops[i]]``, int64 (m,) each."""
        return self.texts[name], self.starts[:, self.fields.index(name) + 1]

    def text(self, name: str, i: int) -> str:
        """Return the text of a string field of the i-th record."""
        starts, stops = self.span(name)
        return self.data[starts[i] : stops[i]].decode()

    def record(self, i: int) -> dict[str, Any]:
        """Return the i-th record as plain values, in the schema's order; a nested record is a dict."""
        return _nested(self.fields, [self._value(name, i) for name in self.fields])

    def _value(self, name: str, i: int) -> Any:
        if name in self.nulls and self.nulls[name][i]:
            return None
        return self.text(name, i) if name in self.texts else self.numbers[name][i].item()

    def to_json(self) -> list[bytes]:
        """Return each record as a JSON object, in the schema's order.

        JSON has no NaN and no infinities. They become strings, because ``null`` would hide what was wrong.
        """
        m = len(self)
        if m == 0:
            return []
        characters = self.data.decode("latin-1")
        names = dict.fromkeys(self.fields, "\0")
        # The object with a placeholder for each value, cut at the placeholders: {"a": | ,"b": | }
        opening, *labels = orjson.dumps(_nested(self.fields, list(names.values()))).split(b'"\\u0000"')
        pieces: list[JsonColumn] = [opening.decode()]
        for name, label in zip(self.fields, labels, strict=True):
            if name in self.nulls:
                values = [self._value(name, i) for i in range(m)]
                pieces.append([_value_json(value) for value in values])
            elif name in self.texts:
                pieces += ['"', json_strings(self.data, characters, *self.span(name)), '"']
            else:
                pieces.append(_numbers(self.numbers[name]))
            pieces.append(label.decode())
        return [text.encode("latin-1") for text in join_rows(pieces, m)]

    def select_rows(self, indexes: IntArray) -> RecordBatch:
        """Return the records at these indexes, in this order."""
        return RecordBatch(
            rows=self.rows[indexes],
            data=self.data,
            fields=self.fields,
            starts=self.starts[indexes],
            numbers={name: column[indexes] for name, column in self.numbers.items()},
            texts={name: column[indexes] for name, column in self.texts.items()},
            nulls={name: column[indexes] for name, column in self.nulls.items() if column[indexes].any()},
        )


def _nested(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Turn ``outer.inner`` names into nested dictionaries.

    >>> _nested(["id", "features.days"], ["e-1", 30])
    {'id': 'e-1', 'features': {'days': 30}}
    """
    record: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        *outer, inner = name.split(".")
        fields = record
        for part in outer:
            fields = fields.setdefault(part, {})
        fields[inner] = value
    return record


def _value_json(value: Any) -> str:
    """Return one value as JSON, as Latin-1 characters."""
    if isinstance(value, str):
        return f'"{json_escaped(value)}"'
    return (
        f'"{value}"' if isinstance(value, float) and not np.isfinite(value) else orjson.dumps(value).decode()
    )


def _numbers(column: NDArray[Any]) -> JsonColumn:
    """Return numbers as JSON; NaN and the infinities, which JSON lacks, become strings."""
    if column.dtype != np.float64 or (finite := np.isfinite(column)).all():
        return json_numbers(column)
    texts = orjson.dumps(column.tolist()).decode()[1:-1].split(",")
    for i in np.flatnonzero(~finite).tolist():
        texts[i] = f'"{column[i]}"'
    return texts
