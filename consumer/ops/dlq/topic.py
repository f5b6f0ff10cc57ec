"""Read the dead-letter topic."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import Any

from consumer.errors import BadInputError
from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.consumer import headers_of
from consumer.kafka.reader import Record, TopicReader
from consumer.ops.dlq.dead_letter import DeadLetterRecord, parse_body


def read_dead_letters(
    client_config: Mapping[str, Any], topic: str, ranges: Ranges
) -> Iterator[Sequence[DeadLetterRecord]]:
    """Yield the committed dead letters of the ranges, in batches; each partition in order.

    Raises:
        Unavailable: The broker is down, or the topic lost records while they were read.
    """
    with contextlib.closing(TopicReader(client_config, topic)) as reader:
        for records in reader.read_ranges(ranges):
            yield [to_dead_letter(record) for record in records]


def ranges_since(
    client_config: Mapping[str, Any], topic: str, since_ms: int | None, partition: int | None
) -> Ranges:
    """Return the ranges of committed offsets that the topic has now.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
        topic: The dead-letter topic.
        since_ms: The oldest record timestamp, in milliseconds since the epoch.
        partition: The only partition to return.

    Raises:
        BadInputError: There is no such partition.
        StartupError: There is no such topic.
        Unavailable: The broker is down.
    """
    admin = ClusterAdmin(client_config)
    ranges = admin.committed_ranges(topic)
    if partition is not None:
        if partition not in ranges:
            raise BadInputError(f"{topic} has no partition {partition}; it has 0 to {max(ranges)}")
        ranges = {partition: ranges[partition]}
    if since_ms is not None:
        starts = admin.offsets_since(topic, ranges, since_ms)
        ranges = {p: (max(starts.get(p, stop), start), stop) for p, (start, stop) in ranges.items()}
    return ranges


def read_dead_letter(
    client_config: Mapping[str, Any], topic: str, partition: int, offset: int
) -> DeadLetterRecord:
    """Read one dead letter.

    Raises:
        BadInputError: There is no dead letter at this offset.
        StartupError: There is no such topic.
        Unavailable: The broker is down.
    """
    start, stop = ranges_since(client_config, topic, None, partition)[partition]
    if start <= offset < stop:
        for dead_letters in read_dead_letters(client_config, topic, {partition: (offset, offset + 1)}):
            for dead_letter in dead_letters:
                return dead_letter
    raise BadInputError(
        f"{topic} has no dead letter at {partition}:{offset}; partition {partition} holds {start} to"
        f" {stop - 1}, some of which are transaction markers; see: purchase-stream dlq list"
    )


def to_dead_letter(record: Record) -> DeadLetterRecord:
    """Parse a record of the dead-letter topic."""
    value = record.value()
    return DeadLetterRecord(
        partition=record.partition(),
        offset=record.offset(),
        timestamp_ms=record.timestamp()[1],
        key=record.key(),
        value=value,
        headers=headers_of(record),
        body=parse_body(value),
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """The dead letters of a topic.

    Attributes:
        counts: The number of dead letters by code, the most frequent code first.
        newest: The latest dead letters, newest first.
    """

    counts: dict[str, int]
    newest: Sequence[DeadLetterRecord]


def list_dead_letters(dead_letters: Iterable[DeadLetterRecord], codes: Sequence[str], limit: int) -> Listing:
    """Count dead letters by code and keep the latest, in one pass.

    Args:
        dead_letters: The dead letters.
        codes: The codes to count; empty means all.
        limit: The number of dead letters to keep.
    """
    counts: Counter[str] = Counter()
    heap: list[tuple[int, int, int, DeadLetterRecord]] = []
    for dead_letter in dead_letters:
        if codes and dead_letter.code not in codes:
            continue
        counts[dead_letter.code] += 1
        # Offset and partition make each entry unique, so dead letters are never compared.
        entry = (dead_letter.timestamp_ms, dead_letter.offset, dead_letter.partition, dead_letter)
        if len(heap) < limit:
            heappush(heap, entry)
        elif limit:
            heappushpop(heap, entry)
    return Listing(dict(counts.most_common()), [entry[-1] for entry in sorted(heap, reverse=True)])
