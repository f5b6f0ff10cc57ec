"""Publish records and commit their source offsets together.

:class:`TransactionalProducer` does both in one Kafka transaction (exactly once).
:class:`AtLeastOnceProducer` publishes first and commits the offsets afterwards: faster, but a failure may
publish a batch twice. Both have the same interface::

    producer.open()
    transaction = producer.begin(records, offsets)   # the records are produced
    transaction.commit()                             # records and offsets are committed
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.errors import (
    BatchAborted,
    CommitOutcomeUnknown,
    FatalError,
    RecordRejectedByBroker,
    RightMissing,
    StartupError,
    Unavailable,
)
from consumer.kafka.client_config import RETRY_BACKOFF_MS
from consumer.kafka.errors import (
    ClientLog,
    Policy,
    format_error,
    is_outage,
    kafka_error,
    missing_right,
    outage_reason,
    policy_of,
    unwrap_callback_errors,
)
from consumer.pipeline.batch import Headers

log = structlog.get_logger(__name__)

ProducerFactory: TypeAlias = Callable[[dict[str, Any]], Producer]
"""Creates a client from its configuration. Fault tests pass one that dies at a chosen step."""

_OPEN_TIMEOUT_S: Final = 5.0
"""The time limit of each step to get a producer id. The caller repeats all steps while an outage lasts."""

_RETRY_PAUSE_S: Final = 0.1

MAY_BE_SENT_TWICE_AFTER_S: Final = 0.8 * RETRY_BACKOFF_MS / 1000
"""A call that took longer than this may have sent a request twice: librdkafka waits ``retry.backoff.ms``
before it sends again, and shortens that by up to a fifth, at random."""

REJECTION_CODES: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)
"""A record with one of these errors, from the client or the broker, will never be accepted."""

_MAX_FATAL_ERRORS: Final = 5
"""This many fatal errors without a commit in between mean that another process uses our transactional id,
or that the broker refuses us. A single one is harmless: a broker that aborted a transaction while this
process was suspended causes one, too."""

_GENERATION_CODES: Final = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._STATE,
)
"""The group has rebalanced; the offset commit may or may not have been accepted."""

_ID_LOOKUP_TOPIC: Final = "__transaction_state"
"""Asking for any one topic costs less than asking for all."""


@dataclass(frozen=True, slots=True)
class Records:
    """n records for one topic.

    Attributes:
        topic: The topic.
        partitions: The target partition of each record.
        keys: The key of each record.
        values: The value of each record.
        headers: The headers of each record, or ``None`` if no record has any.
    """

    topic: str
    partitions: Sequence[int] = field(repr=False)
    keys: Sequence[bytes | None] = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    headers: Sequence[Headers] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class SourceOffsets:
    """The offsets that are committed together with records.

    Attributes:
        consumer: The group member that read the events.
        group: The group.
        next_offsets: The offset to resume from, for each partition of the batch.
        group_metadata: The member's identity and generation when the batch was begun. After the next
            poll it may belong to a later generation, in which the partitions are not ours.
    """

    consumer: Consumer
    group: str
    next_offsets: Sequence[TopicPartition]
    group_metadata: object


@dataclass(frozen=True, slots=True)
class CommitRights:
    """The rights that a commit needs.

    Attributes:
        topics: The topics of its records.
        group: The group whose offsets it commits.
    """

    topics: Sequence[str] = ()
    group: str = ""

    def missing(self, error: KafkaError, client_config: Mapping[str, Any]) -> str | None:
        """Return which right is missing, or ``None`` if the error says something else."""
        client_log = client_config.get("logger")
        refused_topic = client_log.refused_topic if isinstance(client_log, ClientLog) else None
        topics = [refused_topic] if refused_topic in self.topics else self.topics
        needed = {
            KafkaError.TOPIC_AUTHORIZATION_FAILED: f"Write on topic {' or '.join(map(str, topics))}",
            KafkaError.GROUP_AUTHORIZATION_FAILED: f"Read on group {self.group}",
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
                f"Write on transactional id {client_config.get('transactional.id')}"
            ),
        }
        return missing_right(error, needed.get(error.code(), "IdempotentWrite on the cluster"), client_config)


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """Records that have been produced but not committed yet.

    :meth:`commit` may run in another thread. Until it has returned, the only method of the session that
    may be called is :meth:`consumer.kafka.session.Session.poll`.
    """

    _commit: Callable[[], None]

    def commit(self) -> None:
        """Commit the records and their source offsets.

        Raises:
            BatchAborted: No reader will see any of the records.
            RecordRejectedByBroker: The same, because of one of the records.
            CommitOutcomeUnknown: The committed offsets tell whether the batch was committed.
            Unavailable: The broker is away; nothing was committed.
            FatalError: This process must stop.
        """
        self._commit()


class TransactionalProducer:
    """Publishes each batch in a transaction of its own.

    Args:
        config: The configuration of a transactional producer.
        producer_factory: Creates the client.
        heartbeat: Called before every call that can block. It may raise in order to stop.
        on_outage: Called with a reason when the broker is away.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        producer_factory: ProducerFactory = Producer,
        heartbeat: Callable[[], None] = lambda: None,
        on_outage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config | {"error_cb": self._on_error}
        self._producer_factory = producer_factory
        self._heartbeat = heartbeat
        self._on_outage = on_outage
        self._producer: Producer | None = None
        self._was_open = False
        self._n_fatal_errors = 0
        self._connection_error: str | None = None
        """The last broken connection since the current transaction began."""

    def open(self) -> None:
        """Get a producer id, which fences earlier runs of this instance and aborts their open transaction.

        Raises:
            Unavailable: The broker did not answer; call again.
            FatalError: The broker refuses the transactional id.
        """
        self._open_producer()

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Begin a transaction and produce its records.

        1. Begin. 2. Produce every record.

        Raises:
            BatchAborted: No reader will see any of the records.
            RecordRejectedByBroker: The same, because of one of the records.
            CommitOutcomeUnknown: The producer was lost; the committed offsets tell what is left to do.
            Unavailable: The broker is away.
            FatalError: This process must stop.
        """
        rights = CommitRights([each.topic for each in records], offsets.group)
        producer = self._open_producer()
        try:
            # Serve callbacks first: a connection that broke between transactions raises no doubt.
            unwrap_callback_errors(producer.poll, 0)
            self._connection_error = None
            self._call(producer.begin_transaction)
            for topic_records in records:
                produce_all(producer, topic_records, self._heartbeat)
        except KafkaException as exception:
            self._fail(producer, exception, rights)
        return OpenTransaction(partial(self._commit, producer, offsets, rights))

    def close(self) -> None:
        """Drop the producer. The broker aborts a transaction that is still open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _drop(producer)

    def _open_producer(self) -> Producer:
        """Return the current producer, or a new one that has its producer id."""
        if self._producer is None:
            self._heartbeat()
            producer = self._producer_factory(self._config)
            try:
                acquire_producer_id(producer, _OPEN_TIMEOUT_S)
            except KafkaException as exception:
                error = kafka_error(exception)
                with contextlib.suppress(KafkaException):  # deliver the log line that holds the cause
                    unwrap_callback_errors(producer.poll, 0)
                if missing := CommitRights().missing(error, self._config):
                    # Wait for a right that was taken away; one that was never there needs a person.
                    raise (RightMissing if self._was_open else StartupError)(missing) from exception
                reason = outage_reason(error, self._config)
                if error.retriable() or is_outage(error):
                    raise Unavailable(f"no transactional producer yet: {reason}") from exception
                raise FatalError(f"the broker refuses the transactional producer: {reason}") from exception
            self._producer = producer
            self._was_open = True
        return self._producer

    def _commit(self, producer: Producer, offsets: SourceOffsets, rights: CommitRights) -> None:
        """Commit the open transaction.

        3. Flush, so that the next two steps need not wait for deliveries. 4. Send the offsets, fenced by
        the group's generation. 5. Commit.
        """
        try:
            flush(producer, self._heartbeat)
            started_s = time.monotonic()
            self._call(producer.send_offsets_to_transaction, offsets.next_offsets, offsets.group_metadata)
            self._call(producer.commit_transaction)
            self._n_fatal_errors = 0
            self._close_if_sent_twice(producer, started_s)
        except KafkaException as exception:
            self._fail(producer, exception, rights)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call, and repeat it while librdkafka says that the same call may be retried."""
        while True:
            self._heartbeat()
            try:
                function(*arguments)
            except KafkaException as exception:
                error = kafka_error(exception)
                if policy_of(error) is not Policy.RETRY_CALL:
                    raise
                if is_outage(error):
                    self._on_outage(outage_reason(error, self._config))
                time.sleep(_RETRY_PAUSE_S)
            else:
                return

    def _close_if_sent_twice(self, producer: Producer, started_s: float) -> None:
        """Drop the producer if a request that ends the transaction may have been sent twice.

        The first of the two may still be on its way. It could then end a later transaction of the same
        producer epoch, or reset its offsets: transaction protocol v1 cannot tell them apart (Jepsen,
        Bufstream 0.1.0). A new producer has a new epoch, which fences the late request. librdkafka does
        not report that it sends again, but it waits before it does, and it reports broken connections.

        Args:
            producer: The producer.
            started_s: When the first of these requests was sent, monotonic seconds.
        """
        unwrap_callback_errors(
            producer.poll, 0
        )  # Learn of broken connections now, not in the next transaction.
        took_s = time.monotonic() - started_s
        if self._connection_error is not None or took_s > MAY_BE_SENT_TWICE_AFTER_S:
            log.info(
                "producer recreated because a request may have been sent twice",
                connection_error=self._connection_error,
                took_ms=round(took_s * 1000),
            )
            self.close()

    def _fail(self, producer: Producer, exception: KafkaException, rights: CommitRights) -> NoReturn:
        """Abort the transaction if possible, and raise the error that says what happened to the batch."""
        error = cause = kafka_error(exception)
        missing = rights.missing(cause, self._config)
        if policy_of(error) is Policy.ABORT:
            started_s = time.monotonic()
            try:
                self._call(producer.abort_transaction)
                self._close_if_sent_twice(producer, started_s)
            except KafkaException as abort_exception:
                exception, error = abort_exception, kafka_error(abort_exception)
            else:
                reason = f"transaction aborted: {format_error(error)}"
                # The client reports the broker's first error for a record as the reason to abort, so
                # delivery reports are not needed here.
                if error.code() in REJECTION_CODES:
                    raise RecordRejectedByBroker(reason) from exception
                if missing is not None:
                    raise RightMissing(missing) from exception
                raise BatchAborted(reason) from exception
        self.close()
        if missing is not None and cause.code() != KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            # The broker refused a record or the offsets, so the commit was not sent. It may refuse the abort,
            # too, because it did not let the transaction begin.
            raise RightMissing(missing) from exception
        if missing is not None:
            raise CommitOutcomeUnknown(missing) from exception
        self._count_fatal_error(error)
        # Even a fatal error may arrive after the broker has committed.
        raise CommitOutcomeUnknown(f"producer recreated: {format_error(error)}") from exception

    def _count_fatal_error(self, error: KafkaError) -> None:
        self._n_fatal_errors += 1
        if self._n_fatal_errors >= _MAX_FATAL_ERRORS:
            raise FatalError(
                f"{_MAX_FATAL_ERRORS} fatal producer errors in a row, the last: {format_error(error)}; "
                f"does another process run as {self._config['transactional.id']}?"
            )

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._connection_error = format_error(error)
            self._on_outage(outage_reason(error, self._config))


class AtLeastOnceProducer:
    """Publishes batches with an idempotent producer; has the interface of :class:`TransactionalProducer`.

    Args:
        config: The configuration of a producer.
        producer_factory: Creates the client.
        heartbeat: Called before every call that can block. It may raise in order to stop.
        on_outage: Called with a reason when the broker is away.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        producer_factory: ProducerFactory = Producer,
        heartbeat: Callable[[], None] = lambda: None,
        on_outage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config | {"on_delivery": self._on_failed_delivery, "error_cb": self._on_error}
        self._producer_factory = producer_factory
        self._heartbeat = heartbeat
        self._on_outage = on_outage
        self._producer: Producer | None = None
        self._delivery_errors: list[KafkaError] = []

    def open(self) -> None:
        """Create the client. It connects in the background."""
        self._open_producer()

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Produce records.

        Raises:
            BatchAborted: Some records were not accepted; publish the batch again.
            RecordRejectedByBroker: The same, because of one of the records.
            CommitOutcomeUnknown: The committed offsets tell what is left to do.
            Unavailable: The broker is away.
        """
        rights = CommitRights([each.topic for each in records], offsets.group)
        producer = self._open_producer()
        self._delivery_errors.clear()
        try:
            for topic_records in records:
                produce_all(producer, topic_records, self._heartbeat)
        except KafkaException as exception:
            self._fail(exception, rights)
        return OpenTransaction(partial(self._commit, producer, offsets, rights))

    def close(self) -> None:
        """Drop the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _drop(producer)

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = self._producer_factory(self._config)
        return self._producer

    def _commit(self, producer: Producer, offsets: SourceOffsets, rights: CommitRights) -> None:
        """Flush, and commit the offsets if every record was acknowledged."""
        try:
            flush(producer, self._heartbeat)
            self._heartbeat()
            if not self._delivery_errors:
                offsets.consumer.commit(offsets=list(offsets.next_offsets), asynchronous=False)
        except KafkaException as exception:
            self._fail(exception, rights)
        if self._delivery_errors:
            self._fail(KafkaException(self._delivery_errors[0]), rights)

    def _fail(self, exception: KafkaException, rights: CommitRights) -> NoReturn:
        error = kafka_error(exception)
        reason = f"batch not acknowledged: {format_error(error)}"
        if error.fatal():
            self.close()
        if error.code() in REJECTION_CODES:
            raise RecordRejectedByBroker(reason) from exception
        if missing := rights.missing(error, self._config):
            raise RightMissing(missing) from exception
        if is_outage(error):
            raise Unavailable(reason) from exception
        if error.code() in _GENERATION_CODES:
            raise CommitOutcomeUnknown(reason) from exception
        raise BatchAborted(reason) from exception

    def _on_failed_delivery(self, error: KafkaError, _message: Any) -> None:
        self._delivery_errors.append(error)

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._on_outage(outage_reason(error, self._config))


