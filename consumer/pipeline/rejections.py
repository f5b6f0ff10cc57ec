"""Rejected rows and their reasons.

A faulty producer usually breaks every event in the same few ways. So the rejections of a batch are
columns, and a reason that many rows share is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from consumer.columnar.arrays import DictionaryColumn, IntArray


class Code(StrEnum):
    """Why an event was rejected. A closed set: it labels a metric and is a dead letter's ``code``."""

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
        """The HTTP status that an API would answer: 422 if the event is at fault, 500 if we are."""
        return 500 if self in (Code.MODEL_FAILED, Code.PUBLISH_REFUSED) else 422


Detail: TypeAlias = str | list[dict[str, Any]]
"""What is wrong: one sentence, or a list in the form of FastAPI's 422."""


class Reason(NamedTuple):
    """Why rows were rejected.

    Attributes:
        code: The reason as a closed set.
        detail: The reason in words, for the sender of the event.
    """

    code: Code
    detail: Detail


class Rejection(NamedTuple):
    """One rejected row.

    Attributes:
        row: The row in the poll batch.
        code: The reason as a closed set.
        detail: The reason in words.
        event: The decoded fields as JSON, or ``None`` if the record could not be decoded.
    """

    row: int
    code: Code
    detail: Detail
    event: bytes | None = None


@dataclass(frozen=True, slots=True)
class Rejections:
    """k rejected rows.

    Attributes:
        rows: Rows of the poll batch, sorted, int64 (k,).
        reasons: The reason of each row.
        events: The decoded fields of each row as JSON, or ``None`` if the record could not be decoded.
    """

    rows: IntArray
    reasons: DictionaryColumn[Reason]
    events: Sequence[bytes | None] = field(repr=False)

    @classmethod
    def of(cls, rejections: Iterable[Rejection]) -> Rejections:
        """Make columns of single rejections, sorted by row."""
        single = sorted(rejections, key=lambda rejection: rejection.row)
        reasons = [Reason(rejection.code, rejection.detail) for rejection in single]
        return cls(
            rows=np.array([rejection.row for rejection in single], np.int64),
            reasons=DictionaryColumn(reasons, np.arange(len(single))),
            events=[rejection.event for rejection in single],
        )

    @classmethod
    def without_event(cls, rows: IntArray, reasons: DictionaryColumn[Reason]) -> Rejections:
        """Reject rows that could not be decoded."""
        return cls(rows, reasons, [None] * len(rows))

    @classmethod
    def merged(cls, parts: Sequence[Rejections]) -> Rejections:
        """Merge rejections of different rows of a batch, sorted by row."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:  # noqa: PLR2004 - nothing to sort
            return parts[0] if parts else NONE_REJECTED
        rows = np.concatenate([part.rows for part in parts])
        events = [event for part in parts for event in part.events]
        order = np.argsort(rows)
        return cls(
            rows[order],
            DictionaryColumn.concatenate([part.reasons for part in parts]).select_rows(order),
            [events[i] for i in order.tolist()],
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Rejection]:
        for row, (code, detail), event in zip(
            self.rows.tolist(), self.reasons.to_list(), self.events, strict=True
        ):
            yield Rejection(row, code, detail, event)

    def counts(self) -> dict[Code, int]:
        """Return the number of rows by code, for the codes that occur."""
        reasons = self.reasons.dictionary
        counts: dict[Code, int] = {}
        for reason, n in zip(
            reasons, np.bincount(self.reasons.indices, minlength=len(reasons)).tolist(), strict=True
        ):
            if n:
                counts[reason.code] = counts.get(reason.code, 0) + n
        return counts


NONE_REJECTED = Rejections.of(())
"""The rejections of a batch in which no row is rejected."""
