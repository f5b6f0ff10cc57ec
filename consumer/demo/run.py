"""Send generated students through the real stream, in four phases, and verify the result.

1. warm-up: a few events, until the scorers have partitions and the broker has transaction state.
2. burst: all events at once; measures the throughput. Its latency would be queueing time.
3. settling: a modest rate, not measured.
4. paced: the same rate; measures the latency.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from consumer.demo.environment import DemoEnvironment
from consumer.demo.progress import Display, OutputProbe, Progress
from consumer.errors import FatalError
from consumer.kafka import client_config
from consumer.ops.verify.verifier import VerifyReport, verify
from consumer.simulator.producer import EventProducer, Sent
from model_store.synthetic import generate_students


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a demo.

    Attributes:
        sent: The sent events, by phase.
        burst_events: The number of events in the burst.
        burst_s: Seconds from sending the first event of the burst to reading its last output.
        latencies_ms: Milliseconds from each event to its readable prediction, in the paced phase.
        paced_rate: Events per second in the paced phase.
        workers: The number of scorers.
        report: The result of the verification.
    """

    sent: Sequence[Sent]
    burst_events: int
    burst_s: float
    latencies_ms: Sequence[int]
    paced_rate: float
    workers: int
    report: VerifyReport

    @property
    def n_sent(self) -> int:
        """The number of events sent in all phases."""
        return sum(sent.events for sent in self.sent)

    @property
    def broken(self) -> dict[str, int]:
        """The number of broken events sent, by expected dead-letter code."""
        total: Counter[str] = Counter()
        for sent in self.sent:
            total.update(sent.broken)
        return dict(total)

    @property
    def holds(self) -> bool:
        """Whether the guarantees hold and the topics contain exactly what was sent."""
        return self.problem() is None

    def problem(self) -> str | None:
        """Return the first disagreement, or ``None``."""
        if not self.report.holds:
            return self.report.problem()
        if self.report.events != self.n_sent:
            return f"{self.n_sent} events were sent, but the topic holds {self.report.events}"
        if self.report.dead_letters != self.broken:
            return f"broken events sent: {self.broken}, but dead letters: {self.report.dead_letters}"
        return None

    def lines(self) -> list[str]:
        """Format the summary, one fact per line."""
        scorers = "1 scorer" if self.workers == 1 else f"{self.workers} scorers"
        throughput = (
            f"throughput: {self.burst_events} events in {self.burst_s:.1f} s from the first one sent to "
            f"the last one decided and readable: {self.burst_events / self.burst_s:.0f} events/s "
            f"with {scorers}"
        )
        n_broken = sum(self.broken.values())
        text = [f"events sent: {self.n_sent}, {n_broken} of them broken on purpose", throughput]
        if self.latencies_ms:
            p50, p99 = np.percentile(self.latencies_ms, (50, 99))
            text.append(
                f"latency: p50 {p50:.0f} ms, p99 {p99:.0f} ms from event to readable prediction, "
                f"at {self.paced_rate:.0f} events/s ({len(self.latencies_ms)} predictions)"
            )
        return [*text, *self.report.lines()]


PACED_RATE: Final = 1_000.0
PACED_S: Final = 5.0
WARM_UP_EVENTS: Final = 200
_STUDENTS: Final = 10_000
_SEED: Final = 2
"""Differs from the seed of the training data."""
_POLL_S: Final = 0.1
_READY_TIMEOUT_S: Final = 60.0
_STALL_TIMEOUT_S: Final = 60.0
"""The demo gives up after this time without progress. It is longer than any recovery takes."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The events that the demo sends.

    Attributes:
        events: The number of good events in the burst.
        rate: Events per second in the burst; ``None`` is as fast as possible.
        broken_ratio: The number of additional broken events per good event, in all phases.
        paced_events: The number of good events in each of the two paced phases.
    """

    events: int
    rate: float | None
    broken_ratio: float
    paced_events: int = int(PACED_RATE * PACED_S)


