"""Finds the prediction or the dead letter of an event, by halving: outputs keep the order of their events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from consumer.audit.topic_reader import committed_ranges
from consumer.dlq.topic import letter_of
from consumer.explain.bisect import narrowed
from consumer.kafka.partition_reader import PartitionReader
from consumer.monitor.audit_lines import audit_lines

if TYPE_CHECKING:
    from confluent_kafka import Message

    from consumer.core.decode import Decoder

SourceOf = Callable[["Message"], tuple[int, int] | None]
"""Tells partition and offset of the event that a record is of; ``None`` for a foreign record."""


def find_output(
    client_config: Mapping[str, Any], topic: str, source: tuple[int, int], source_of: SourceOf
) -> list[Message]:
    """Return the records of an event in an output topic: one, or none, or several where there may be.

    A record is in the partition that its event's maps to, among those of other partitions' events.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker is away.
    """
    ranges = committed_ranges(client_config, topic)
    event_partition, event_offset = source
    partition = event_partition % len(ranges)
    with contextlib.closing(PartitionReader(client_config, topic)) as reader:

        def probe(begin: int, end: int) -> tuple[int, int] | None:
            for message in reader.records(partition, begin, end):
                of = source_of(message)
                if of is not None and of[0] == event_partition:
                    return message.offset() or 0, of[1]
            return None

        begin, end = narrowed(probe, *ranges[partition], event_offset)
        return [message for message in reader.records(partition, begin, end) if source_of(message) == source]


def prediction_source(decoder: Decoder) -> SourceOf:
    """Return what tells the event of a prediction.

    Args:
        decoder: reads predictions.
    """

    def source_of(message: Message) -> tuple[int, int] | None:
        decoded, _ = decoder.decode([message.value()])
        if not len(decoded):
            return None
        return int(decoded.numbers["source_partition"][0]), int(decoded.numbers["source_offset"][0])

    return source_of


def letter_source(events_topic: str) -> SourceOf:
    """Return what tells the event of a dead letter."""

    def source_of(message: Message) -> tuple[int, int] | None:
        body = letter_of(message).body
        if body is None or body["source"]["topic"] != events_topic:
            return None
        return body["source"]["partition"], body["source"]["offset"]

    return source_of


def prediction_fields(decoder: Decoder, message: Message, events_topic: str) -> dict[str, Any]:
    """Return a prediction as its line in the audit log says it."""
    decoded, _ = decoder.decode([message.value()])
    line = audit_lines(
        decoded,
        source_topic=events_topic,
        output_topic=str(message.topic()),
        partitions=[message.partition() or 0],
        offsets=[message.offset() or 0],
    )
    fields: dict[str, Any] = orjson.loads(line)
    return fields
