"""Write the audit log anew from the predictions topic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from consumer.errors import StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.reader import TopicReader
from consumer.kafka.schema_registry import writer_schemas
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import AuditLog, segment_paths
from consumer.pipeline.decode import Decoder
from consumer.settings import Settings
from schemas.repository import purchase_prediction


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild.

    Attributes:
        lines: The number of lines written.
        undecodable: The number of records that are not predictions and have no line.
        expired: By partition, the first offset that the topic still has. Earlier lines are lost.
    """

    lines: int = 0
    undecodable: int = 0
    expired: dict[int, int] = field(default_factory=dict)


def rebuild_audit_log(settings: Settings, path: Path, on_progress: Callable[[int], None]) -> Rebuilt:
    """Write a log with a line for every prediction that the topic has now, and its checkpoint.

    The monitor can resume from the new log. The order of lines of different partitions may differ from
    the lost log's.

    Args:
        settings: The Kafka cluster and the topics.
        path: The log to write.
        on_progress: Called with the number of lines written so far.

    Raises:
        StartupError: There is no such topic, or a log exists at the path.
        Unavailable: The broker is down, or the disk is full.
    """
    checkpoint = path.with_name(path.name + ".checkpoint")
    if existing := [file for file in (path, checkpoint, *segment_paths(path)) if file.exists()]:
        raise StartupError(f"{existing[0]} exists; stop the monitor, and move the log and its files away")
    topic, client = settings.topics.predictions, client_config.common(settings.kafka)
    admin = ClusterAdmin(client)
    ranges = admin.committed_ranges(topic)
    rebuilt = Rebuilt(expired={partition: start for partition, (start, _) in ranges.items() if start > 0})
    decoder = Decoder(purchase_prediction(), writer_schemas(settings))
    log = AuditLog.open(path, rotate_bytes=settings.audit.rotate_bytes, source=admin.topic_identity(topic))
    with contextlib.closing(log), contextlib.closing(TopicReader(client, topic)) as reader:
        for records in reader.read_ranges(ranges):
            predictions, undecodable = decoder.decode([record.value() for record in records])
            lines = audit_lines(
                predictions,
                source_topic=settings.topics.events,
                output_topic=topic,
                partitions=np.array([record.partition() for record in records], np.int64),
                offsets=np.array([record.offset() for record in records], np.int64),
            )
            log.append(lines, {record.partition(): record.offset() + 1 for record in records})
            rebuilt.lines += len(predictions)
            rebuilt.undecodable += len(undecodable)
            on_progress(rebuilt.lines)
        log.append(b"", {partition: stop for partition, (_, stop) in ranges.items()})
    return rebuilt
