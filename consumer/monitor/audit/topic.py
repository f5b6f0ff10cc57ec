"""Read a range of the predictions topic as lines of the audit log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np

from consumer.columnar.arrays import IntArray
from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.client_config import common
from consumer.kafka.reader import TopicReader
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.removals import Removals
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.settings import Settings
from schemas.repository import purchase_prediction

MAX_CLOCK_SKEW_MS: Final = 60_000
"""Maximum difference between the clocks of scorer and broker. A record is produced after its prediction."""


@dataclass(frozen=True, slots=True)
class StoredPredictions:
    """A batch of predictions of the topic, without those of erased students.

    Attributes:
        predictions: The decoded predictions; ``predictions.rows`` are indexes into the arrays.
        partitions: The partition of each record, int64 (n,).
        offsets: The offset of each record, int64 (n,).
        erased: The number of predictions of erased students, which were left out.
        undecodable: The number of records that are not predictions.
        next_offsets: The offset after the last record, by partition.
    """

    predictions: RecordBatch = field(repr=False)
    partitions: IntArray = field(repr=False)
    offsets: IntArray = field(repr=False)
    erased: int
    undecodable: int
    next_offsets: dict[int, int]

    def lines(self, settings: Settings, hasher: IdHasher | None = None) -> bytes:
        """Return the audit lines."""
        return audit_lines(
            self.predictions,
            source_topic=settings.topics.events,
            output_topic=settings.topics.predictions,
            partitions=self.partitions,
            offsets=self.offsets,
            hasher=hasher,
        )


def read_predictions(
    settings: Settings, writers: WriterSchemas, ranges: Ranges, removals: Removals
) -> Iterator[StoredPredictions]:
    """Yield the committed predictions of ranges of the topic, in batches.

    Args:
        settings: The broker and the topics.
        writers: Resolves writer schemas.
        ranges: The first offset and the end (exclusive) of each partition.
        removals: Says which students were erased.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker does not answer.
    """
    decoder = Decoder(purchase_prediction(), writers)
    with contextlib.closing(TopicReader(common(settings.kafka), settings.topics.predictions)) as reader:
        for records in reader.read_ranges(ranges):
            decoded, rejections = decoder.decode([record.value() for record in records])
            partitions = np.array([record.partition() for record in records], np.int64)
            offsets = np.array([record.offset() for record in records], np.int64)
            kept = removals.without_erased(decoded, partitions, offsets)
            yield StoredPredictions(
                predictions=kept,
                partitions=partitions,
                offsets=offsets,
                erased=len(decoded) - len(kept),
                undecodable=len(rejections),
                next_offsets={record.partition(): record.offset() + 1 for record in records},
            )


def ranges_since(settings: Settings, since: datetime | None) -> Ranges:
    """Return the committed ranges of the predictions topic, without records from well before a time.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker does not answer.
    """
    topic, admin = settings.topics.predictions, ClusterAdmin(common(settings.kafka))
    ranges = admin.committed_ranges(topic)
    if since is None:
        return ranges
    start_ms = int(since.timestamp() * 1000) - MAX_CLOCK_SKEW_MS
    starts = admin.offsets_since(topic, ranges, max(start_ms, 0))
    return {
        partition: (max(first, starts.get(partition, stop)), stop)
        for partition, (first, stop) in ranges.items()
    }


def read_topic_lines(
    settings: Settings, writers: WriterSchemas, since: datetime | None, removals: Removals
) -> Iterator[tuple[str, int, list[bytes]]]:
    """Read the predictions topic as lines of an audit log, for a report without a complete log.

    Args:
        settings: The broker and the topics.
        writers: Resolves writer schemas.
        since: Skip predictions made well before this time.
        removals: Says which students were erased.

    Yields:
        The topic, the number of the batch's first line (from 1), and the lines. Records that are not
        predictions have no line.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker does not answer.
    """
    number = 1
    for batch in read_predictions(settings, writers, ranges_since(settings, since), removals):
        lines = batch.lines(settings).splitlines()
        yield settings.topics.predictions, number, lines
        number += len(lines)
