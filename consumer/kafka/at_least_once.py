"""At least once: the records first, then the offsets that they came from. Faster, may repeat."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.errors import BatchAborted, RecordRefused, Unavailable
from consumer.kafka.policy import describe, error_of, is_outage, served
from consumer.kafka.records import Records
from consumer.kafka.transaction import REFUSALS, produce_all

_GENERATION_CODES: Final = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._STATE,
)


class AtLeastOnce:
    """Publishes batches with an idempotent producer; same interface as ``Transaction``."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        producer_factory: Callable[[dict[str, Any]], Producer] = Producer,
        heartbeat: Callable[[], None] = lambda: None,
        on_outage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config | {"on_delivery": self._on_failed_delivery, "error_cb": self._on_error}
        self._producer_factory = producer_factory
        self._heartbeat = heartbeat
        self._on_outage = on_outage
        self._producer: Producer | None = None
        self._failed: list[KafkaError] = []
        self.in_doubt = False

    def open(self) -> None:
        """Make the producer; it connects by itself."""
        if self._producer is None:
            self._producer = self._producer_factory(self._config)

    def stage(self, outgoing: Sequence[Records]) -> None:
        """Produce the records.

        Raises:
            BatchAborted: some were not taken; the batch comes again.
            RecordRefused: the same, because the broker will not take one of the records.
            Unavailable: the broker is away.
        """
        self.open()
        producer = self._producer
        assert producer is not None  # noqa: S101 - open() made it
        self._failed.clear()
        try:
            for records in outgoing:
                produce_all(producer, records, self._heartbeat)
        except KafkaException as exception:
            self._recover(exception)

    def seal(self, next_offsets: Sequence[TopicPartition], consumer: Consumer, _metadata: object) -> None:
        """Flush, and commit the offsets if, and only if, every record was acknowledged.

        Raises:
            BatchAborted, RecordRefused, Unavailable: as for :meth:`stage`.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - stage() left it open
        try:
            while served(producer.flush, 1.0):
                self._heartbeat()
            self._heartbeat()
            if not self._failed:
                consumer.commit(offsets=list(next_offsets), asynchronous=False)
        except KafkaException as exception:
            self._recover(exception)
        if self._failed:
            self._recover(KafkaException(self._failed[0]))

    def _recover(self, exception: KafkaException) -> None:
        error = error_of(exception)
        reason = f"batch not acknowledged: {describe(error)}"
        if error.fatal():
            self.close()
        if error.code() in REFUSALS:
            raise RecordRefused(reason) from exception
        if is_outage(error):
            raise Unavailable(reason) from exception
        self.in_doubt = error.code() in _GENERATION_CODES
        raise BatchAborted(reason) from exception

    def close(self) -> None:
        """Let go of the producer."""
        producer, self._producer = self._producer, None
        # Once it has met a fatal error, a producer raises that again whatever it is asked.
        with contextlib.suppress(KafkaException):
            if producer is not None:
                producer.purge()
                served(producer.flush, 0)

    def _on_failed_delivery(self, error: KafkaError, _message: Any) -> None:
        self._failed.append(error)

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._on_outage(describe(error))
