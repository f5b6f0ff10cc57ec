"""The monitor's loop: read committed predictions, put them in the audit log, show them to the other views.

One round is one fsync and one checkpoint. While a batch is written, in a thread of its own which
is nearly all waiting for the disk, the next is read and its lines are made; so at most two batches
are in hand. A batch stays in hand until the log has it; the other views are shown a batch after
that, so what they show is never ahead of the log.

A batch of committed predictions on its way through the monitor.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from consumer.errors import Condition, Unavailable
from consumer.kafka.admin import TopicProbe
from consumer.kafka.client_config import common
from consumer.kafka.reader import CommittedTail, TailBatch
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import AuditLog
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.rejections import Rejections
from consumer.runtime.readiness import Readiness
from schemas.repository import purchase_prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumer.settings import Settings

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 7_000
"""Records per round: enough that an fsync costs little per line."""

MAX_WAIT_S: Final = 0.1
"""How long a round waits for that many: a prediction is in the log about so much later. The loop
also stops at least this often."""

PAUSE_S: Final = 0.5
"""Between tries while the disk or the schema registry is away."""

_COORDINATES_LOGGED: Final = 100


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A batch on its way to the disk; ``done`` ends when the log has it, or with what went wrong."""

    entry: Entry
    done: Future[None]


class View(Protocol):
    """Something that people look at, made of committed predictions."""

    def show(self, batch: CommittedBatch) -> None:
        """Take in predictions that are in the audit log; each is shown once per run, in order."""


