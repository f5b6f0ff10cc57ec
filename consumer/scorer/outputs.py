"""Turn a processed batch into records for the predictions and dead-letter topics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from consumer.columnar.arrays import select_rows
from consumer.kafka.producer import Records
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import dead_letters
from consumer.scorer.processing import ProcessedBatch

_CARRIED_HEADERS: Final = ("traceparent", "tracestate")
_CARRIED_PREFIX: Final = "ce_"


@dataclass(frozen=True, slots=True)
class OutputBatch:
    """Everything that is published for a batch.

    Attributes:
        processed: The batch.
        records: Its predictions and its dead letters.
        durations_s: Seconds per stage so far.
    """

    processed: ProcessedBatch
    records: Sequence[Records] = field(repr=False)
    durations_s: Mapping[str, float] = field(repr=False)

    @property
    def next_offsets(self) -> dict[int, int]:
        """The offset to resume from after this batch, by partition."""
        return self.processed.raw.next_offsets


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """The topics that a scorer writes.

    Attributes:
        predictions: The predictions topic.
        dead_letters: The dead-letter topic.
        partition_counts: The number of partitions of each of the two.
        group: The consumer group, named in every dead letter.
    """

    predictions: str
    dead_letters: str
    partition_counts: Mapping[str, int]
    group: str

    def records(self, processed: ProcessedBatch, max_dead_letter_bytes: int) -> OutputBatch:
        """Return the records of a batch.

        A record keeps the key of its event. It goes to the event's partition modulo the number of
        partitions of its topic, so that records with the same key stay in order.

        Args:
            processed: The batch.
            max_dead_letter_bytes: The largest record that the dead-letter topic accepts.
        """
        started_s = time.perf_counter()
        raw, rows = processed.raw, processed.rows
        letters = dead_letters(
            processed.rejections,
            raw,
            group=self.group,
            rejected_at_ms=int(processed.processed_at_s * 1000),
            max_bytes=max_dead_letter_bytes,
        )
        records = [
            Records(
                topic=self.predictions,
                partitions=self._partitions(self.predictions, select_rows(raw.partitions, rows)),
                keys=select_rows(raw.keys, rows),
                values=processed.predictions,
                headers=carried_headers(raw.headers(rows)),
            ),
            Records(
                topic=self.dead_letters,
                partitions=self._partitions(self.dead_letters, select_rows(raw.partitions, letters.rows)),
                keys=letters.keys,
                values=letters.values,
                headers=letters.headers,
            ),
        ]
        encode_s = processed.durations_s["encode"] + time.perf_counter() - started_s
        return OutputBatch(processed, records, {**processed.durations_s, "encode": encode_s})

    def _partitions(self, topic: str, source_partitions: Sequence[int]) -> Sequence[int]:
        count = self.partition_counts[topic]
        if max(source_partitions, default=0) < count:
            return source_partitions
        return [partition % count for partition in source_partitions]


def carried_headers(event_headers: Sequence[Headers]) -> list[Headers] | None:
    """Return the headers that predictions take over from their events.

    They are W3C's trace context (``traceparent``, ``tracestate``) and CloudEvents' ``ce_`` headers. A dead
    letter keeps all headers of its event.

    Args:
        event_headers: The headers of each event.

    Returns:
        The headers of each prediction, or ``None`` if no event has any of these.
    """
    if not any(event_headers):
        return None
    carried = [
        [
            header
            for header in headers
            if header[0] in _CARRIED_HEADERS or header[0].startswith(_CARRIED_PREFIX)
        ]
        for headers in event_headers
    ]
    return carried if any(carried) else None
