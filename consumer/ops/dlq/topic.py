"""Reads the dead-letter topic.

Counts dead letters by code, and keeps the newest of them.
"""

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


def letters_between(
    client_config: Mapping[str, Any], topic: str, ranges: Ranges
) -> Iterator[Sequence[DeadLetterRecord]]:
    """Yield the committed dead letters inside the ranges; those of a partition in their order.

    Raises:
        Unavailable: the broker went away, or the topic lost records while they were read.
    """
    with contextlib.closing(TopicReader(client_config, topic)) as reader:
        for records in reader.read_ranges(ranges):
            yield [letter_of(record) for record in records]


def ranges_since(
    client_config: Mapping[str, Any], topic: str, since_ms: int | None, partition: int | None
) -> Ranges:
    """Return what there is to read of the topic now.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the dead-letter topic.
        since_ms: only what was written at or after this time, milliseconds since the epoch.
        partition: only this one.

    Raises:
        BadInputError: there is no such partition.
        StartupError: there is no such topic.
        Unavailable: no broker answered in time.
    """
    admin = ClusterAdmin(client_config)
    ranges = admin.committed_ranges(topic)
    if partition is not None:
        if partition not in ranges:
            raise BadInputError(f"{topic} has no partition {partition}; it has 0 to {max(ranges)}")
        ranges = {partition: ranges[partition]}
    if since_ms is not None:
        begins = admin.offsets_since(topic, ranges, since_ms)
        ranges = {p: (max(begins.get(p, end), begin), end) for p, (begin, end) in ranges.items()}
    return ranges


def read_letter(
    client_config: Mapping[str, Any], topic: str, partition: int, offset: int
) -> DeadLetterRecord:
    """Read one dead letter.

    Raises:
        BadInputError: there is none at this offset.
        StartupError: there is no such topic.
        Unavailable: no broker answered in time.
    """
    begin, end = ranges_since(client_config, topic, None, partition)[partition]
    if begin <= offset < end:
        for letters in letters_between(client_config, topic, {partition: (offset, offset + 1)}):
            for letter in letters:
                return letter
    raise BadInputError(
        f"{topic} has no dead letter at {partition}:{offset}; partition {partition} holds {begin} to"
        f" {end - 1}, some of which are Kafka's own marks; see: purchase-stream dlq list"
    )


def letter_of(record: Record) -> DeadLetterRecord:
    """Return a record as a dead letter."""
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
    """What there is.

    Attributes:
        counts: dead letters by code, the most frequent first.
        newest: the newest of them, the newest first.
    """

    counts: dict[str, int]
    newest: Sequence[DeadLetterRecord]


def listing(letters: Iterable[DeadLetterRecord], codes: Sequence[str], limit: int) -> Listing:
    """Go through dead letters once.

    Args:
        letters: all that there are.
        codes: which count; empty means all.
        limit: how many of the newest to keep.
    """
    counts: Counter[str] = Counter()
    heap: list[tuple[int, int, int, DeadLetterRecord]] = []
    for letter in letters:
        if codes and letter.code not in codes:
            continue
        counts[letter.code] += 1
        # Where it is makes it unique: two dead letters are never compared themselves.
        entry = (letter.timestamp_ms, letter.offset, letter.partition, letter)
        if len(heap) < limit:
            heappush(heap, entry)
        elif limit:
            heappushpop(heap, entry)
    return Listing(dict(counts.most_common()), [entry[-1] for entry in sorted(heap, reverse=True)])
