"""Send engagement events to Kafka, at a steady rate or as fast as possible, and wait for every delivery."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.background_producer import TopicProducer
from consumer.settings import Settings
from consumer.simulator.events import OutgoingEvent, events
from model_store.training_data import TrainingTable

_RUN_ID_BYTES: Final = 10
_POLL_S: Final = 0.1
"""How often a wait for the next event checks for a stop."""
_POLL_EVERY: Final = 1_000
"""The number of events between two polls for delivery reports if no rate is set."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The events that were sent and acknowledged.

    Attributes:
        events: The number of events, including the broken ones.
        broken: The number of broken events by expected dead-letter code.
        duration_s: Seconds from the start to the last acknowledgement.
    """

    events: int
    broken: dict[str, int]
    duration_s: float

    def summary(self) -> str:
        """Summarize it in one line."""
        kinds = ", ".join(f"{code} {n}" for code, n in sorted(self.broken.items())) or "none"
        rate = self.events / self.duration_s if self.duration_s > 0 else 0.0
        return (
            f"{self.events} events sent, {sum(self.broken.values())} of them broken ({kinds}), "
            f"in {self.duration_s:.1f} s: {rate:.0f} events/s"
        )


class EventProducer:
    """Sends the events of one run.

    Args:
        settings: The Kafka cluster and the events topic.
        students: The students whose inputs are sent.
        count: The number of good events; by default one per student.
        broken_ratio: The number of additional broken events per good event.
        rate: Events per second, including broken ones; by default as fast as possible.
        on_progress: Called regularly with the number of events produced so far.
    """

    def __init__(
        self,
        settings: Settings,
        students: TrainingTable,
        *,
        count: int | None = None,
        broken_ratio: float = 0.0,
        rate: float | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._students = students
        self._count = students.rows if count is None else count
        self._broken_ratio = broken_ratio
        self._rate = rate
        self._on_progress = on_progress
        self._failures: list[str] = []
        self._stopping = False

    def stop(self) -> None:
        """Make :meth:`run` return once the events in flight are delivered. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> Sent:
        """Send the events and wait until each is acknowledged.

        Raises:
            StartupError: The events topic is missing, or a client setting is wrong.
            Unavailable: The broker is down; the message counts the undelivered events.
            FatalError: The broker refuses events.
        """
        topic = self._settings.topics.events
        ClusterAdmin(client_config.common(self._settings.kafka)).describe_topic(topic)
        producer = TopicProducer(
            # The Java client's partitioner: all events of a student go to the same partition.
            client_config.producer(self._settings.kafka) | {"partitioner": "murmur2_random"},
            topic,
        )
        broken: Counter[str] = Counter()
        n_sent = 0
        started_s = time.monotonic()
        for event in self._paced(producer, started_s):
            self._send(producer, event)
            n_sent += 1
            if event.code is not None:
                broken[event.code] += 1
        while producer.flush(1.0):
            self._on_progress(n_sent)
        self._on_progress(n_sent)
        if producer.missing_right:
            raise StartupError(producer.missing_right)
        if self._failures:
            raise Unavailable(
                f"{len(self._failures)} of {n_sent} events were not delivered to "
                f"{self._failures[0]}; check the broker and send again"
            )
        return Sent(n_sent, dict(broken), time.monotonic() - started_s)

    def _paced(self, producer: TopicProducer, started_s: float) -> Iterator[OutgoingEvent]:
        """Yield each event when it is due, and poll the producer in between."""
        source = events(
            self._students,
            count=self._count,
            broken_ratio=self._broken_ratio,
            run_id=secrets.token_hex(_RUN_ID_BYTES),
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        n = 0
        # Wait before building the event, because building it reads the clock.
        while self._await_turn(producer, n, started_s):
            event = next(source, None)
            if event is None:
                return
            yield event
            n += 1
            if n % _POLL_EVERY == 0:
                producer.poll()
                self._on_progress(n)

    def _await_turn(self, producer: TopicProducer, n: int, started_s: float) -> bool:
        """Wait until event ``n`` is due; return false after a stop."""
        if self._rate is not None:
            due_s = started_s + n / self._rate
            while not self._stopping and (wait_s := due_s - time.monotonic()) > 0:
                producer.poll(min(wait_s, _POLL_S))
                self._on_progress(n)
        return not self._stopping

    def _send(self, producer: TopicProducer, event: OutgoingEvent) -> None:
        """Queue an event; wait while the queue is full."""
        while True:
            try:
                producer.send(event.key, event.value, self._on_delivered)
            except Unavailable:
                producer.poll(0.1)
            else:
                return

    def _on_delivered(self, failure: str | None) -> None:
        if failure is not None:
            self._failures.append(failure)