class Monitor:
    """Keeps the audit log, and the views beside it, in step with the predictions topic.

    Args:
        tail: the predictions topic.
        audit_log: the log; ``tail`` was begun at its ``next_offsets``.
        decoder: reads predictions.
        source_topic: the topic of the events, named in every line.
        output_topic: the topic of the predictions, named in every line.
        conditions: what keeps the monitor from being ready.
        views: what else is made of the predictions, such as drift.
        observe: told of every round.
        after_round: called after every turn of the loop with the number of records it took in.
        sleep: pauses for seconds.
    """

    def __init__(
        self,
        *,
        tail: CommittedTail,
        audit_log: AuditLog,
        decoder: Decoder,
        source_topic: str,
        output_topic: str,
        conditions: Readiness,
        views: Sequence[View] = (),
        observe: Callable[[Round], None] = lambda _: None,
        after_round: Callable[[int], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tail = tail
        self._audit_log = audit_log
        self._decoder = decoder
        self._source_topic = source_topic
        self._output_topic = output_topic
        self._conditions = conditions
        self._views = views
        self._observe = observe
        self._after_round = after_round
        self._sleep = sleep
        self._in_hand: TailBatch | None = None
        self._in_flight: _InFlight | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit-log")
        self._stopping = False

    @property
    def next_offsets(self) -> dict[int, int]:
        """How far the log has come, by partition of the predictions topic."""
        return self._audit_log.next_offsets

    def stop(self) -> None:
        """Finish what is in hand, then return from :meth:`run`. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until told to stop, then close the topic and the log.

        Raises:
            StartupError: the topic or the log is not what it was; a person has to decide.
            FatalError: the Kafka client cannot go on.
        """
        try:
            while not self._stopping:
                self.run_once()
            self._finish()
        finally:
            self._tail.close()
            self._writer.shutdown()
            self._audit_log.close()

    def run_once(self) -> None:
        """Read a batch, and have it written once the log has the one before; after an outage, try again."""
        if self._in_hand is None:
            self._in_hand = self._tail.poll(MAX_RECORDS, MAX_WAIT_S)
        try:
            if self._in_hand is None:
                self._tell(self._land())
            else:
                self._take(self._in_hand)
        except Unavailable as outage:
            self._conditions.set(outage.condition, str(outage))
            self._sleep(PAUSE_S)

    def _take(self, records: TailBatch) -> None:
        """Make the lines of a batch while the one before it lands, then let it take off."""
        entry = self._prepare(records)
        landed = self._land()
        self._in_hand = None
        self._launch(entry)
        if landed is not None:
            self._tell(landed)
        if len(records) < MAX_RECORDS:  # nothing waits to be read meanwhile
            self._tell(self._land())

    def _prepare(self, records: TailBatch) -> Entry:
        """Decode a batch and make its lines."""
        predictions, undecodable = self._decoder.decode(records.values)
        self._conditions.clear(Condition.SCHEMA_REGISTRY)
        lines = audit_lines(
            predictions,
            source_topic=self._source_topic,
            output_topic=self._output_topic,
            partitions=records.partitions,
            offsets=records.offsets,
        )
        return Entry(CommittedBatch(records, predictions, undecodable), lines)

    def _launch(self, entry: Entry) -> None:
        """Have a batch written while we go on."""
        done = self._writer.submit(self._audit_log.append, entry.lines, entry.batch.records.next_offsets)
        self._in_flight = _InFlight(entry, done)

    def _land(self) -> Entry | None:
        """Wait until the log has the batch in flight, and return that; where it fails, begin again.

        Raises:
            Unavailable: the disk is full or failing; the same batch is on its way once more.
        """
        flight = self._in_flight
        if flight is None:
            return None
        try:
            flight.done.result()
        except Unavailable:
            self._launch(flight.entry)
            raise
        self._in_flight = None
        self._conditions.clear(Condition.AUDIT_LOG)
        return flight.entry

    def _tell(self, landed: Entry | None) -> None:
        """Show the views what the log has, and say that the loop has turned."""
        if landed is None:
            self._after_round(0)
            return
        if landed.batch.undecodable:
            _warn_of(landed.batch, self._output_topic)
        for view in self._views:
            view.show(landed.batch)
        report = landed.told()
        self._observe(report)
        self._after_round(report.n_records)

    def _finish(self) -> None:
        """Let the batch in flight reach the log; what cannot is read again by the next run."""
        try:
            self._tell(self._land())
        except Unavailable as outage:
            log.warning(
                "stopped with a batch in hand; it is read again after the restart", reason=str(outage)
            )


def open_monitor(
    settings: Settings,
    writers: WriterSchemas,
    conditions: Readiness,
    *,
    views: Sequence[View] = (),
    observe: Callable[[Round], None] = lambda _: None,
    after_round: Callable[[int], None] = lambda _: None,
) -> Monitor:
    """Open the log and the topic where the log left it.

    Args:
        settings: everything that can be set.
        writers: where the schemas of predictions come from.
        conditions: what keeps the monitor from being ready.
        views: what else is made of the predictions.
        observe: told of every round.
        after_round: called after every turn of the loop.

    Raises:
        StartupError: the topic is missing, the log is another's, or records in between are lost.
        Unavailable: Kafka or the disk is away.
    """
    topic, client_config = settings.topics.predictions, common(settings.kafka)
    audit_log = AuditLog.open(
        settings.audit.path,
        rotate_bytes=settings.audit.rotate_bytes,
        source=TopicProbe(client_config, topic).identity(),
    )
    try:
        tail = CommittedTail(client_config, topic, audit_log.next_offsets, conditions)
        # From here on a record that retention removes before it was read is noticed as a gap.
        audit_log.append(b"", tail.next_offsets)
    except BaseException:
        audit_log.close()
        raise
    return Monitor(
        tail=tail,
        audit_log=audit_log,
        decoder=Decoder(purchase_prediction(), writers),
        source_topic=settings.topics.events,
        output_topic=topic,
        conditions=conditions,
        views=views,
        observe=observe,
        after_round=after_round,
    )


def _warn_of(batch: CommittedBatch, topic: str) -> None:
    """Say which records have no line, and why the first of them has none."""
    rejections = list(batch.undecodable)
    log.warning(
        "records that are no predictions are not in the audit log",
        topic=topic,
        n_records=len(rejections),
        coordinates=[
            (int(batch.records.partitions[rejection.row]), int(batch.records.offsets[rejection.row]))
            for rejection in rejections[:_COORDINATES_LOGGED]
        ],
        first=f"{rejections[0].code}: {rejections[0].detail}",
    )


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """One round's predictions as the views get them.

    Attributes:
        records: the records as they were read.
        predictions: those that could be decoded; ``predictions.rows`` are indexes into ``records``.
        undecodable: the others: bytes in the topic that are no predictions.
    """

    records: TailBatch
    predictions: RecordBatch = field(repr=False)
    undecodable: Rejections = field(repr=False)


@dataclass(frozen=True, slots=True)
class Round:
    """What there is to tell of one round.

    Attributes:
        n_records: records read.
        n_lines: lines added to the audit log.
        n_undecodable: records that are no predictions; they have no line.
        line_bytes: size of the lines.
    """

    n_records: int
    n_lines: int
    n_undecodable: int
    line_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch with the lines that it has in the log."""

    batch: CommittedBatch
    lines: bytes = field(repr=False)

    def told(self) -> Round:
        """Return what there is to tell of it."""
        return Round(
            n_records=len(self.batch.records),
            n_lines=len(self.batch.predictions),
            n_undecodable=len(self.batch.undecodable),
            line_bytes=len(self.lines),
        )
