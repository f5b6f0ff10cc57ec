"""Publishes predictions that did not come from the stream, and waits until the broker has them.

Sends the few records of the control topic, without ever making the loop wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.errors import Unavailable
from consumer.kafka.errors import format_error, kafka_error

_DELIVERY_TIMEOUT_S: Final = 5.0


class PredictionProducer:
    """An idempotent producer that several request threads share.

    Args:
        config: of the producer.
        topic: the predictions topic.
    """

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        self._topic = topic
        timeout_ms = int(_DELIVERY_TIMEOUT_S * 1000)
        self._producer = Producer(
            config | {"message.timeout.ms": timeout_ms, "delivery.report.only.error": False, "linger.ms": 1}
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve_reports, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin to serve delivery reports."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver what is under way, then stop."""
        self._producer.flush(_DELIVERY_TIMEOUT_S)
        self._stopped.set()

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Publish predictions and return once the broker has them all.

        Raises:
            Unavailable: it has not; some may have been published all the same.
        """
        outstanding = threading.Semaphore(0)
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                failed.append(error)
            outstanding.release()

        for key, value in zip(keys, values, strict=True):
            try:
                self._producer.produce(self._topic, value, key, on_delivery=delivered)
            except BufferError as full:
                raise Unavailable("too many predictions wait for the broker") from full
        for _ in values:
            # The client reports every record within its message timeout, delivered or not.
            if not outstanding.acquire(timeout=2 * _DELIVERY_TIMEOUT_S):
                raise Unavailable("the broker did not take the prediction in time")
        if failed:
            raise Unavailable(f"the broker did not take the prediction: {format_error(failed[0])}")

    def _serve_reports(self) -> None:
        while not self._stopped.is_set():
            self._producer.poll(0.1)


class ControlProducer:
    """An idempotent producer of one topic.

    Args:
        config: of the producer (see :mod:`consumer.kafka.client_config`).
        topic: the control topic; it may be missing, which each delivery then reports.
    """

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        self._topic = topic
        # A missing topic is reported as soon as the brokers say so: nobody is about to create it.
        self._producer = Producer(
            config | {"delivery.report.only.error": False, "topic.metadata.propagation.max.ms": 0}
        )

    def send(self, key: bytes, value: bytes, on_delivered: Callable[[str | None], None]) -> None:
        """Send one record; ``on_delivered`` is called from :meth:`poll` with what went wrong, or None."""

        def delivered(error: KafkaError | None, _message: Any) -> None:
            on_delivered(None if error is None else f"{self._topic}: {format_error(error)}")

        try:
            self._producer.produce(self._topic, value, key, on_delivery=delivered)
        except (BufferError, KafkaException) as refused:
            error = kafka_error(refused) if isinstance(refused, KafkaException) else None
            on_delivered(f"{self._topic}: {format_error(error) if error else 'the queue is full'}")

    def poll(self) -> None:
        """Serve deliveries, without waiting."""
        self._producer.poll(0)

    def close(self, timeout_s: float = 2.0) -> None:
        """Deliver what is under way, as far as that goes."""
        self._producer.flush(timeout_s)
