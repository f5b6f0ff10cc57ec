"""Read the committed records of a topic, in no consumer group.

:class:`TopicFollower` follows a whole topic; :class:`TopicReader` reads given ranges and stops. Neither
commits anything to Kafka: the caller remembers its offsets. An offset that the topic does not have is an
error that a person decides on, never a silent jump.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.columnar.arrays import IntArray
from consumer.errors import Condition, FatalError, ServiceError, StartupError, Unavailable
from consumer.kafka.admin import GONE_CODES, ClusterAdmin, PendingTopic, Ranges
from consumer.kafka.client_config import FETCH
from consumer.kafka.errors import format_error, is_outage, kafka_error, missing_right, outage_reason
from consumer.runtime.readiness import Readiness

GROUP_ID: Final = "purchase-stream-reader"
"""The client requires a group id. No offset is ever committed under it, so no right on it is needed."""

DESCRIBE_EVERY_S: Final = 3.0
"""Seconds between descriptions of a followed topic. They find new partitions, an outage and its end, and a
topic that was deleted and created again; until then, records of the new topic may be returned."""

_STUCK_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
"""A record batch is damaged. The client cannot get past it."""

_BATCH: Final = 10_000
_POLL_S: Final = 0.1


class Record(Protocol):
    """A committed record: a client's message that is not an error, so it has coordinates."""

    def topic(self) -> str: ...  # noqa: D102 - as confluent_kafka.Message
    def partition(self) -> int: ...  # noqa: D102
    def offset(self) -> int: ...  # noqa: D102
    def timestamp(self) -> tuple[int, int]: ...  # noqa: D102
    def key(self) -> bytes | None: ...  # noqa: D102
    def value(self) -> bytes | None: ...  # noqa: D102
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class PolledRecords:
    """n committed records of one poll.

    Attributes:
        partitions: The partition of each record, int64 (n,).
        offsets: The offset of each record, int64 (n,); rising within a partition.
        values: The value of each record; ``None`` is a tombstone.
        next_offsets: The next offset to read after these, for every partition of the topic.
    """

    partitions: IntArray = field(repr=False)
    offsets: IntArray = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    next_offsets: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.values)


