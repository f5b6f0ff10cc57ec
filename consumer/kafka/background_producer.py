"""Producers outside the stream: predictions of the HTTP API, retraining events, simulated events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.errors import FatalError, ServiceError, Unavailable
from consumer.kafka.errors import format_error, kafka_error

OnDelivered = Callable[[str | None], None]
"""Called with the reason why a record was not delivered, or ``None`` if it was."""

_DELIVERY_TIMEOUT_S: Final = 5.0


class TopicProducer:
    """An idempotent producer of one topic. The owner calls :meth:`poll` to get delivery reports.

    Args:
        config: The producer's configuration (see :mod:`consumer.kafka.client_config`).
        topic: The topic.
    """

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        self._topic = topic
        self._producer = Producer(config)

    def send(self, key: bytes, value: bytes | None, on_delivered: OnDelivered) -> None:
        """Queue a record.

        Raises:
            Unavailable: The client's queue is full. Poll and try again.
            FatalError: The client refuses the record.
        """

        def report(error: KafkaError | None, _message: Any) -> None:
            on_delivered(None if error is None else f"{self._topic}: {format_error(error)}")

        try:
            self._producer.produce(self._topic, value, key, on_delivery=report)
        except BufferError as full:
            raise Unavailable(f"{self._topic}: the producer's queue is full") from full
        except KafkaException as exception:
            raise FatalError(f"{self._topic}: {format_error(kafka_error(exception))}") from exception

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports; wait up to ``timeout_s`` for one."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait until all records are delivered; return how many are not."""
        return self._producer.flush(timeout_s)


class ControlProducer(TopicProducer):
    """The producer of the control topic. A missing topic or a full queue is a failed delivery."""

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        # Report a missing topic at once instead of waiting for somebody to create it.
        own = {"delivery.report.only.error": False, "topic.metadata.propagation.max.ms": 0}
        super().__init__(config | own, topic)

    def send(self, key: bytes, value: bytes | None, on_delivered: OnDelivered) -> None:
        """Queue a record.

        ``on_delivered`` is called by :meth:`TopicProducer.poll`, or at once if the client refuses the record.
        """
        try:
            super().send(key, value, on_delivered)
        except ServiceError as error:
            on_delivered(str(error))

    def close(self, timeout_s: float = 2.0) -> None:
        """Deliver the queued records, as far as that is possible in time."""
        self.flush(timeout_s)


class PredictionProducer(TopicProducer):
    """The producer of the HTTP API's predictions, shared by several request threads."""

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        timeout_ms = int(_DELIVERY_TIMEOUT_S * 1000)
        own = {"message.timeout.ms": timeout_ms, "delivery.report.only.error": False, "linger.ms": 1}
        super().__init__(config | own, topic)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve_reports, name="delivery", daemon=True)

    def start(self) -> None:
        """Start to serve delivery reports."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver the queued predictions, then stop."""
        self.flush(_DELIVERY_TIMEOUT_S)
        self._stopped.set()

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Publish predictions and return once the broker has all of them.

        Raises:
            Unavailable: The broker does not have all of them; it may have some.
        """
        delivered = threading.Semaphore(0)
        failures: list[str] = []

        def on_delivered(failure: str | None) -> None:
            if failure is not None:
                failures.append(failure)
            delivered.release()

        for key, value in zip(keys, values, strict=True):
            self.send(key, value, on_delivered)
        for _ in values:
            # The client reports every record within its message timeout, delivered or not.
            if not delivered.acquire(timeout=2 * _DELIVERY_TIMEOUT_S):
                raise Unavailable("the broker did not accept the prediction in time")
        if failures:
            raise Unavailable(f"the broker did not accept the prediction: {failures[0]}")

    def _serve_reports(self) -> None:
        while not self._stopped.is_set():
            self.poll(0.1)