class DemoRun:
    """One run of the demo in a started environment.

    Args:
        environment: The running stream.
        plan: The events to send.
        display: Shows the progress.
    """

    def __init__(self, environment: DemoEnvironment, plan: DemoPlan, display: Display) -> None:
        self._environment = environment
        self._plan = plan
        self._display = display
        topics = environment.settings.topics
        self._probe = OutputProbe(
            client_config.common(environment.settings.kafka), topics.predictions, topics.dead_letters
        )
        self._students = generate_students(_STUDENTS, _SEED)
        self._sent: list[Sent] = []
        self._n_sending = 0

    def run(self, *, keep: bool) -> Summary:
        """Run all phases, then verify.

        Args:
            keep: Keep the roles running; otherwise stop them before the verification.

        Raises:
            FatalError: A role exited, or the stream stalled; the message names the log file.
        """
        self._await_ready()
        self._probe.start()
        try:
            self._phase("warm-up", WARM_UP_EVENTS, None)
            began_s = time.monotonic()
            self._phase("burst", self._plan.events, self._plan.rate)
            burst_s = self._probe.last_at_s - began_s
            # The JVM of a new broker is still compiling its hot code: let it finish before measuring.
            self._phase("settling", self._plan.paced_events, PACED_RATE)
            self._probe.start_latency()
            self._phase("paced", self._plan.paced_events, PACED_RATE)
        finally:
            self._probe.stop()
        if not keep:
            self._environment.supervisor.stop()
        return Summary(
            sent=self._sent,
            burst_events=self._sent[1].events,
            burst_s=burst_s,
            latencies_ms=self._probe.latencies_ms,
            paced_rate=PACED_RATE,
            workers=self._environment.workers,
            report=verify(self._environment.settings),
        )

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not self._environment.is_ready():
            self._check_roles()
            if time.monotonic() > deadline_s:
                raise FatalError(f"the roles did not become ready; see {self._environment.log_path}")
            time.sleep(_POLL_S)

    def _phase(self, name: str, count: int, rate: float | None) -> None:
        """Send events and wait until each is decided and logged."""
        before = self._n_sending

        def on_progress(n_sent: int) -> None:
            self._n_sending = before + n_sent

        producer = EventProducer(
            self._environment.settings,
            self._students,
            count=count,
            broken_ratio=self._plan.broken_ratio,
            rate=rate,
            on_progress=on_progress,
        )
        with ThreadPoolExecutor(1, "producer") as executor:
            sending = executor.submit(producer.run)
            try:
                self._watch(name, sending)
            finally:
                producer.stop()
        self._sent.append(sending.result())

    def _watch(self, name: str, sending: Future[Sent]) -> None:
        """Show progress until every event that was sent is decided and logged."""
        started_s = moved_s = time.monotonic()
        decided_before, latest = sum(self._probe.counts), None
        while True:
            is_sent = sending.done()  # read before the counts, so that it covers them
            predictions, dead_letters = self._probe.counts
            duration_s = max(self._probe.last_at_s - started_s, _POLL_S)
            progress = Progress(
                phase=name,
                sent=self._n_sending,
                predictions=predictions,
                dead_letters=dead_letters,
                audit_lines=self._environment.audit_lines(),
                events_per_s=(predictions + dead_letters - decided_before) / duration_s,
            )
            self._display.show(progress)
            if is_sent and sending.exception() is not None:
                return
            if is_sent and progress.lag == 0 and progress.audit_lines >= predictions:
                return
            self._check_roles()
            if progress != latest:
                latest, moved_s = progress, time.monotonic()
            elif time.monotonic() - moved_s > _STALL_TIMEOUT_S:
                raise FatalError(f"the stream has stalled; see {self._environment.log_path}")
            time.sleep(_POLL_S)

    def _check_roles(self) -> None:
        child_exit = self._environment.supervisor.first_exit()
        if child_exit is not None:
            raise FatalError(f"{child_exit}; see {self._environment.log_path}")
