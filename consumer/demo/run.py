"""The demo: generated students through the real stream on a real Kafka, watched, counted and verified.

Four phases. A few events warm everything up: until the scorers have their partitions, the broker its
transactions. Then everything is sent at once and gives the throughput; what an event waits for there is
mostly the others. Then a modest rate, once unmeasured and once for the latency.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from consumer.demo.environment import DemoEnvironment
from consumer.demo.probe import OutputProbe
from consumer.demo.progress import Display, Progress
from consumer.demo.summary import Summary
from consumer.errors import FatalError
from consumer.kafka import client_config
from consumer.ops.verify.verifier import verify
from consumer.simulator.producer import EventProducer, Sent
from model_store.synthetic import generate_students

PACED_RATE: Final = 1_000.0
PACED_S: Final = 5.0
WARM_UP_EVENTS: Final = 200
_STUDENTS: Final = 10_000
_SEED: Final = 2
"""Not that of the students whom the model was trained on."""
_LOOK_EVERY_S: Final = 0.1
_READY_TIMEOUT_S: Final = 60.0
_STANDSTILL_S: Final = 60.0
"""Longer than any recovery takes."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo sends.

    Attributes:
        events: good events of the burst.
        rate: events per second of the burst; ``None`` is as fast as it goes.
        broken_ratio: broken events per good one, on top, in all phases.
        paced_events: good events of each of the two paced phases.
    """

    events: int
    rate: float | None
    broken_ratio: float
    paced_events: int = int(PACED_RATE * PACED_S)


class DemoRun:
    """One performance on a stage that is set."""

    def __init__(self, stage: DemoEnvironment, script: DemoPlan, display: Display) -> None:
        self._stage = stage
        self._script = script
        self._display = display
        topics = stage.settings.topics
        self._probe = OutputProbe(
            client_config.common(stage.settings.kafka), topics.predictions, topics.dead_letters
        )
        self._students = generate_students(_STUDENTS, _SEED)
        self._sent: list[Sent] = []
        self._n_sending = 0

    def run(self, *, keep: bool) -> Summary:
        """Send everything, phase by phase, and wait until everything is decided and logged; then verify.

        Args:
            keep: leave the roles running; otherwise they are stopped before the verification.

        Raises:
            FatalError: a role died, or nothing moves any more; the message says where to look.
        """
        self._await_ready()
        self._probe.start()
        try:
            self._phase("warm-up", WARM_UP_EVENTS, None)
            began_s = time.monotonic()
            self._phase("burst", self._script.events, self._script.rate)
            burst_s = self._probe.last_at_s - began_s
            # A broker that has just been started is still compiling itself; this is not measured.
            self._phase("settling", self._script.paced_events, PACED_RATE)
            self._probe.take_latency()
            self._phase("paced", self._script.paced_events, PACED_RATE)
        finally:
            self._probe.stop()
        if not keep:
            self._stage.supervisor.stop()
        return Summary(
            sent=self._sent,
            burst_events=self._sent[1].events,
            burst_s=burst_s,
            latencies_ms=self._probe.latencies_ms,
            paced_rate=PACED_RATE,
            workers=self._stage.workers,
            verdict=verify(self._stage.settings),
        )

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not self._stage.is_ready():
            self._refuse_death()
            if time.monotonic() > deadline_s:
                raise FatalError(f"the roles are not ready; {self._stage.log_path} says why")
            time.sleep(_LOOK_EVERY_S)

    def _phase(self, name: str, count: int, rate: float | None) -> None:
        """Send events and wait until each is decided and logged."""
        before = self._n_sending

        def told(n_sent: int) -> None:
            self._n_sending = before + n_sent

        upstream = EventProducer(
            self._stage.settings,
            self._students,
            count=count,
            broken_ratio=self._script.broken_ratio,
            rate=rate,
            on_progress=told,
        )
        with ThreadPoolExecutor(1, "upstream") as executor:
            sending = executor.submit(upstream.run)
            try:
                self._watch(name, sending)
            finally:
                upstream.stop()
        self._sent.append(sending.result())

    def _watch(self, name: str, sending: Future[Sent]) -> None:
        """DemoRun progress until everything that was sent is decided and logged."""
        began_s = moved_s = time.monotonic()
        decided_before, latest = sum(self._probe.counts), None
        while True:
            is_sent = sending.done()  # asked first, for what is sent only grows until then
            predictions, dead_letters = self._probe.counts
            duration_s = max(self._probe.last_at_s - began_s, _LOOK_EVERY_S)
            progress = Progress(
                phase=name,
                sent=self._n_sending,
                predictions=predictions,
                dead_letters=dead_letters,
                audit_lines=self._stage.audit_lines(),
                events_per_s=(predictions + dead_letters - decided_before) / duration_s,
            )
            self._display.show(progress)
            if is_sent and sending.exception() is not None:
                return
            if is_sent and progress.lag == 0 and progress.audit_lines >= predictions:
                return
            self._refuse_death()
            if progress != latest:
                latest, moved_s = progress, time.monotonic()
            elif time.monotonic() - moved_s > _STANDSTILL_S:
                raise FatalError(f"the stream stands still; {self._stage.log_path} may say why")
            time.sleep(_LOOK_EVERY_S)

    def _refuse_death(self) -> None:
        death = self._stage.supervisor.first_exit()
        if death is not None:
            raise FatalError(f"{death}; {self._stage.log_path} says why")
