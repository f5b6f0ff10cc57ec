"""Rows that go no further, and why.

A producer that goes wrong breaks every event, and mostly in the same few ways. So the rejections of a
batch are columns, and what those of one reason share is there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from consumer.columnar.arrays import IntArray


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


class Reason(NamedTuple):
    """Why some rows were rejected.

    Attributes:
        code: the closed reason.
        detail: the reason in words, for the people who sent the event.
    """

    code: Code
    detail: Detail


class Rejection(NamedTuple):
    """One rejected row.

    Attributes:
        row: index in the poll batch.
        code: the closed reason.
        detail: the reason in words.
        event: the decoded fields as JSON, or ``None`` where decoding itself failed.
    """

    row: int
    code: Code
    detail: Detail
    event: bytes | None = None


@dataclass(frozen=True, slots=True)
class Rejections:
    """k rejected rows.

    Attributes:
        rows: int64 (k,), indexes in the poll batch, rising.
        which: int64 (k,), what was wrong with each, as an index into ``reasons``.
        reasons: what was wrong; two may be equal, and some may be nobody's.
        events: the decoded fields of each as JSON, or ``None`` where decoding itself failed.
    """

    rows: IntArray
    which: IntArray = field(repr=False)
    reasons: Sequence[Reason]
    events: Sequence[bytes | None] = field(repr=False)

    @classmethod
    def of(cls, rejections: Iterable[Rejection]) -> Rejections:
        """Make columns of single rejections, in the order of their rows."""
        single = sorted(rejections, key=lambda rejection: rejection.row)
        return cls(
            rows=np.array([rejection.row for rejection in single], np.int64),
            which=np.arange(len(single)),
            reasons=[Reason(rejection.code, rejection.detail) for rejection in single],
            events=[rejection.event for rejection in single],
        )

    @classmethod
    def without_event(cls, rows: IntArray, which: IntArray, reasons: Sequence[Reason]) -> Rejections:
        """Reject rows that could not be decoded."""
        return cls(rows, which, reasons, [None] * len(rows))

    @classmethod
    def merged(cls, parts: Sequence[Rejections]) -> Rejections:
        """Put rejections of different rows of a batch in the order of their rows."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:  # noqa: PLR2004 - nothing to put in order
            return parts[0] if parts else NONE_REJECTED
        reasons = [reason for part in parts for reason in part.reasons]
        before = np.cumsum([0, *(len(part.reasons) for part in parts[:-1])])
        rows = np.concatenate([part.rows for part in parts])
        which = np.concatenate([part.which + n for part, n in zip(parts, before, strict=True)])
        events = [event for part in parts for event in part.events]
        order = np.argsort(rows)
        return cls(rows[order], which[order], reasons, [events[i] for i in order.tolist()])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Rejection]:
        for row, which, event in zip(self.rows.tolist(), self.which.tolist(), self.events, strict=True):
            code, detail = self.reasons[which]
            yield Rejection(row, code, detail, event)

    def counts(self) -> dict[Code, int]:
        """Count the rows by code; only codes that occur are there."""
        counts: dict[Code, int] = {}
        for reason, n in zip(
            self.reasons, np.bincount(self.which, minlength=len(self.reasons)).tolist(), strict=True
        ):
            if n:
                counts[reason.code] = counts.get(reason.code, 0) + n
        return counts


NONE_REJECTED = Rejections.of(())
"""For a batch in which all is well."""
