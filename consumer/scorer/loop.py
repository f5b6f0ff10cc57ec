"""The scorer's loop: poll, process, commit.

The scorer has no state of its own. Everything it knows is in Kafka or in the model store.

The commit of a batch overlaps with the next batch: it runs in a background thread, where it mostly waits
for the broker, while the next batch is polled and processed. The records of the next batch are produced
only after that commit has ended, and a revoked partition is given up only then. So at most two batches
are in hand, and a batch that fails is retried before the batch after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from consumer.errors import Unavailable
from consumer.kafka.session import Session
from consumer.pipeline.batch import RawBatch
from consumer.runtime.inflight import InFlight
from consumer.scorer.commit import COMMIT_FAILURES, Committer, StartedCommit
from consumer.scorer.metrics import ScorerTelemetry
from consumer.settings import BatchSettings

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.1
"""How long a poll waits for the first event. The loop runs, and can stop, at least this often."""

STOP_GRACE_S: Final = 5.0
"""How long the batches in hand may still take after :meth:`Heartbeat.stop`. The next run processes what is
not committed by then."""

LAG_INTERVAL_S: Final = 1.0

SCORING_LIMIT_S: Final = 0.5
"""How long the model may take for one batch. Revoked partitions, a stop and the watchdog wait for the batch
in hand, so a slow model gets smaller batches."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The time to finish after :meth:`Heartbeat.stop` has run out."""


class Heartbeat:
    """Tells the watchdog that the loop is alive, and ends the loop when it has to stop.

    Call it before every step that can take a while. It raises :class:`Stopped` once the loop was told to
    stop and :data:`STOP_GRACE_S` have passed.

    Args:
        beat: Tells the watchdog.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stop = threading.Event()
        self._stop_by_s = float("inf")

    @property
    def stopping(self) -> bool:
        """Whether the loop was told to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Tell the loop to finish the batches in hand, then to return. Safe to call in a signal handler."""
        self._stop_by_s = time.monotonic() + STOP_GRACE_S
        self._stop.set()

    def __call__(self) -> None:
        """Report that the loop is alive.

        Raises:
            Stopped: The time to finish has run out.
        """
        self._beat()
        if time.monotonic() > self._stop_by_s:
            raise Stopped


class BatchLimit:
    """The largest number of events per batch, for a model that takes as long per event as it did last.

    Args:
        max_events: The limit for a fast model.
    """

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self.events = max_events

    def observe(self, n_events: int, scoring_s: float) -> None:
        """Set the limit after a batch.

        >>> limit = BatchLimit(10_000)
        >>> limit.observe(10_000, 1.0)  # 100 µs per event
        >>> limit.events
        5000
        """
        if scoring_s > 0:
            self.events = max(1, min(self._max_events, int(n_events * SCORING_LIMIT_S / scoring_s)))


class Scorer:
    """Turns events into predictions and dead letters.

    Args:
        session: The connection to Kafka.
        committer: Processes and commits batches.
        telemetry: Shows the lag.
        limits: The limits of a batch.
        heartbeat: Called in every turn of the loop.
    """

    def __init__(
        self,
        *,
        session: Session,
        committer: Committer,
        telemetry: ScorerTelemetry,
        limits: BatchSettings,
        heartbeat: Heartbeat,
    ) -> None:
        self._session = session
        self._committer = committer
        self._telemetry = telemetry
        self._limits = limits
        self._batch_limit = BatchLimit(limits.max_events)
        self._heartbeat = heartbeat
        self._in_flight = InFlight[StartedCommit, float]("commit")
        self._next_lag_s = 0.0

    def run(self) -> None:
        """Join the group and process events until told to stop.

        Raises:
            FatalError: The broker does not accept this instance any more.
        """
        try:
            self._committer.wait_out_outage(self._session.open)
            while not self._heartbeat.stopping:
                self.run_once()
            self._finish_commit()
        except Stopped:
            log.warning("stopped with a batch in hand; it is processed after the restart")
        finally:
            self._in_flight.shutdown()
            self._session.close()

    def run_once(self) -> None:
        """Poll once, process the batch, and start its commit."""
        self._heartbeat()
        raw = self._session.poll(
            self._batch_limit.events,
            self._limits.max_wait_ms / 1000,
            IDLE_S,
            commit=self._in_flight.future,
        )
        if raw is None:
            self._finish_commit()
        else:
            self._process(raw)
        if time.monotonic() >= self._next_lag_s:
            self._next_lag_s = time.monotonic() + LAG_INTERVAL_S
            self._telemetry.lag(self._session.lag(self._committer.next_offsets))

    def _process(self, raw: RawBatch) -> None:
        """Process a batch while the previous batch is being committed, then start its commit."""
        try:
            outputs = self._committer.prepare(raw)
        except Unavailable as outage:
            self._finish_commit()
            self._committer.commit_with_retry(raw, outage)
            return
        self._batch_limit.observe(len(raw), outputs.processed.durations_s["score"])
        if not self._finish_commit():
            # Retries take time, and partitions may have been revoked meanwhile: start over with this batch.
            self._committer.commit_with_retry(raw)
            return
        try:
            started = self._committer.begin(outputs)
        except COMMIT_FAILURES as failure:
            self._committer.commit_with_retry(raw, failure)
        else:
            self._in_flight.start(started, self._committer.commit)

    def _finish_commit(self) -> bool:
        """Wait for the commit in flight, and retry it if it failed.

        Returns:
            Whether there was nothing to retry.
        """
        finished = self._in_flight.wait()
        if finished is None:
            return True
        outputs = finished.item.outputs
        try:
            commit_s = finished.result()
        except COMMIT_FAILURES as failure:
            self._committer.commit_with_retry(outputs.processed.raw, failure)
            return False
        self._committer.note_committed(outputs, commit_s)
        return True