class TopicFollower:
    """Follows all partitions of a topic, including partitions that are added later.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
        topic: The topic.
        start_offsets: The first offset to read, by partition. If it is empty, every partition is read from
            the first record that the topic still has. Otherwise a partition that it does not name is read
            from offset 0.
        readiness: Receives outages and stuck partitions.

    Raises:
        Unavailable: No broker answered in time.
        StartupError: The topic does not exist or no longer has a start offset.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        topic: str,
        start_offsets: Mapping[int, int],
        readiness: Readiness,
    ) -> None:
        self._topic = topic
        self._readiness = readiness
        self._config = client_config
        self._admin = ClusterAdmin(client_config)
        description = self._admin.describe_topic(topic)
        self._topic_id = description.topic_id
        self._next_offsets = self._starts(description.partitions, start_offsets)
        self._stuck: set[int] = set()
        self._lacks_right = False
        """Whether the broker has refused a fetch since the last record was read."""
        self._pending: PendingTopic | None = None
        self._describe_at_s = time.monotonic() + DESCRIBE_EVERY_S
        self._consumer = _consumer({**FETCH, **client_config}, error_cb=self._on_error)
        self._consumer.assign([TopicPartition(topic, *start) for start in self._next_offsets.items()])

    @property
    def next_offsets(self) -> dict[int, int]:
        """The next offset to read, for every partition of the topic."""
        return dict(self._next_offsets)

    def poll(self, max_records: int, max_wait_s: float, *, fill: bool = True) -> PolledRecords | None:
        """Return the next records, or ``None`` if there are none.

        Args:
            max_records: Return at most this many.
            max_wait_s: How long to wait.
            fill: Wait until there are ``max_records``; otherwise return as soon as there are any.

        Raises:
            StartupError: The topic, or the next offset, is gone.
            FatalError: The client cannot go on.
        """
        self._check_topic()
        try:
            messages = (
                self._consumer.consume(max_records, max_wait_s)
                if fill
                else _poll_any(self._consumer, max_records, max_wait_s)
            )
        except KafkaException as exception:
            raise FatalError(
                f"{self._topic} cannot be read: {format_error(kafka_error(exception))}"
            ) from exception
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._on_message_error(message, error)
            messages = [message for message in messages if message.error() is None]
        if not messages:
            return None
        self._lacks_right = False
        self._readiness.clear(Condition.BROKER)
        # The client's types allow for a message without coordinates; a record has them.
        partitions = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
        offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
        last_offsets = np.full(int(partitions.max()) + 1, -1)
        last_offsets[partitions] = offsets  # the last offset of each partition wins
        read = {part: offset + 1 for part, offset in enumerate(last_offsets.tolist()) if offset >= 0}
        self._next_offsets |= read
        self._stuck -= read.keys()
        if not self._stuck:
            self._readiness.clear(Condition.PARTITION)
        return PolledRecords(
            partitions=partitions,
            offsets=offsets,
            values=list(map(Message.value, messages)),
            next_offsets=self.next_offsets,
        )

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _starts(self, partitions: int, start_offsets: Mapping[int, int]) -> dict[int, int]:
        """Return the first offset to read of each partition; raise if the topic does not have it."""
        if start_offsets and max(start_offsets) >= partitions:
            raise StartupError(
                f"{self._topic} no longer has partition {max(start_offsets)};"
                " was it deleted and created again?"
            )
        firsts = self._admin.first_offsets(self._topic, range(partitions))
        ends = self._admin.end_offsets(self._topic, range(partitions))
        starts = {p: start_offsets.get(p, 0) for p in range(partitions)} if start_offsets else firsts
        for partition, start in starts.items():
            if not firsts[partition] <= start <= ends[partition]:
                raise self._gap(partition, start, firsts[partition], ends[partition])
        return starts

    def _gap(self, partition: int, start: int, first: int, end: int) -> StartupError:
        lost = (
            f"{first - start} records are lost"
            if start < first
            else "was it truncated, or deleted and created again?"
        )
        return StartupError(
            f"{self._topic}[{partition}] does not have the next offset {start}:"
            f" it holds {first} to {end} ({lost});"
            f" move the files that were made from it away to start again at {first}"
        )

    def _check_topic(self) -> None:
        """Ask for the topic's description every few seconds, without waiting for the answer."""
        if self._pending is None:
            if time.monotonic() >= self._describe_at_s:
                self._pending = self._admin.ask_topic(self._topic)
            return
        if not self._pending.done():
            return
        pending, self._pending = self._pending, None
        self._describe_at_s = time.monotonic() + DESCRIBE_EVERY_S
        try:
            description = pending.wait()
        except ServiceError as error:
            self._readiness.set(Condition.BROKER, f"{self._topic}: {error}")
            return
        if "READ" in description.operations:
            self._lacks_right = False
        if not self._lacks_right:  # Describing needs another right than reading.
            self._readiness.clear(Condition.BROKER)
        if description.topic_id != self._topic_id:
            raise StartupError(
                f"{self._topic} was deleted and created again;"
                " move the files that were made from the old topic away to start again"
            )
        added = range(len(self._next_offsets), description.partitions)
        if added:
            self._next_offsets |= dict.fromkeys(added, 0)
            self._consumer.incremental_assign([TopicPartition(self._topic, part, 0) for part in added])

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._readiness.set(Condition.BROKER, outage_reason(error, self._config))

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        """Note what keeps a partition from being read; raise an error that retrying cannot solve."""
        partition = message.partition()
        where = f"{message.topic()}[{partition}]"
        if _is_about_group(error):
            return
        _raise_if_lasting(where, error)
        if error.code() == KafkaError._PARTITION_EOF:
            self._lacks_right = False  # The broker has answered a fetch.
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
            raise self._lost(partition)
        if error.code() in _STUCK_CODES and partition is not None:
            self._stuck.add(partition)
            reason = f"{where} at offset {message.offset()} cannot be read: {format_error(error)}"
            self._readiness.set(Condition.PARTITION, reason)
        else:
            missing = missing_right(error, f"Read on topic {self._topic}", self._config)
            reason = missing or f"{where} cannot be read: {format_error(error)}"
            self._lacks_right = self._lacks_right or missing is not None
            self._readiness.set(Condition.BROKER, reason)

    def _lost(self, partition: int) -> StartupError | FatalError:
        """Return the error for a partition that does not have its next offset."""
        start = self._next_offsets[partition]
        try:
            first = self._admin.first_offsets(self._topic, [partition])[partition]
            end = self._admin.end_offsets(self._topic, [partition])[partition]
        except Unavailable:
            return FatalError(f"{self._topic}[{partition}] does not have offset {start}; restart to see why")
        return self._gap(partition, start, first, end)