def produce_all(producer: Producer, records: Records, heartbeat: Callable[[], None]) -> None:
    """Put records into the producer's queue, and wait whenever the queue is full.

    Raises:
        KafkaException: The client refuses a record.
    """
    produce, topic = producer.produce, records.topic
    rows = zip(records.values, records.keys, records.partitions, strict=True)
    if records.headers is None:
        for value, key, partition in rows:
            try:
                produce(topic, value, key, partition)
            except BufferError:
                flush(producer, heartbeat)
                produce(topic, value, key, partition)
        return
    for (value, key, partition), headers in zip(rows, records.headers, strict=True):
        # Positional, because keywords cost more: no callbacks, and 0 for the current time.
        message: tuple[Any, ...] = (topic, value, key, partition, None, None, 0, headers)
        try:
            produce(*message)
        except BufferError:
            flush(producer, heartbeat)
            produce(*message)


def flush(producer: Producer, heartbeat: Callable[[], None]) -> None:
    """Wait until every record in the producer's queue is acknowledged or has failed."""
    while unwrap_callback_errors(producer.flush, 1.0):
        heartbeat()


def acquire_producer_id(producer: Producer, timeout_s: float) -> None:
    """Get a new producer its id without an avoidable wait.

    ``init_transactions`` of a producer without a connection often waits half a second before it searches for
    its coordinator again: librdkafka drops the connection to the bootstrap server once it knows the
    brokers' names, and connects to none of them before it has a request to send. Two requests ensure a
    connection: the bootstrap server may answer the first of them, but not the second.

    Args:
        producer: A producer that was just created.
        timeout_s: The limit of each of the three steps.

    Raises:
        KafkaException: The broker did not answer, or refuses.
    """
    for _ in range(2):
        unwrap_callback_errors(producer.list_topics, _ID_LOOKUP_TOPIC, timeout_s)
    producer.init_transactions(timeout_s)


