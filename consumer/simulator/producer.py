"""Sends engagement events to Kafka, at a steady rate or as fast as it goes, and checks that they arrived."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.errors import FatalError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import describe_topics
from consumer.kafka.errors import format_error, kafka_error
from consumer.settings import Settings
from consumer.simulator.events import OutgoingEvent, events
from model_store.training_data import TrainingTable

_CONNECT_TIMEOUT_S: Final = 10.0
_RUN_ID_BYTES: Final = 10
_LOOK_EVERY_S: Final = 0.1
"""How often a long wait for the next event looks whether to stop."""
_POLL_EVERY: Final = 1_000
"""Events between looks at delivery reports when there is no rate."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent and acknowledged.

    Attributes:
        events: all of them, the broken ones among them.
        broken: how many should get each dead-letter code.
        duration_s: from the first to the last acknowledgement.
    """

    events: int
    broken: dict[str, int]
    duration_s: float

    def summary(self) -> str:
        """Say it in one line."""
        kinds = ", ".join(f"{code} {n}" for code, n in sorted(self.broken.items())) or "none"
        rate = self.events / self.duration_s if self.duration_s > 0 else 0.0
        return (
            f"{self.events} events sent, {sum(self.broken.values())} of them broken ({kinds}), "
            f"in {self.duration_s:.1f} s: {rate:.0f} events/s"
        )


class EventProducer:
    """Sends the events of one run.

    Args:
        settings: where Kafka is and which topic takes events.
        students: whose inputs are sent.
        count: good events; by default every student once.
        broken_ratio: broken events per good one, on top.
        rate: events per second, broken ones included; by default as fast as it goes.
        on_progress: told now and then how many events were handed over so far.
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
        self._failures: list[KafkaError] = []
        self._stopping = False

    def stop(self) -> None:
        """Send no more; :meth:`run` waits for what is under way and returns. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> Sent:
        """Send the events and wait until each is acknowledged.

        Raises:
            StartupError: the events topic is missing, or a client setting is wrong.
            Unavailable: the broker is away; the message says how many events were not delivered.
            FatalError: the broker refuses events.
        """
        topic = self._settings.topics.events
        describe_topics(client_config.common(self._settings.kafka), [topic], _CONNECT_TIMEOUT_S)
        producer = Producer(
            client_config.producer(self._settings.kafka)
            # As Java's own clients do it, so that a student's events stay in one partition.
            | {"partitioner": "murmur2_random", "on_delivery": self._on_failure}
        )
        broken: Counter[str] = Counter()
        n_sent = 0
        began_s = time.monotonic()
        try:
            for event in self._paced(producer, began_s):
                _produce(producer, topic, event)
                n_sent += 1
                if event.code is not None:
                    broken[event.code] += 1
            while producer.flush(1.0):
                self._on_progress(n_sent)
        except KafkaException as exception:
            raise FatalError(
                f"the events cannot be sent: {format_error(kafka_error(exception))}"
            ) from exception
        self._on_progress(n_sent)
        if self._failures:
            raise Unavailable(
                f"{len(self._failures)} of {n_sent} events were not delivered to {topic}: "
                f"{format_error(self._failures[0])}; check the broker and send again"
            )
        return Sent(n_sent, dict(broken), time.monotonic() - began_s)

    def _paced(self, producer: Producer, began_s: float) -> Iterator[OutgoingEvent]:
        """Yield each event when it is due, and let the producer work in between."""
        source = events(
            self._students,
            count=self._count,
            broken_ratio=self._broken_ratio,
            run_id=secrets.token_hex(_RUN_ID_BYTES),
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        n = 0
        # An event's time is taken as it is built, so wait before asking for it.
        while self._await_turn(producer, n, began_s):
            event = next(source, None)
            if event is None:
                return
            yield event
            n += 1
            if n % _POLL_EVERY == 0:
                producer.poll(0)
                self._on_progress(n)

    def _await_turn(self, producer: Producer, n: int, began_s: float) -> bool:
        """Wait until event ``n`` is due; return false if told to stop."""
        if self._rate is not None:
            due_s = began_s + n / self._rate
            while not self._stopping and (wait_s := due_s - time.monotonic()) > 0:
                producer.poll(min(wait_s, _LOOK_EVERY_S))
                self._on_progress(n)
        return not self._stopping

    def _on_failure(self, error: KafkaError, _message: Any) -> None:
        self._failures.append(error)


def _produce(producer: Producer, topic: str, event: OutgoingEvent) -> None:
    """Hand an event over; wait where the queue is full."""
    while True:
        try:
            producer.produce(topic, event.value, event.key)
        except BufferError:
            producer.poll(0.1)
        else:
            return
