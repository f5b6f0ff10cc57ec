"""What goes out in one commit.

Exactly once: the records and the offsets that they came from, in one Kafka transaction.

At least once: the records first, then the offsets that they came from. Faster, may repeat.

A transactional producer's id: what fences and ends whatever its transactional id left open.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.errors import BatchAborted, FatalError, RecordRejectedByBroker, Unavailable
from consumer.kafka.client_config import RETRY_BACKOFF_MS
from consumer.kafka.errors import (
    Policy,
    format_error,
    is_outage,
    kafka_error,
    policy_of,
    unwrap_callback_errors,
)
from consumer.pipeline.batch import Headers

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Records:
    """Records for one topic; all sequences have the same length.

    Attributes:
        topic: where they go.
        partitions: target partition of each.
        keys: key of each.
        values: value of each.
        headers: headers of each, or ``None`` if none has any.
        rows: which row of the batch each comes from.
    """

    topic: str
    partitions: Sequence[int] = field(repr=False)
    keys: Sequence[bytes | None] = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    headers: Sequence[Headers] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)


Outgoing = Iterable[Records]


_STEP_TIMEOUT_S: Final = 5.0
"""How long a step of getting a producer id may take; all is repeated for as long as the outage lasts."""

_RETRY_PAUSE_S: Final = 0.1
SENT_AGAIN_AFTER_S: Final = 0.8 * RETRY_BACKOFF_MS / 1000
"""librdkafka shortens its back-off by up to a fifth, at random; whatever took less was sent once."""
REFUSALS: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)
"""What a broker, or the client for it, says of one record that it will never take."""

_FATAL_LIMIT: Final = 5
"""So many fatal errors with no commit in between are no accident: somebody else uses our transactional
id, or the broker refuses us. A single one is survived: a broker that timed a transaction out while we
were suspended says the same."""


class Transaction:
    """Publishes batches, each in a transaction of its own.

    Args:
        config: of a transactional producer.
        producer_factory: makes the producer; fault tests pass one that dies at a chosen step.
        heartbeat: called before every call that can block; may raise, to stop.
        on_outage: told when the broker is away.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        producer_factory: Callable[[dict[str, Any]], Producer] = Producer,
        heartbeat: Callable[[], None] = lambda: None,
        on_outage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config | {"error_cb": self._on_error}
        self._producer_factory = producer_factory
        self._heartbeat = heartbeat
        self._on_outage = on_outage
        self._producer: Producer | None = None
        self._n_fatal = 0
        self._disturbance: str | None = None
        """What was last heard of a broken connection of this producer's."""
        self.in_doubt = False
        """Whether the last transaction may have been committed although we were told otherwise."""

    def open(self) -> None:
        """Get a producer id, which fences and ends whatever an earlier run of this instance left open.

        Raises:
            Unavailable: the broker did not answer; call again.
            FatalError: the broker refuses us.
        """
        if self._producer is not None:
            return
        self._heartbeat()
        producer = self._producer_factory(self._config)
        try:
            acquire_producer_id(producer, _STEP_TIMEOUT_S)
        except KafkaException as exception:
            error = kafka_error(exception)
            if error.retriable() or is_outage(error):
                raise Unavailable(f"no transactional producer yet: {format_error(error)}") from exception
            raise FatalError(
                f"the broker refuses the transactional producer: {format_error(error)}"
            ) from exception
        self._producer = producer
        self._disturbance = None

    def stage(self, outgoing: Sequence[Records]) -> None:
        """Begin a transaction and produce its records.

        1. Begin. 2. Produce every record.

        Raises:
            BatchAborted: nothing of it is or will be visible, or ``in_doubt`` says that this is
                unknown; go on with what is still uncommitted.
            RecordRejectedByBroker: the same, and the broker will not take one of the records.
            Unavailable: no producer can be had for the moment.
            FatalError: this process must stop.
        """
        self.open()
        producer = self._producer
        assert producer is not None  # noqa: S101 - open() made it
        try:
            unwrap_callback_errors(
                producer.poll, 0
            )  # what broke while there was no transaction puts none in doubt
            self._disturbance = None
            self._call(producer.begin_transaction)
            for records in outgoing:
                produce_all(producer, records, self._heartbeat)
        except KafkaException as exception:
            self._recover(producer, exception)

    def seal(self, next_offsets: Sequence[TopicPartition], _consumer: Consumer, metadata: object) -> None:
        """Commit the records of the transaction that is open, and the offsets, all or nothing.

        3. Flush, so that the next two steps need not wait for it. 4. Send the offsets, fenced by the
        group's generation. 5. Commit.

        Raises:
            BatchAborted, RecordRejectedByBroker, FatalError: as for :meth:`stage`.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - stage() left it open
        try:
            self._flush(producer)
            began_s = time.monotonic()
            self._call(producer.send_offsets_to_transaction, next_offsets, metadata)
            self._call(producer.commit_transaction)
            self._n_fatal = 0
            self._recycle_if_doubtful(producer, began_s)
        except KafkaException as exception:
            self._recover(producer, exception)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call, and the very same call again for as long as librdkafka says so."""
        while True:
            self._heartbeat()
            try:
                function(*arguments)
            except KafkaException as exception:
                error = kafka_error(exception)
                if policy_of(error) is not Policy.RETRY_CALL:
                    raise
                if is_outage(error):
                    self._on_outage(format_error(error))
                time.sleep(_RETRY_PAUSE_S)
            else:
                return

    def _flush(self, producer: Producer) -> None:
        """Wait until every record is acknowledged or has failed."""
        while unwrap_callback_errors(producer.flush, 1.0):
            self._heartbeat()

    def _recycle_if_doubtful(self, producer: Producer, began_s: float) -> None:
        """Throw the producer away if a request of the transaction's end may have been sent twice.

        The one that seemed lost may still lie somewhere and end a later transaction of the same
        producer epoch, or take its offsets back (transaction protocol v1 cannot tell them apart;
        Jepsen, Bufstream 0.1.0). A new epoch fences it. librdkafka does not tell of what it has sent
        again, but it waits before it does, and it reports connections that broke.
        """
        unwrap_callback_errors(
            producer.poll, 0
        )  # hear of broken connections now, not in the next transaction
        took_s = time.monotonic() - began_s
        if self._disturbance is not None or took_s > SENT_AGAIN_AFTER_S:
            log.info(
                "producer recycled after a doubtful end of a transaction",
                heard=self._disturbance,
                took_ms=round(took_s * 1000),
            )
            self._discard()

    def _recover(self, producer: Producer, exception: KafkaException) -> None:
        """Undo what was begun, and say what that means for the batch."""
        error = kafka_error(exception)
        if policy_of(error) is Policy.ABORT:
            began_s = time.monotonic()
            try:
                self._call(producer.abort_transaction)
                self._recycle_if_doubtful(producer, began_s)
            except KafkaException as abort_exception:
                exception, error = abort_exception, kafka_error(abort_exception)
            else:
                reason = f"transaction aborted: {format_error(error)}"
                # What the client says the transaction must be aborted for is the first error that the broker
                # had for a record: no delivery report has to tell.
                if error.code() in REFUSALS:
                    raise RecordRejectedByBroker(reason) from exception
                raise BatchAborted(reason) from exception
        self._discard()
        self.in_doubt = True  # even a fatal error may come after the broker has committed
        self._count_fatal(error)
        raise BatchAborted(f"producer recycled: {format_error(error)}") from exception

    def _count_fatal(self, error: KafkaError) -> None:
        self._n_fatal += 1
        if self._n_fatal >= _FATAL_LIMIT:
            raise FatalError(
                f"{_FATAL_LIMIT} fatal producer errors in a row, the last: {format_error(error)}; "
                f"does another process run as {self._config['transactional.id']}?"
            )

    def _discard(self) -> None:
        """Drop the producer with everything it still holds; :meth:`open` makes the next."""
        producer, self._producer = self._producer, None
        # Once it has met a fatal error, a producer raises that again whatever it is asked.
        with contextlib.suppress(KafkaException):
            if producer is not None:
                producer.purge()
                unwrap_callback_errors(producer.flush, 0)

    def close(self) -> None:
        """Let go of the producer; a transaction that is still open is the broker's to abort."""
        self._discard()

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._disturbance = format_error(error)
            self._on_outage(format_error(error))


