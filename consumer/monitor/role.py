"""The monitor's loop: read committed predictions, put them in the audit log, show them to the other views.

One round is one fsync and one checkpoint. A batch stays in hand until the log has it; the other
views are shown a batch after that, so what they show is never ahead of the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from consumer.conditions import Conditions, Name
from consumer.core.decode import Decoder, WriterSchemas
from consumer.errors import Unavailable
from consumer.kafka.client_config import common
from consumer.kafka.tail import CommittedTail, TailBatch
from consumer.kafka.topic_probe import TopicProbe
from consumer.monitor.audit_lines import audit_lines
from consumer.monitor.audit_log import AuditLog
from schemas.repository import purchase_prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consumer.core.batch import EventBatch, Rejection
    from consumer.settings import Settings

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 10_000
"""Records per round: enough that an fsync costs little per line."""

MAX_WAIT_S: Final = 0.1
"""How long a round waits for that many: a prediction is in the log about so much later. The loop
also stops at least this often."""

PAUSE_S: Final = 0.5
"""Between tries while the disk or the schema registry is away."""

_COORDINATES_LOGGED: Final = 100


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """One round's predictions as the views get them.

    Attributes:
        records: the records as they were read.
        predictions: those that could be decoded; ``predictions.rows`` are indexes into ``records``.
        undecodable: the others: bytes in the topic that are no predictions.
    """

    records: TailBatch
    predictions: EventBatch = field(repr=False)
    undecodable: Sequence[Rejection] = field(repr=False)


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
        conditions: Conditions,
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
        self._stopping = False

    @property
    def next_offsets(self) -> dict[int, int]:
        """How far the log has come, by partition of the predictions topic."""
        return self._audit_log.next_offsets

    def stop(self) -> None:
        """Finish the round, then return from :meth:`run`. Safe to call from a signal handler."""
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
        finally:
            self._tail.close()
            self._audit_log.close()

    def run_once(self) -> None:
        """Do one round; after an outage, try the same batch again."""
        if self._in_hand is None:
            self._in_hand = self._tail.poll(MAX_RECORDS, MAX_WAIT_S)
        if self._in_hand is None:
            self._after_round(0)
            return
        try:
            batch = self._decode(self._in_hand)
            report = self._record(batch)
        except Unavailable as outage:
            self._conditions.set(Name(outage.condition), str(outage))
            self._sleep(PAUSE_S)
            return
        self._in_hand = None
        self._conditions.clear(Name.AUDIT_LOG)
        self._conditions.clear(Name.SCHEMA_REGISTRY)
        if batch.undecodable:
            _warn_of(batch, self._output_topic)
        for view in self._views:
            view.show(batch)
        self._observe(report)
        self._after_round(report.n_records)

    def _decode(self, records: TailBatch) -> CommittedBatch:
        predictions, undecodable = self._decoder.decode(records.values)
        return CommittedBatch(records, predictions, undecodable)

    def _record(self, batch: CommittedBatch) -> Round:
        """Put a batch in the audit log."""
        lines = audit_lines(
            batch.predictions,
            source_topic=self._source_topic,
            output_topic=self._output_topic,
            partitions=batch.records.partitions,
            offsets=batch.records.offsets,
        )
        self._audit_log.append(lines, batch.records.next_offsets)
        return Round(
            n_records=len(batch.records),
            n_lines=len(batch.predictions),
            n_undecodable=len(batch.undecodable),
            line_bytes=len(lines),
        )


def open_monitor(
    settings: Settings,
    writers: WriterSchemas,
    conditions: Conditions,
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
    rows = [rejection.row for rejection in batch.undecodable]
    log.warning(
        "records that are no predictions are not in the audit log",
        topic=topic,
        n_records=len(rows),
        coordinates=[
            (batch.records.partitions[row], batch.records.offsets[row]) for row in rows[:_COORDINATES_LOGGED]
        ],
        first=f"{batch.undecodable[0].code}: {batch.undecodable[0].detail}",
    )
