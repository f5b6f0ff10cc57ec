"""Commit batches, and retry until every row is committed or belongs to another member of the group.

The rest of a batch whose commit failed is kept as a stack of pending batches. A batch with a record that the
broker refuses is split in two, until that record is alone. Its event then becomes a dead letter, which holds
less and less of the event until the broker accepts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import structlog

from consumer.errors import (
    BatchAborted,
    CommitOutcomeUnknown,
    Condition,
    RecordRejectedByBroker,
    Unavailable,
)
from consumer.kafka.producer import OpenTransaction
from consumer.kafka.session import Session
from consumer.pipeline.batch import RawBatch
from consumer.runtime.readiness import Readiness
from consumer.scorer.breaker import Breaker
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.outputs import OutputBatch, OutputTopics
from consumer.scorer.processing import BatchProcessor, ProcessedBatch

T = TypeVar("T")

log = structlog.get_logger(__name__)

COMMIT_FAILURES: Final = (BatchAborted, CommitOutcomeUnknown, Unavailable)
"""The exceptions after which a batch is retried."""

_FIRST_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 2.0
_FAILURES_BEFORE_NOT_READY: Final = 4
_MIN_DEAD_LETTER_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """Rows that are not committed yet.

    Attributes:
        raw: The rows.
        commit_outcome_unknown: Whether the last attempt may have committed them.
        max_dead_letter_bytes: Set if the broker has refused the record of this single event: the size limit
            of the dead letter that takes its place.
        n_failures: The number of failed attempts.
        pause_s: How long to wait before the next attempt.
    """

    raw: RawBatch
    commit_outcome_unknown: bool = False
    max_dead_letter_bytes: int | None = None
    n_failures: int = 0
    pause_s: float = 0.0

    def after_failure(self, *, commit_outcome_unknown: bool) -> PendingBatch:
        """Return the same rows for another attempt: at once after a first failure, then after pauses."""
        n_failures = self.n_failures + 1
        return replace(
            self,
            commit_outcome_unknown=commit_outcome_unknown,
            n_failures=n_failures,
            pause_s=min(_FIRST_PAUSE_S * 2 ** (n_failures - 2), _MAX_PAUSE_S) if n_failures > 1 else 0.0,
        )

    def split(self) -> list[PendingBatch]:
        """Return two halves."""
        half = len(self.raw) // 2
        return [
            PendingBatch(self.raw.select_rows(range(half))),
            PendingBatch(self.raw.select_rows(range(half, len(self.raw)))),
        ]


@dataclass(frozen=True, slots=True)
class StartedCommit:
    """A batch whose records are produced.

    Attributes:
        outputs: The batch.
        transaction: Commits it.
    """

    outputs: OutputBatch
    transaction: OpenTransaction = field(repr=False)


class Committer:
    """Publishes and commits batches.

    Args:
        session: The connection to Kafka.
        processor: Processes a batch again when it is retried.
        topics: The output topics.
        max_dead_letter_bytes: The largest record that the dead-letter topic accepts.
        telemetry: Counts what was committed and what was aborted.
        readiness: Receives outages.
        heartbeat: Called before every wait. It may raise in order to stop.
        limit_commit: A context that limits how long a commit may take.
        breaker: Holds batches of a schema whose events are rejected.
        on_committed: Called with every committed batch.
    """

    def __init__(
        self,
        *,
        session: Session,
        processor: BatchProcessor,
        topics: OutputTopics,
        max_dead_letter_bytes: int,
        telemetry: ScorerTelemetry,
        readiness: Readiness,
        heartbeat: Callable[[], None],
        limit_commit: Callable[[], AbstractContextManager[None]] = nullcontext,
        breaker: Breaker | None = None,
        on_committed: Callable[[ProcessedBatch], None] = lambda _: None,
    ) -> None:
        self._session = session
        self._processor = processor
        self._topics = topics
        self._max_dead_letter_bytes = max_dead_letter_bytes
        self._telemetry = telemetry
        self._readiness = readiness
        self._heartbeat = heartbeat
        self._limit_commit = limit_commit
        self._breaker = breaker
        self._on_committed = on_committed
        self._next_offsets: dict[int, int] = {}

    @property
    def next_offsets(self) -> dict[int, int]:
        """The offset after the last committed event, by partition."""
        return dict(self._next_offsets)

    def prepare(self, raw: RawBatch) -> OutputBatch:
        """Process a batch and build its records.

        Raises:
            Unavailable: The schema registry is away, or the model fails.
            InvariantError: Rows were lost or duplicated.
        """
        return self._topics.records(self._processor.process(raw), self._max_dead_letter_bytes)

    def begin(self, outputs: OutputBatch) -> StartedCommit:
        """Produce the records of a batch.

        Raises:
            BatchAborted, CommitOutcomeUnknown, Unavailable, FatalError: See :meth:`Session.begin`.
            Unavailable: The breaker holds the batch; nothing was produced.
        """
        if self._breaker is not None:
            self._breaker.check(outputs.processed)
        return StartedCommit(outputs, self._session.begin(outputs.records, outputs.next_offsets))

    def commit(self, started: StartedCommit) -> float:
        """Commit a batch, and return how many seconds that took. May run in another thread.

        Raises:
            BatchAborted, CommitOutcomeUnknown, Unavailable, FatalError: See :meth:`OpenTransaction.commit`.
        """
        started_s = time.perf_counter()
        with self._limit_commit():
            started.transaction.commit()
        return time.perf_counter() - started_s

    def note_committed(self, outputs: OutputBatch, commit_s: float) -> None:
        """Record that a batch is committed, and that every outage it waited for is over."""
        self._next_offsets |= outputs.next_offsets
        for condition in (Condition.BROKER, Condition.MODEL, Condition.SCHEMA_REGISTRY, Condition.BREAKER):
            self._readiness.clear(condition)
        if self._breaker is not None:
            self._breaker.note_committed(outputs.processed)
        report = outputs.processed.report({**outputs.durations_s, "commit": commit_s})
        self._telemetry.batch_committed(report, self._processor.now_s())
        self._on_committed(outputs.processed)

    def commit_with_retry(
        self, raw: RawBatch, failure: BatchAborted | CommitOutcomeUnknown | Unavailable | None = None
    ) -> None:
        """Process and commit a batch, without overlap, until none of its rows is left.

        Args:
            raw: The batch.
            failure: The failure of the attempt that was made already, if any.
        """
        first = PendingBatch(raw)
        pending = [first] if failure is None else self._after_failure(first, failure)
        while pending:
            pending += self._attempt(pending.pop())

    def wait_out_outage(self, function: Callable[[], T]) -> T:
        """Call a function until it does not raise :class:`Unavailable`; stay in the group meanwhile."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._heartbeat()
            try:
                return function()
            except Unavailable as outage:
                self._readiness.set(outage.condition, str(outage))
            self._session.pause_and_poll(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _attempt(self, pending: PendingBatch) -> list[PendingBatch]:
        """Try to commit a pending batch. Return what is left as a stack: the rows to commit next are last."""
        if pending.pause_s:
            self._session.pause_and_poll(pending.pause_s)
        pending = self.wait_out_outage(partial(self._without_committed_rows, pending))
        if not len(pending.raw):
            self._readiness.clear(Condition.BREAKER)  # The held rows belong to another member now.
            return []
        refused_bytes = pending.max_dead_letter_bytes
        try:
            if refused_bytes is None:
                outputs = self.prepare(pending.raw)
            else:
                refused = self._processor.process(pending.raw).refused_by_broker()
                outputs = self._topics.records(refused, refused_bytes)
            commit_s = self.commit(self.begin(outputs))
        except COMMIT_FAILURES as failure:
            return self._after_failure(pending, failure)
        if refused_bytes is not None:
            self._max_dead_letter_bytes = min(self._max_dead_letter_bytes, refused_bytes)
            self._readiness.clear(Condition.PARTITION)
        self.note_committed(outputs, commit_s)
        return []

    def _without_committed_rows(self, pending: PendingBatch) -> PendingBatch:
        """Return the rows that are not committed yet. The outcome of the commit is then known."""
        self._session.reconnect()
        raw = self._session.uncommitted_rows(
            pending.raw, commit_outcome_unknown=pending.commit_outcome_unknown
        )
        return replace(pending, raw=raw, commit_outcome_unknown=False)

    def _after_failure(
        self, pending: PendingBatch, failure: BatchAborted | CommitOutcomeUnknown | Unavailable
    ) -> list[PendingBatch]:
        """Report a failed attempt. Return what is left as a stack: the rows to commit next are last."""
        if isinstance(failure, Unavailable) and failure.condition is Condition.BREAKER:
            self._readiness.set(failure.condition, str(failure))
            return [pending.after_failure(commit_outcome_unknown=False)]
        self._telemetry.batch_aborted()
        if isinstance(failure, RecordRejectedByBroker):
            if len(pending.raw) > 1:
                return pending.split()[::-1]
            return [self._with_smaller_dead_letter(pending, str(failure))]
        log.warning("batch not committed, trying again", n_events=len(pending.raw), reason=str(failure))
        pending = pending.after_failure(commit_outcome_unknown=isinstance(failure, CommitOutcomeUnknown))
        if isinstance(failure, Unavailable):
            self._readiness.set(failure.condition, str(failure))
        elif pending.n_failures >= _FAILURES_BEFORE_NOT_READY:
            self._readiness.set(Condition.BROKER, str(failure))
        return [pending]

    def _with_smaller_dead_letter(self, pending: PendingBatch, reason: str) -> PendingBatch:
        """Return a refused event for another attempt, with half the size limit for its dead letter."""
        refused_bytes = pending.max_dead_letter_bytes
        max_bytes = self._max_dead_letter_bytes if refused_bytes is None else refused_bytes // 2
        if max_bytes >= _MIN_DEAD_LETTER_BYTES:
            return replace(pending, max_dead_letter_bytes=max_bytes, pause_s=0.0)
        self._readiness.set(Condition.PARTITION, f"no dead letter is small enough for its topic: {reason}")
        return replace(pending, max_dead_letter_bytes=_MIN_DEAD_LETTER_BYTES, pause_s=_MAX_PAUSE_S)
