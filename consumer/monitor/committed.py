"""A batch of committed predictions on its way through the monitor."""

from __future__ import annotations

from dataclasses import dataclass, field

from consumer.core.batch import EventBatch
from consumer.core.rejections import Rejections
from consumer.kafka.tail import TailBatch


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """One round's predictions as the views get them.

    Attributes:
        records: the records as they were read.
        predictions: those that could be decoded; ``predictions.rows`` are indexes into ``records``.
        undecodable: the others: bytes in the topic that are no predictions.
    """

    records: TailBatch
    predictions: EventBatch = field(repr=False)
    undecodable: Rejections = field(repr=False)


@dataclass(frozen=True, slots=True)
class Round:
    """What there is to tell of one round.

    Attributes:
        n_records: records read.
        n_lines: lines added to the audit log.
        n_undecodable: records that are no predictions; they have no line.
        line_bytes: size of the lines.
    """

    n_records: int
    n_lines: int
    n_undecodable: int
    line_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch with the lines that it has in the log."""

    batch: CommittedBatch
    lines: bytes = field(repr=False)

    def told(self) -> Round:
        """Return what there is to tell of it."""
        return Round(
            n_records=len(self.batch.records),
            n_lines=len(self.batch.predictions),
            n_undecodable=len(self.batch.undecodable),
            line_bytes=len(self.lines),
        )
