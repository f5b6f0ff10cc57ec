"""Reads the dead-letter topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from consumer.audit.topic_reader import Ranges, committed_ranges, committed_records
from consumer.dlq.letter import Letter, parse_body
from consumer.errors import BadInputError
from consumer.kafka.record_headers import headers_of
from consumer.kafka.topic_probe import TopicProbe

if TYPE_CHECKING:
    from confluent_kafka import Message


def letters_between(
    client_config: Mapping[str, Any], topic: str, ranges: Ranges
) -> Iterator[Sequence[Letter]]:
    """Yield the committed dead letters inside the ranges; those of a partition in their order.

    Raises:
        Unavailable: the broker went away, or the topic lost records while they were read.
    """
    for messages in committed_records(client_config, topic, ranges):
        yield [letter_of(message) for message in messages]


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
    ranges = committed_ranges(client_config, topic)
    if partition is not None:
        if partition not in ranges:
            raise BadInputError(f"{topic} has no partition {partition}; it has 0 to {max(ranges)}")
        ranges = {partition: ranges[partition]}
    if since_ms is not None:
        begins = TopicProbe(client_config, topic).offsets_since(list(ranges), since_ms)
        ranges = {p: (max(begins.get(p, end), begin), end) for p, (begin, end) in ranges.items()}
    return ranges


def read_letter(client_config: Mapping[str, Any], topic: str, partition: int, offset: int) -> Letter:
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


def letter_of(message: Message) -> Letter:
    """Return a record as a dead letter."""
    value = message.value()
    return Letter(
        partition=message.partition(),  # type: ignore[arg-type]  # a record has coordinates
        offset=message.offset(),  # type: ignore[arg-type]  # the same
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=value,
        headers=headers_of(message),
        body=parse_body(value),
    )
