"""Produce records outside the stream: predictions of the HTTP API, retraining events, simulated events."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.errors import Condition, FatalError, ServiceError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.errors import format_error, kafka_error, missing_right, unwrap_callback_errors
from consumer.runtime.readiness import Readiness

OnDelivered = Callable[[str | None], None]
"""Called with the reason why a record was not delivered, or ``None`` if it was."""

_DELIVERY_TIMEOUT_S: Final = 300.0
"""How long a prediction is retried. The client retries it under the same sequence number, so the topic has it
once even if an acknowledgement was lost. A new prediction after this time may be a duplicate."""
_LATE_AFTER_S: Final = 3.0
"""Kafka counts as away once a prediction has been unacknowledged for this long."""
_FLUSH_TIMEOUT_S: Final = 3.0
_PROBE_INTERVAL_S: Final = 1.0
_PROBE_TIMEOUT_S: Final = 2.5
"""A new client needs a second for its first answer."""
_RETRY_AFTER_FAILURE_S: Final = 5.0
"""How long predictions are refused after a failed delivery, even if the leaders answer."""


class TopicProducer:
    """An idempotent producer of one topic. The owner calls :meth:`poll` to get delivery reports.

    A fatal error, such as a missing right, fails the records in flight; a new client sends the next ones.

    Args:
        config: The producer's configuration (see :mod:`consumer.kafka.client_config`).
        topic: The topic.
    """

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        self._topic = topic
        self._config = config | {"delivery.report.only.error": False}
        self._producer = Producer(self._config)
        self._in_flight: dict[int, OnDelivered] = {}
        self._sent = itertools.count()
        self.missing_right: str | None = None
        """What the broker says if the client may not write to the topic."""

    def send(self, key: bytes, value: bytes | None, on_delivered: OnDelivered) -> None:
        """Queue a record.

        Raises:
            Unavailable: The client's queue is full. Poll and try again.
            FatalError: The client refuses the record.
        """
        number = next(self._sent)

        def report(error: KafkaError | None, _message: Any) -> None:
            if self._in_flight.pop(number, None) is not None:
                on_delivered(None if error is None else self._reason(error))

        self._in_flight[number] = on_delivered
        try:
            self._producer.produce(self._topic, value, key, on_delivery=report)
        except BufferError as full:
            del self._in_flight[number]
            raise Unavailable(f"{self._topic}: the producer's queue is full") from full
        except KafkaException as exception:
            self._in_flight.pop(number, None)
            error = kafka_error(exception)
            if error.fatal() or error.code() == KafkaError._FATAL:
                self._recreate(error)
            raise FatalError(self._reason(error)) from exception

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports; wait up to ``timeout_s`` for one."""
        try:
            unwrap_callback_errors(self._producer.poll, timeout_s)
        except KafkaException as exception:
            self._recreate(kafka_error(exception))

    def flush(self, timeout_s: float) -> int:
        """Wait until all records are delivered or have failed; return how many are still in flight."""
        try:
            return unwrap_callback_errors(self._producer.flush, timeout_s)
        except KafkaException as exception:
            self._recreate(kafka_error(exception))
            return 0

    def _recreate(self, error: KafkaError) -> None:
        """Replace a client that had a fatal error, and fail its records."""
        self._producer = Producer(self._config)
        failed, self._in_flight = self._in_flight, {}
        for on_delivered in failed.values():
            on_delivered(self._reason(error))

    def _reason(self, error: KafkaError) -> str:
        if missing := missing_right(error, f"Write on topic {self._topic}", self._config):
            self.missing_right = missing
        return missing or f"{self._topic}: {format_error(error)}"


class ControlProducer(TopicProducer):
    """The producer of the control topic. A missing topic or a full queue is a failed delivery."""

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        # Report a missing topic at once instead of waiting for somebody to create it.
        super().__init__(config | {"topic.metadata.propagation.max.ms": 0}, topic)

    def send(self, key: bytes, value: bytes | None, on_delivered: OnDelivered) -> None:
        """Queue a record. If it is refused, call ``on_delivered`` at once."""
        try:
            super().send(key, value, on_delivered)
        except ServiceError as error:
            on_delivered(str(error))

    def close(self, timeout_s: float = 2.0) -> None:
        """Deliver as many of the queued records as possible within the timeout."""
        self.flush(timeout_s)


