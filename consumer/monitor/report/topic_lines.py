"""The predictions topic as lines of the audit log, for whoever has no log or only a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import numpy as np

from consumer.audit.topic_reader import committed_ranges, committed_records
from consumer.core.decode import Decoder
from consumer.core.unframe import WriterSchemas
from consumer.kafka.client_config import common
from consumer.kafka.topic_probe import TopicProbe
from consumer.monitor.audit_lines import audit_lines
from consumer.settings import Settings
from schemas.repository import purchase_prediction

_CLOCKS_APART_MS: Final = 60_000
"""A record is made after its prediction; by clocks that may differ by so much."""


def topic_lines(
    settings: Settings, writers: WriterSchemas, since: datetime | None
) -> Iterator[tuple[str, int, list[bytes]]]:
    """Yield, in batches, the line that each committed prediction has, or would have, in the audit log.

    Args:
        settings: the broker and the topics.
        writers: where the schemas of predictions come from.
        since: predictions made before this time need not be among them.

    Returns:
        The topic, the number of the batch's first line (from 1), and the lines. A record that is no
        prediction has none.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker does not answer.
    """
    topic, client_config = settings.topics.predictions, common(settings.kafka)
    ranges = committed_ranges(client_config, topic)
    if since is not None:
        begin_ms = int(since.timestamp() * 1000) - _CLOCKS_APART_MS
        begins = TopicProbe(client_config, topic).offsets_since(sorted(ranges), max(begin_ms, 0))
        ranges = {
            partition: (max(first, begins.get(partition, end)), end)
            for partition, (first, end) in ranges.items()
        }
    decoder, number = Decoder(purchase_prediction(), writers), 1
    for messages in committed_records(client_config, topic, ranges):
        predictions, _ = decoder.decode([message.value() for message in messages])
        lines = audit_lines(
            predictions,
            source_topic=settings.topics.events,
            output_topic=topic,
            partitions=np.array([message.partition() for message in messages], np.int64),
            offsets=np.array([message.offset() for message in messages], np.int64),
        ).splitlines()
        yield topic, number, lines
        number += len(lines)
