"""Run the monitor's loop: read committed predictions, append them to the audit log, update the views.

Each batch costs one fsync and one checkpoint. A background thread appends a batch, mostly waiting for
the disk, while the loop reads and formats the next one, so at most two batches are in memory. The views
get a batch only after the log has it: they never show more than the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from consumer.errors import Condition, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.client_config import common
from consumer.kafka.reader import PolledRecords, TopicFollower
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import AuditLog
from consumer.monitor.audit.removals import Removals
from consumer.monitor.audit.retention import Retention
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code, Rejections
from consumer.runtime.inflight import InFlight
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumer.monitor.audit.hashed_ids import IdHasher
    from consumer.settings import Settings, TopicSettings

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 7_000
"""Records per batch: enough to make the cost of the fsync per line small."""

MAX_WAIT_S: Final = 0.1
"""How long to wait for a full batch. It limits how late a prediction reaches the log, and how late
the loop notices that it should stop."""

PAUSE_S: Final = 0.5
"""Pause between attempts during an outage of the disk or the schema registry."""

_COORDINATES_LOGGED: Final = 100


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """A batch of committed predictions.

    Attributes:
        records: The records as read from the topic.
        predictions: The decoded predictions, without those of erased students; ``predictions.rows`` are
            indexes into ``records``.
        undecodable: The records that are not predictions. Tombstones are none of them.
    """

    records: PolledRecords
    predictions: RecordBatch = field(repr=False)
    undecodable: Rejections = field(repr=False)


@dataclass(frozen=True, slots=True)
class PendingAppend:
    """A batch whose audit log lines are not in the log yet."""

    batch: CommittedBatch
    lines: bytes = field(repr=False)

    @property
    def stats(self) -> BatchStats:
        """The counts for the metrics."""
        return BatchStats(
            records=len(self.batch.records),
            lines=len(self.batch.predictions),
            undecodable=len(self.batch.undecodable),
            line_bytes=len(self.lines),
        )


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Counts of one batch that is in the audit log.

    Attributes:
        records: Records read.
        lines: Lines appended.
        undecodable: Records that are not predictions and have no line.
        line_bytes: Size of the lines.
    """

    records: int
    lines: int
    undecodable: int
    line_bytes: int


class View(Protocol):
    """A view of the committed predictions, such as drift."""

    def observe(self, batch: CommittedBatch) -> None:
        """Add a batch that is in the audit log. Batches come in order, each once per run."""