class LeaderProbe:
    """Asks the leaders of a topic whether they answer.

    Args:
        client_config: The configuration of the client.
        topic: The topic.
        partitions: Its partitions.
    """

    def __init__(self, client_config: dict[str, Any], topic: str, partitions: Iterable[int]) -> None:
        self._client_config = client_config
        self._topic = topic
        self._partitions = list(partitions)
        self._admin: ClusterAdmin | None = None

    def ask(self) -> None:
        """Ask once.

        Raises:
            ServiceError: A leader does not answer in time, or refuses.
        """
        if self._admin is None:
            self._admin = ClusterAdmin(self._client_config, _PROBE_TIMEOUT_S)
        try:
            self._admin.end_offsets(self._topic, self._partitions)
        except ServiceError:
            self._admin = None  # a new client finds a broker that is back at once, without a backoff
            raise


class PredictionProducer(TopicProducer):
    """The producer of the HTTP API's predictions. Safe to use from several threads.

    It asks the leaders of the topic once a second whether they answer. It refuses predictions at once, and
    the role is not ready, while a leader does not answer, while a prediction waits long for its
    acknowledgement, and for a moment after a failed delivery.

    Args:
        config: The producer's configuration.
        topic: The predictions topic.
        readiness: Holds ``Condition.BROKER`` while Kafka is away.
        probe: Asks the leaders; raises :class:`ServiceError` if one does not answer.
    """

    def __init__(
        self, config: dict[str, Any], topic: str, readiness: Readiness, probe: Callable[[], object]
    ) -> None:
        timeout_ms = int(_DELIVERY_TIMEOUT_S * 1000)
        super().__init__(config | {"message.timeout.ms": timeout_ms, "linger.ms": 1}, topic)
        self._readiness = readiness
        self._probe = probe
        self._last_failure_s: float | None = None
        self._published = itertools.count()
        self._lock = threading.Lock()
        self._unacknowledged_since_s: dict[int, float] = {}  # the oldest first
        self._away: str | None = None
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve_reports, name="delivery", daemon=True),
            threading.Thread(target=self._watch_leaders, name="probe", daemon=True),
        ]

    def start(self) -> None:
        """Start to serve delivery reports and to ask the leaders."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Deliver the queued predictions, then stop."""
        self.flush(_FLUSH_TIMEOUT_S)
        self._stopped.set()

    def check(self) -> None:
        """Check that Kafka was not away at the last probe or delivery.

        Raises:
            Unavailable: It was.
        """
        if self._away is not None:
            raise Unavailable(self._away)

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes], on_done: OnDelivered) -> None:
        """Queue predictions. ``on_done`` is called once, when the broker has all of them or one failed.

        The broker may have some of them even then.
        """
        remaining = len(values)
        failures: list[str] = []
        lock = threading.Lock()
        number = next(self._published)
        with self._lock:
            self._unacknowledged_since_s[number] = time.monotonic()

        def on_delivered(failure: str | None) -> None:
            nonlocal remaining
            if failure is not None:
                failures.append(failure)
                self._failed(failure)
            with lock:
                remaining -= 1
                last = remaining == 0
            if last:
                with self._lock:
                    del self._unacknowledged_since_s[number]
                on_done(failures[0] if failures else None)

        for key, value in zip(keys, values, strict=True):
            try:
                self.send(key, value, on_delivered)
            except ServiceError as error:  # ``on_done`` still waits for the others
                on_delivered(str(error))

    def ask_leaders(self) -> None:
        """Ask the leaders once, and note whether they answer."""
        try:
            self._probe()
        except ServiceError as error:
            self._note(str(error))
            return
        recently = time.monotonic() - _RETRY_AFTER_FAILURE_S
        failed = self._last_failure_s is not None and self._last_failure_s >= recently
        if not failed and not self._is_late():
            self._note(None)

    def _is_late(self) -> bool:
        with self._lock:
            oldest_s = next(iter(self._unacknowledged_since_s.values()), math.inf)
        return time.monotonic() - oldest_s >= _LATE_AFTER_S

    def _failed(self, reason: str) -> None:
        self._last_failure_s = time.monotonic()
        self._note(reason)

    def _note(self, reason: str | None) -> None:
        self._away = reason
        if reason is None:
            self._readiness.clear(Condition.BROKER)
        else:
            self._readiness.set(Condition.BROKER, reason)

    def _serve_reports(self) -> None:
        while not self._stopped.is_set():
            self.poll(0.1)
            if self._is_late():
                self._note(f"{self._topic}: a record was not acknowledged within {_LATE_AFTER_S:.0f} s")

    def _watch_leaders(self) -> None:
        while not self._stopped.wait(_PROBE_INTERVAL_S):
            self.ask_leaders()