def _drop(producer: Producer) -> None:
    """Discard a producer together with the records in its queue."""
    # After a fatal error a producer raises that error from every call.
    with contextlib.suppress(KafkaException):
        producer.purge()
        unwrap_callback_errors(producer.flush, 0)


def write_tombstones(config: dict[str, Any], topic: str, keys: Iterable[tuple[int, bytes]]) -> int:
    """Write a tombstone for each key, so that compaction deletes the key's records; return their number.

    Args:
        config: The configuration of a producer.
        topic: A compacted topic.
        keys: The partition and the key of each tombstone.

    Raises:
        StartupError: The right to write is missing.
        Unavailable: The broker is away.
    """
    errors: list[KafkaError] = []
    producer = Producer(config | {"on_delivery": lambda error, _: errors.append(error)})
    found = list(keys)
    partitions, keys_only = [partition for partition, _ in found], [key for _, key in found]
    records = Records(topic, partitions, keys_only, [None] * len(found))
    try:
        produce_all(producer, records, lambda: None)
        flush(producer, lambda: None)
    except KafkaException as exception:
        errors.append(kafka_error(exception))
    if errors:
        if missing := missing_right(errors[0], f"Write on topic {topic}", config):
            raise StartupError(missing)
        raise Unavailable(f"{topic}: tombstones were not written: {format_error(errors[0])}; try again")
    return len(found)