def produce_all(producer: Producer, records: Records, heartbeat: Callable[[], None]) -> None:
    """Hand records to the producer's queue; wait where it is full.

    Raises:
        KafkaException: the client refuses one.
    """
    produce, topic = producer.produce, records.topic
    rows = zip(records.values, records.keys, records.partitions, strict=True)
    if records.headers is None:
        for value, key, partition in rows:
            try:
                produce(topic, value, key, partition)
            except BufferError:
                _make_room(producer, heartbeat)
                produce(topic, value, key, partition)
        return
    for (value, key, partition), headers in zip(rows, records.headers, strict=True):
        # No callbacks and the time of now, by position: keywords take longer.
        message: tuple[Any, ...] = (topic, value, key, partition, None, None, 0, headers)
        try:
            produce(*message)
        except BufferError:
            _make_room(producer, heartbeat)
            produce(*message)


def _make_room(producer: Producer, heartbeat: Callable[[], None]) -> None:
    """Wait for the queue to empty: it holds more than any batch, so this is an outage at work."""
    while unwrap_callback_errors(producer.flush, 1.0):
        heartbeat()


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
            RecordRejectedByBroker: the same, because the broker will not take one of the records.
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
            BatchAborted, RecordRejectedByBroker, Unavailable: as for :meth:`stage`.
        """
        producer = self._producer
        assert producer is not None  # noqa: S101 - stage() left it open
        try:
            while unwrap_callback_errors(producer.flush, 1.0):
                self._heartbeat()
            self._heartbeat()
            if not self._failed:
                consumer.commit(offsets=list(next_offsets), asynchronous=False)
        except KafkaException as exception:
            self._recover(exception)
        if self._failed:
            self._recover(KafkaException(self._failed[0]))

    def _recover(self, exception: KafkaException) -> None:
        error = kafka_error(exception)
        reason = f"batch not acknowledged: {format_error(error)}"
        if error.fatal():
            self.close()
        if error.code() in REFUSALS:
            raise RecordRejectedByBroker(reason) from exception
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
                unwrap_callback_errors(producer.flush, 0)

    def _on_failed_delivery(self, error: KafkaError, _message: Any) -> None:
        self._failed.append(error)

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._on_outage(format_error(error))


_ANY_TOPIC: Final = "__transaction_state"
"""Asked about for the sake of an answer; one topic is less of it than all."""


def acquire_producer_id(producer: Producer, timeout_s: float) -> None:
    """Get a new producer its id, as soon as that can be.

    ``init_transactions`` of a producer that has no connection yet waits for half a second before it looks
    for its coordinator again, as often as not: librdkafka drops the connection to the bootstrap server once
    it knows the brokers' names, and connects to none of those before it has something to ask. Two
    questions make sure that it has: the first may be answered by the bootstrap server, not the second.

    Args:
        producer: one that was just made.
        timeout_s: how long each of the three steps may take.

    Raises:
        KafkaException: the broker did not answer, or refuses.
    """
    for _ in range(2):
        unwrap_callback_errors(producer.list_topics, _ANY_TOPIC, timeout_s)
    producer.init_transactions(timeout_s)
