"""Finds events by their id, in what the events topic was given since a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer.audit.topic_reader import committed_ranges, committed_records
from consumer.core.decode import Decoder
from consumer.core.unframe import WriterSchemas
from consumer.kafka import client_config
from consumer.kafka.topic_probe import TopicProbe
from schemas.repository import engagement_event

if TYPE_CHECKING:
    from consumer.settings import Settings


def places_of(
    settings: Settings, writers: WriterSchemas, event_id: str, since_ms: int
) -> list[tuple[int, int]]:
    """Return partition and offset of each event with an id, in their order.

    Args:
        settings: where Kafka is, and the topic.
        writers: where writer schemas come from.
        event_id: the id.
        since_ms: look at what was written at or after this time only, milliseconds since the epoch.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker is away.
    """
    client, topic = client_config.common(settings.kafka), settings.topics.events
    ranges = committed_ranges(client, topic)
    begins = TopicProbe(client, topic).offsets_since(list(ranges), since_ms)
    parts = {p: (max(begin, begins.get(p, end)), end) for p, (begin, end) in ranges.items()}
    decoder, wanted = Decoder(engagement_event(), writers), event_id.encode()
    found: list[tuple[int, int]] = []
    for messages in committed_records(client, topic, parts):
        # In every framing the id stands in the bytes as it is: only these few are worth decoding.
        likely = [message for message in messages if wanted in (message.value() or b"")]
        decoded, _ = decoder.decode([message.value() for message in likely])
        for i, row in enumerate(decoded.rows.tolist()):
            if decoded.event(i)["event_id"] == event_id:
                message = likely[row]
                found.append((message.partition() or 0, message.offset() or 0))
    return sorted(found)
