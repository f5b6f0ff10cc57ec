"""The scorer's loop: poll, decide, publish. Stateless: all it knows is in Kafka or in the model store.

The transaction of one batch overlaps the work on the next: while a batch is flushed and committed
in a thread of its own, which is nearly all waiting, the next is polled and decided on. Nothing of
the next is produced before the outcome is known, and partitions are not handed over before
(:meth:`Session.poll` waits for it when they are revoked). So at most two batches are in hand, and a
batch that fails is retried before the one behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import structlog

from consumer.errors import BatchAborted, Condition, RecordRejectedByBroker, Unavailable
from consumer.kafka.session import Session
from consumer.pipeline.batch import RawBatch
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import BatchProcessor, ProcessedBatch
from consumer.settings import BatchSettings

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.1
"""How long a poll waits for a first event: the loop turns, and stops, at least this often."""

STOP_GRACE_S: Final = 5.0
"""How long a batch in hand may still take once we are told to stop; then it is left to the next run."""

LAG_EVERY_S: Final = 1.0

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_ABORTS_BEFORE_NOT_READY: Final = 3
_SMALLEST_DEAD_LETTER_BYTES: Final = 512


class Stopped(Exception):  # noqa: N818 - not an error
    """We were told to stop and the time to finish has run out."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A batch that is produced and on its way to being committed.

    Attributes:
        decision: what is being published.
        done: ends with how many seconds it took, or with what went wrong.
    """

    decision: ProcessedBatch
    done: Future[float]


class Scorer:
    """Turns events into predictions and dead letters.

    Args:
        session: the scorer's side of Kafka.
        decider: decides on batches.
        telemetry: told of every batch.
        conditions: what keeps us from being ready.
        limits: of a batch.
        heartbeat: called whenever the loop turns.
        committing: entered while a batch is committed, which has a limit of its own.
    """

    def __init__(
        self,
        *,
        session: Session,
        decider: BatchProcessor,
        telemetry: ScorerTelemetry,
        conditions: Readiness,
        limits: BatchSettings,
        heartbeat: Callable[[], None],
        committing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._session = session
        self._decider = decider
        self._telemetry = telemetry
        self._conditions = conditions
        self._limits = limits
        self._beat = heartbeat
        self._committing = committing
        self._in_flight: _InFlight | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._stop = threading.Event()
        self._stop_by_s = float("inf")
        self._lag_due_s = 0.0

    def stop(self) -> None:
        """Finish what is in hand, then return from :meth:`run`. Safe to call from a signal handler."""
        self._stop_by_s = time.monotonic() + STOP_GRACE_S
        self._stop.set()

    def heartbeat(self) -> None:
        """Say that the loop is alive; raise :class:`Stopped` when the time to finish has run out."""
        self._beat()
        if time.monotonic() > self._stop_by_s:
            raise Stopped

    def run(self) -> None:
        """Join the group and work until told to stop.

        Raises:
            FatalError: the broker will not have us any more.
        """
        try:
            self._when_available(self._session.open)
            while not self._stop.is_set():
                self.run_once()
            self._land()
        except Stopped:
            log.warning("stopped with a batch in hand; it is decided on after the restart")
        finally:
            self._committer.shutdown()
            self._session.close()

    def run_once(self) -> None:
        """Poll once, decide, and hand the batch on to be committed."""
        self.heartbeat()
        raw = self._session.poll(self._limits.max_events, self._limits.max_wait_ms / 1000, IDLE_S)
        if raw is None:
            self._land()
        else:
            self._take(raw)
        if time.monotonic() >= self._lag_due_s:
            self._lag_due_s = time.monotonic() + LAG_EVERY_S
            self._telemetry.lag(self._session.lag())

    def _take(self, raw: RawBatch) -> None:
        """Decide on a batch while the one before it lands, then let it take off."""
        try:
            decision = self._decider.decide(raw)
            if self._land():
                self._launch(decision)
                return
        except (BatchAborted, Unavailable) as trouble:
            self._land()
            self._note(trouble, n_events=len(raw))
        self._settle(raw)

    def _launch(self, decision: ProcessedBatch) -> None:
        """Produce a batch, and have it flushed and committed while we go on."""
        seal = self._session.stage(decision)

        def commit() -> float:
            began_s = time.perf_counter()
            with self._committing():
                seal()
            return time.perf_counter() - began_s

        done = self._committer.submit(commit)
        self._session.await_before_handover(done)
        self._in_flight = _InFlight(decision, done)

    def _land(self) -> bool:
        """Wait for the batch in flight; if it was not committed, retry it until it is.

        Returns:
            Whether all went well, so that the next batch may take off as it is.
        """
        flight, self._in_flight = self._in_flight, None
        if flight is None:
            return True
        try:
            took_s = flight.done.result()
        except RecordRejectedByBroker as refusal:
            self._telemetry.batch_aborted()
            self._isolate(flight.decision.raw, None, str(refusal))
            return False
        except (BatchAborted, Unavailable) as trouble:
            self._note(trouble, n_events=len(flight.decision.raw))
            self._settle(flight.decision.raw)
            return False
        self._committed(flight.decision, took_s)
        return True

    def _settle(self, raw: RawBatch, refused_bytes: int | None = None) -> None:
        """Decide and commit, one step after the other, until nothing of the batch remains.

        Args:
            raw: what may still be to do.
            refused_bytes: as for :meth:`BatchProcessor.decide`.
        """
        pause_s, aborts = _FIRST_PAUSE_S, 0
        while len(raw := self._remaining(raw)):
            try:
                decision = self._decider.decide(raw, refused_bytes)
                began_s = time.perf_counter()
                seal = self._session.stage(decision)
                with self._committing():
                    seal()
            except RecordRejectedByBroker as refusal:
                self._telemetry.batch_aborted()
                self._isolate(raw, refused_bytes, str(refusal))
                return
            except (BatchAborted, Unavailable) as trouble:
                aborts += 1
                self._note(trouble, n_events=len(raw))
                if aborts >= _ABORTS_BEFORE_NOT_READY:
                    self._conditions.set(Condition.BROKER, str(trouble))
                self._session.stay(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if refused_bytes is not None:
                    self._decider.dead_letter_max_bytes = min(
                        self._decider.dead_letter_max_bytes, refused_bytes
                    )
                self._committed(decision, time.perf_counter() - began_s)
                return

    def _isolate(self, raw: RawBatch, refused_bytes: int | None, reason: str) -> None:
        """Halve a refused batch until the guilty event stands alone, then send ever less of it."""
        if len(raw) > 1:
            half = len(raw) // 2
            self._settle(raw.select_rows(range(half)))
            self._settle(raw.select_rows(range(half, len(raw))))
            return
        at_most = self._decider.dead_letter_max_bytes if refused_bytes is None else refused_bytes // 2
        if at_most < _SMALLEST_DEAD_LETTER_BYTES:
            self._conditions.set(
                Condition.PARTITION, f"no dead letter is small enough for its topic: {reason}"
            )
            self._session.stay(_LONGEST_PAUSE_S)
        self._settle(raw, max(at_most, _SMALLEST_DEAD_LETTER_BYTES))

    def _remaining(self, raw: RawBatch) -> RawBatch:
        """Return what is still to do of a batch, once that can be told."""
        left: list[RawBatch] = []

        def look() -> None:
            self._session.recover()
            left.append(self._session.remaining(raw))

        self._when_available(look)
        return left[0]

    def _when_available(self, act: Callable[[], None]) -> None:
        """Do something as soon as what it needs is there; stay in the group meanwhile."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self.heartbeat()
            try:
                act()
            except Unavailable as outage:
                self._conditions.set(outage.condition, str(outage))
                self._session.stay(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return

    def _note(self, trouble: BatchAborted | Unavailable, *, n_events: int) -> None:
        """Say that a batch was not committed."""
        self._telemetry.batch_aborted()
        log.warning("batch not committed, trying again", n_events=n_events, reason=str(trouble))
        if isinstance(trouble, Unavailable):
            self._conditions.set(trouble.condition, str(trouble))

    def _committed(self, decision: ProcessedBatch, took_s: float) -> None:
        """Tell of a batch that is committed; whatever was away is back."""
        self._session.committed(decision)
        for name in (Condition.BROKER, Condition.MODEL, Condition.SCHEMA_REGISTRY):
            self._conditions.clear(name)
        decision.report.durations_s["commit"] = took_s
        self._telemetry.batch_committed(decision.report, self._decider.now_s())