class TopicReader:
    """Reads ranges of a topic.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
        topic: The topic.
        fetch_ahead: The number of records that the client fetches ahead. Small is better for a caller that
            needs a few records from many offsets.
        silence_limit_s: After this time without a record, the broker counts as away.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        topic: str,
        *,
        fetch_ahead: int = 20_000,
        silence_limit_s: float = 60.0,
    ) -> None:
        self._topic = topic
        self._silence_limit_s = silence_limit_s
        self._config = client_config
        fetch = {**FETCH, "queued.min.messages": fetch_ahead}
        self._consumer = _consumer({**fetch, **client_config})

    def read_range(self, partition: int, start: int, stop: int) -> Iterator[Record]:
        """Yield the committed records of a range of a partition, in order.

        Args:
            partition: The partition.
            start: The first offset; the topic must still have it.
            stop: The end of the range, exclusive, at most the last stable offset.

        Raises:
            Unavailable: The broker went away, or the topic lost records while they were read.
            StartupError: The topic is gone.
        """
        for records in self.read_ranges({partition: (start, stop)}):
            yield from records

    def read_ranges(self, ranges: Ranges) -> Iterator[Sequence[Record]]:
        """Yield the committed records of ranges of partitions, in batches.

        A batch mixes partitions; the records of a partition are in order.

        Raises:
            Unavailable: The broker went away, or the topic lost records while they were read.
            StartupError: The topic is gone.
        """
        left = {partition: stop for partition, (start, stop) in ranges.items() if start < stop}
        heard_s = time.monotonic()
        try:
            self._consumer.assign([TopicPartition(self._topic, part, ranges[part][0]) for part in left])
            while left:
                messages = _poll_any(self._consumer, _BATCH, _POLL_S)
                if messages:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > self._silence_limit_s:
                    raise Unavailable(
                        f"{self._topic}: no record for {self._silence_limit_s:.0f} s; does the broker run?"
                    )
                records = [cast("Record", message) for message in messages if self._is_record(message)]
                if wanted := [
                    record for record in records if record.offset() < ranges[record.partition()][1]
                ]:
                    yield wanted
                for partition in _finished(messages, left):
                    self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
                    del left[partition]
        except KafkaException as exception:
            why = format_error(kafka_error(exception))
            raise Unavailable(f"{self._topic} cannot be read: {why}; try again") from exception

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        """Return whether this is a record; false for the end of a partition or a passing error."""
        error = message.error()
        if error is None:
            return True
        if _is_about_group(error):
            return False
        where = f"{self._topic}[{message.partition()}]"
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise Unavailable(f"{where} lost records while they were read; try again")
        _raise_if_lasting(where, error)
        if missing := missing_right(error, f"Read on topic {self._topic}", self._config):
            raise StartupError(missing)
        if error.code() in _STUCK_CODES:
            raise KafkaException(error)
        return False


def _consumer(client_config: Mapping[str, Any], **callbacks: Any) -> Consumer:
    return Consumer(
        {
            **client_config,
            "group.id": GROUP_ID,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "check.crcs": True,
            # The end of a range may be a transaction marker. Then the client reports only the end after it.
            "enable.partition.eof": True,
            **callbacks,
        }
    )


def _poll_any(consumer: Consumer, max_messages: int, max_wait_s: float) -> list[Message]:
    """Wait for a message, and return it with those that have arrived already.

    ``consume`` alone would wait until all ``max_messages`` are there.
    """
    first = consumer.poll(max_wait_s)
    return [] if first is None else [first, *consumer.consume(max_messages - 1, 0)]


def _is_about_group(error: KafkaError) -> bool:
    """Return whether the client only lacks a right on :data:`GROUP_ID`, whose coordinator it asks for."""
    return error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def _raise_if_lasting(where: str, error: KafkaError) -> None:
    """Raise an error that retrying cannot solve."""
    if error.fatal():
        raise FatalError(f"{where} cannot be read: {format_error(error)}")
    if error.code() in GONE_CODES:
        raise StartupError(f"{where} is gone: {format_error(error)}")


def _finished(messages: Sequence[Message], stops: Mapping[int, int]) -> list[int]:
    """Return the partitions that have been read to the end of their range.

    The client reports the end of a partition, with its offset, even if only transaction markers precede it.
    """
    next_offsets = {m.partition(): (m.offset() or 0) + (m.error() is None) for m in messages}
    return [partition for partition, stop in stops.items() if next_offsets.get(partition, -1) >= stop]