class Monitor:
    """Keeps the audit log and the views in step with the predictions topic.

    Args:
        tail: Reader of the predictions topic, positioned at the log's next offsets.
        audit_log: The open log.
        decoder: Decodes predictions.
        topics: Names of the topics, for the log lines.
        readiness: The monitor's conditions.
        views: Other views of the predictions.
        removals: Says which students were erased from the log.
        hasher: Hashes the ids in the log; by default they are written as they are.
        retention: Removes old segments of the log.
        on_batch: Called with the counts of every batch in the log.
        on_turn: Called after every turn of the loop, with whether there is a backlog.
        sleep: Pauses for seconds.
    """

    def __init__(
        self,
        *,
        tail: TopicFollower,
        audit_log: AuditLog,
        decoder: Decoder,
        topics: TopicSettings,
        readiness: Readiness,
        views: Sequence[View] = (),
        removals: Removals | None = None,
        hasher: IdHasher | None = None,
        retention: Retention | None = None,
        on_batch: Callable[[BatchStats], None] = lambda _: None,
        on_turn: Callable[[bool], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tail = tail
        self._audit_log = audit_log
        self._decoder = decoder
        self._topics = topics
        self._readiness = readiness
        self._views = views
        self._removals = removals or Removals()
        self._hasher = hasher
        self._retention = retention
        self._on_batch = on_batch
        self._on_turn = on_turn
        self._sleep = sleep
        self._unwritten: PolledRecords | None = None
        self._in_flight = InFlight[PendingAppend, None]("audit-log")
        self._stopping = False
        self._backlog_since_s: float | None = None

    @property
    def backlog_since_s(self) -> float | None:
        """When the log last fell behind the topic, seconds since the epoch; ``None`` if it is not behind."""
        return self._backlog_since_s

    def stop(self) -> None:
        """Make :meth:`run` finish its batches and return. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Run until stopped, then close the topic and the log.

        Raises:
            StartupError: The topic or the log is not the one from before; a person has to decide.
            FatalError: The Kafka client cannot continue.
        """
        try:
            while not self._stopping:
                self.run_once()
            self._finish()
        finally:
            self._tail.close()
            self._in_flight.shutdown()
            self._audit_log.close()

    def run_once(self) -> None:
        """Read a batch and start to append it as soon as the previous one is in the log.

        After an outage, the next call continues with the same batches.
        """
        if self._unwritten is None:
            self._unwritten = self._tail.poll(MAX_RECORDS, MAX_WAIT_S)
        records = self._unwritten
        try:
            if records is None:
                self._finish_append()
                self._enforce_retention()  # no append is in flight
            else:
                self._process(records)
        except Unavailable as outage:
            self._readiness.set(outage.condition, str(outage))
            self._sleep(PAUSE_S)
        else:
            backlog = records is not None and len(records) >= MAX_RECORDS
            if not backlog:
                self._backlog_since_s = None
            elif self._backlog_since_s is None:
                self._backlog_since_s = time.time()
            self._on_turn(backlog)

    def _process(self, records: PolledRecords) -> None:
        """Format a batch while the previous one is being appended, then start to append it.

        Raises:
            Unavailable: The batch was not written; process it again.
        """
        pending = self._prepare(records)
        appended = self._wait_for_append()
        self._in_flight.start(pending, self._append)
        self._unwritten = None
        if appended is not None:
            self._show(appended)
        if len(records) < MAX_RECORDS:  # no backlog, so there is nothing to read meanwhile
            self._finish_append()

    def _prepare(self, records: PolledRecords) -> PendingAppend:
        """Decode a batch and format its lines."""
        decoded, rejections = self._decoder.decode(records.values)
        self._readiness.clear(Condition.SCHEMA_REGISTRY)
        predictions = self._removals.without_erased(decoded, records.partitions, records.offsets)
        lines = audit_lines(
            predictions,
            source_topic=self._topics.events,
            output_topic=self._topics.predictions,
            partitions=records.partitions,
            offsets=records.offsets,
            hasher=self._hasher,
        )
        # Without an erasure, a tombstone is some other program's record.
        undecodable = _without_tombstones(rejections) if self._removals.erasures else rejections
        return PendingAppend(CommittedBatch(records, predictions, undecodable), lines)

    def _append(self, pending: PendingAppend) -> None:
        """Append a batch to the log; runs in the background thread."""
        self._audit_log.append(pending.lines, pending.batch.records.next_offsets)
        self._enforce_retention()

    def _enforce_retention(self) -> None:
        if self._retention is not None:
            self._retention.enforce(self._audit_log)

    def _wait_for_append(self) -> PendingAppend | None:
        """Return the batch in flight once it is in the log, or ``None`` if there is no such batch.

        Raises:
            Unavailable: The disk is full or failing. The append was started again.
        """
        finished = self._in_flight.wait()
        if finished is None:
            return None
        try:
            finished.result()
        except Unavailable:
            self._in_flight.start(finished.item, self._append)
            raise
        self._readiness.clear(Condition.AUDIT_LOG)
        return finished.item

    def _finish_append(self) -> None:
        """Wait for the batch in flight, if any, and show it to the views.

        Raises:
            Unavailable: See :meth:`_wait_for_append`.
        """
        appended = self._wait_for_append()
        if appended is not None:
            self._show(appended)

    def _show(self, appended: PendingAppend) -> None:
        """Pass a batch that is in the log on to the views and the metrics."""
        if appended.batch.undecodable:
            _log_undecodable(appended.batch, self._topics.predictions)
        for view in self._views:
            view.observe(appended.batch)
        self._on_batch(appended.stats)

    def _finish(self) -> None:
        """Wait for the batch in flight. If it cannot be appended, the next run reads it again."""
        try:
            self._finish_append()
        except Unavailable as outage:
            log.warning(
                "stopped before the last batch was in the audit log; the next start reads it again",
                reason=str(outage),
            )
        else:
            self._on_turn(False)  # noqa: FBT003 - no backlog


def open_log_and_topic(settings: Settings, readiness: Readiness) -> tuple[AuditLog, TopicFollower]:
    """Open the audit log, which locks it, and the predictions topic at the log's next offsets.

    Raises:
        StartupError: The topic is missing, the log belongs to another topic, or records that the log
            lacks are no longer in the topic.
        Unavailable: Kafka or the disk is unavailable.
    """
    topic, client_config = settings.topics.predictions, common(settings.kafka)
    audit_log = AuditLog.open(
        settings.audit.path,
        rotate_bytes=settings.audit.rotate_bytes,
        source=ClusterAdmin(client_config).topic_identity(topic),
    )
    try:
        tail = TopicFollower(client_config, topic, audit_log.next_offsets, readiness)
        # Save the start of every partition, so that records that retention removes later are noticed as a
        # gap.
        audit_log.append(b"", tail.next_offsets)
    except BaseException:
        audit_log.close()
        raise
    return audit_log, tail


def _without_tombstones(rejections: Rejections) -> Rejections:
    """Leave out the tombstones, which ``erase`` writes to a compacted topic."""
    if not len(rejections):  # the usual case
        return rejections
    return Rejections.of(rejection for rejection in rejections if rejection.code != Code.TOMBSTONE)


def _log_undecodable(batch: CommittedBatch, topic: str) -> None:
    """Log the coordinates of the records that have no line, and the first reason."""
    rejections = list(batch.undecodable)
    log.warning(
        "records that are not predictions are not in the audit log",
        topic=topic,
        n_records=len(rejections),
        coordinates=[
            (int(batch.records.partitions[rejection.row]), int(batch.records.offsets[rejection.row]))
            for rejection in rejections[:_COORDINATES_LOGGED]
        ],
        first=f"{rejections[0].code}: {rejections[0].detail}",
    )
