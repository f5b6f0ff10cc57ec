"""Sends the few records of the control topic, without ever making the loop wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.kafka.policy import describe, error_of


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
            on_delivered(None if error is None else f"{self._topic}: {describe(error)}")

        try:
            self._producer.produce(self._topic, value, key, on_delivery=delivered)
        except (BufferError, KafkaException) as refused:
            error = error_of(refused) if isinstance(refused, KafkaException) else None
            on_delivered(f"{self._topic}: {describe(error) if error else 'the queue is full'}")

    def poll(self) -> None:
        """Serve deliveries, without waiting."""
        self._producer.poll(0)

    def close(self, timeout_s: float = 2.0) -> None:
        """Deliver what is under way, as far as that goes."""
        self._producer.flush(timeout_s)
