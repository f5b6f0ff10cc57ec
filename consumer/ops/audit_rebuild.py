"""Rebuild the audit log from the predictions topic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from consumer.errors import StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.schema_registry import writer_schemas
from consumer.monitor.audit.hashed_ids import id_hasher
from consumer.monitor.audit.log import AuditLog, segment_paths
from consumer.monitor.audit.removals import Expired, read_removals, write_removals
from consumer.monitor.audit.topic import read_predictions
from consumer.settings import Settings


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild.

    Attributes:
        lines: The number of lines written.
        erased: The number of predictions of erased students, which have no line.
        undecodable: The number of records that are not predictions and have no line.
        expired: By partition, the first offset that the topic still has. Earlier lines are lost.
    """

    lines: int = 0
    erased: int = 0
    undecodable: int = 0
    expired: dict[int, int] = field(default_factory=dict)


def rebuild_audit_log(settings: Settings, path: Path, on_progress: Callable[[int], None]) -> Rebuilt:
    """Write a log with a line for every prediction that the topic has now, and its checkpoint.

    The monitor can resume from the new log. Lines of different partitions may be in another order than in
    the lost log. Predictions of erased students get no line, as long as the file with the removals is
    where it was.

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
    admin = ClusterAdmin(client_config.common(settings.kafka))
    hasher, removals = id_hasher(settings.audit), read_removals(path)
    source = admin.topic_identity(settings.topics.predictions)
    ranges = admin.committed_ranges(settings.topics.predictions)
    rebuilt = Rebuilt(expired={partition: start for partition, (start, _) in ranges.items() if start > 0})
    if removals.expired.segments:  # the new log has these lines again, as far as the topic has them
        write_removals(path, removals.with_expired(Expired()))
    log = AuditLog.open(path, rotate_bytes=settings.audit.rotate_bytes, source=source)
    with contextlib.closing(log):
        for batch in read_predictions(settings, writer_schemas(settings), ranges, removals):
            log.append(batch.lines(settings, hasher), batch.next_offsets)
            rebuilt.lines += len(batch.predictions)
            rebuilt.erased += batch.erased
            rebuilt.undecodable += batch.undecodable
            on_progress(rebuilt.lines)
        log.append(b"", {partition: stop for partition, (_, stop) in ranges.items()})
    return rebuilt
