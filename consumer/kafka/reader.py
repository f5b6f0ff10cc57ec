"""Reads the committed records of a topic from given offsets on, in no consumer group.

Where to read on is the caller's to remember; nothing is committed to Kafka. An offset that the topic
no longer has, or does not have yet, is an error for a person to decide on, never a silent jump.

Reads committed records of one topic from any place, again and again, in no consumer group.

Reads a topic's committed records from its first to the end it had when we began.

A reader of the oracle's own: with the stream it shares the Kafka client and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in __all__

from consumer.columnar.arrays import IntArray
from consumer.errors import Condition, FatalError, StartupError, Unavailable
from consumer.kafka.admin import GONE_CODES, TopicProbe, facts_of
from consumer.kafka.client_config import FETCH
from consumer.kafka.errors import format_error, is_outage, kafka_error
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]  # it is exported

GROUP_ID: Final = "purchase-stream-tail"
"""The client asks for one; no offset is ever committed under it."""

LOOK_AGAIN_S: Final = 3.0
"""Seconds between looks at the topic, which find new partitions, an outage and its end, and a topic
created anew under our feet: of the latter, records may be returned until the look."""

_STUCK_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)


@dataclass(frozen=True, slots=True)
class TailBatch:
    """n committed records.

    Attributes:
        partitions: partition of each record, int64 (n,).
        offsets: offset of each record, int64 (n,); rising within a partition.
        values: n record values; ``None`` is a tombstone.
        next_offsets: where to read on after this batch, for every partition of the topic.
    """

    partitions: IntArray = field(repr=False)
    offsets: IntArray = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    next_offsets: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.values)


class CommittedTail:
    """Follows all partitions of a topic, those included that are added later.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the topic.
        start_offsets: where to begin, by partition. If it names any partition, one that it does not
            name is read from its first record; if it is empty, all are read from the first record
            that the topic still has.
        conditions: where an outage or a stuck partition is noted.

    Raises:
        Unavailable: no broker answered in time.
        StartupError: the topic does not exist or does not have a start offset any more.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        topic: str,
        start_offsets: Mapping[int, int],
        conditions: Readiness,
    ) -> None:
        self._topic = topic
        self._conditions = conditions
        self._probe = TopicProbe(client_config, topic)
        facts = self._probe.facts()
        self._topic_id = facts.topic_id
        self._next_offsets = self._starts(facts.partitions, start_offsets)
        self._stuck: set[int] = set()
        self._look: Future[TopicDescription] | None = None
        self._look_at_s = time.monotonic() + LOOK_AGAIN_S
        self._consumer = Consumer(
            {
                **FETCH,
                **client_config,
                "group.id": GROUP_ID,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "check.crcs": True,
                "error_cb": self._on_error,
            }
        )
        self._consumer.assign([TopicPartition(topic, *start) for start in self._next_offsets.items()])

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where to read on, for every partition of the topic."""
        return dict(self._next_offsets)

    def poll(self, max_records: int, max_wait_s: float) -> TailBatch | None:
        """Return the next records, or ``None`` if there are none.

        Args:
            max_records: at most so many.
            max_wait_s: how long to wait for so many.

        Raises:
            StartupError: the topic, or the offset to go on from, is gone.
            FatalError: the client cannot go on.
        """
        self._look_for_changes()
        try:
            messages = self._consumer.consume(max_records, max_wait_s)
        except KafkaException as exception:
            raise FatalError(
                f"{self._topic} cannot be read: {format_error(kafka_error(exception))}"
            ) from exception
        if any(map(Message.error, messages)):
            troubled = [message for message in messages if message.error() is not None]
            messages = [message for message in messages if message.error() is None]
            for message in troubled:
                self._on_message_error(message, message.error())  # type: ignore[arg-type]  # not None, see above
        if not messages:
            return None
        self._conditions.clear(Condition.BROKER)
        # The client's types allow for a message without coordinates; a record has them.
        partitions = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
        offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
        last_offsets = np.full(int(partitions.max()) + 1, -1)
        last_offsets[partitions] = offsets  # of those of one partition, the last stays
        read = {part: offset + 1 for part, offset in enumerate(last_offsets.tolist()) if offset >= 0}
        self._next_offsets |= read
        self._stuck -= read.keys()
        if not self._stuck:
            self._conditions.clear(Condition.PARTITION)
        return TailBatch(
            partitions=partitions,
            offsets=offsets,
            values=list(map(Message.value, messages)),
            next_offsets=self.next_offsets,
        )

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _starts(self, partitions: Sequence[int], start_offsets: Mapping[int, int]) -> dict[int, int]:
        """Return where to begin in each partition.

        Raises:
            StartupError: records from there on are gone, or were never there.
        """
        firsts, ends = self._probe.first_offsets(partitions), self._probe.end_offsets(partitions)
        missing = start_offsets.keys() - set(partitions)
        if missing:
            raise StartupError(
                f"{self._topic} has no partition {min(missing)} any more; was it created anew?"
            )
        starts = firsts if not start_offsets else {p: start_offsets.get(p, 0) for p in partitions}
        for partition, start in starts.items():
            if not firsts[partition] <= start <= ends[partition]:
                raise self._gap(partition, start, firsts[partition], ends[partition])
        return starts

    def _not_there(self, partition: int) -> StartupError | FatalError:
        start = self._next_offsets[partition]
        try:
            first = self._probe.first_offsets([partition])[partition]
            end = self._probe.end_offsets([partition])[partition]
        except Unavailable:
            return FatalError(
                f"{self._topic}[{partition}] does not have offset {start}; start again to see why"
            )
        return self._gap(partition, start, first, end)

    def _gap(self, partition: int, start: int, first: int, end: int) -> StartupError:
        lost = f"{first - start} records are lost" if start < first else "was the topic cut or created anew?"
        return StartupError(
            f"{self._topic}[{partition}] should be read on from offset {start}, but has {first} to {end}"
            f" ({lost}); set what was made of it aside to begin anew at {first}"
        )

    def _look_for_changes(self) -> None:
        """Ask for the topic's description every few seconds, without waiting for the answer."""
        if self._look is None:
            if time.monotonic() >= self._look_at_s:
                self._look = self._probe.look()
            return
        if not self._look.done():
            return
        look, self._look = self._look, None
        self._look_at_s = time.monotonic() + LOOK_AGAIN_S
        try:
            facts = facts_of(look.result())
        except KafkaException as exception:
            self._conditions.set(Condition.BROKER, f"{self._topic}: {format_error(kafka_error(exception))}")
            return
        self._conditions.clear(Condition.BROKER)
        if facts.topic_id != self._topic_id:
            raise StartupError(
                f"{self._topic} was deleted and created anew; set what was made of the old one aside to"
                " begin anew"
            )
        added = [part for part in facts.partitions if part not in self._next_offsets]
        if added:
            self._next_offsets |= dict.fromkeys(added, 0)
            self._consumer.incremental_assign([TopicPartition(self._topic, part, 0) for part in added])

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._conditions.set(Condition.BROKER, format_error(error))

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        """Note what keeps a partition from being read; raise what does not pass."""
        partition = message.partition()
        where = f"{message.topic()}[{partition}]"
        if error.fatal():
            raise FatalError(f"{where} cannot be read: {format_error(error)}")
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
            raise self._not_there(partition)
        if error.code() in GONE_CODES:
            raise StartupError(f"{where} is gone: {format_error(error)}")
        if error.code() in _STUCK_CODES and partition is not None:
            self._stuck.add(partition)
            reason = f"{where} at offset {message.offset()} cannot be read: {format_error(error)}"
            self._conditions.set(Condition.PARTITION, reason)
        else:
            self._conditions.set(Condition.BROKER, f"{where} cannot be read: {format_error(error)}")


_GROUP: Final = "purchase-stream-look-up"
"""The client asks for one; nothing is ever committed under it."""

_FETCH_AHEAD: Final = 500
_POLL_S: Final = 0.2
_SILENCE_LIMIT_S: Final = 20.0


class PartitionReader:
    """Reads parts of partitions, one part at a time.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the topic.
    """

    def __init__(self, client_config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": _GROUP,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "fetch.wait.max.ms": 50,
                # A look-up takes a few records and goes elsewhere: do not fetch far ahead.
                "queued.min.messages": _FETCH_AHEAD,
                "fetch.message.max.bytes": 256 * 1024,
            }
        )

    def records(self, partition: int, begin: int, end: int) -> Iterator[Message]:
        """Yield the committed records of a part, in their order; stop asking when you have seen enough.

        Args:
            partition: the partition.
            begin: first offset; the topic must still have it.
            end: end of the part, exclusive, at most the last stable offset.

        Raises:
            Unavailable: the broker is away, or lost the records meanwhile.
        """
        if begin >= end:
            return
        try:
            self._consumer.assign([TopicPartition(self._topic, partition, begin)])
            heard_s = time.monotonic()
            while True:
                # One by one: it returns at once, where asking for several waits for all of them.
                message = self._consumer.poll(_POLL_S)
                if message is None:
                    if time.monotonic() - heard_s > _SILENCE_LIMIT_S:
                        raise Unavailable(
                            f"{self._topic}[{partition}]: nothing to read; is the broker there?"
                        )
                    continue
                heard_s = time.monotonic()
                error, offset = message.error(), message.offset() or 0
                if error is None and offset < end:
                    yield message
                elif error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise Unavailable(f"{self._topic}[{partition}] lost its record {begin}; try again")
                if offset + (error is None) >= end:
                    return
        except KafkaException as exception:
            why = format_error(kafka_error(exception))
            raise Unavailable(f"{self._topic} cannot be read: {why}; try again") from exception

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


_SCAN_GROUP: Final = "purchase-stream-audit-verify"
"""The client asks for one; nothing is ever committed under it."""

_BATCH: Final = 10_000
_ANSWER_TIMEOUT_S: Final = 15.0
_PAUSE_S: Final = 0.1
_SCAN_SILENCE_LIMIT_S: Final = 60.0
"""Without a record or an end for so long, the broker is taken to be away."""

_HOPELESS_CODES: Final = (
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
)

_PASSING_CODES: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""A partition has a new leader, as the broker will know in a moment."""

Ranges = dict[int, tuple[int, int]]
"""First offset and end (exclusive) by partition."""


def committed_ranges(client_config: Mapping[str, Any], topic: str) -> Ranges:
    """Return what of each partition a reader of committed records can read now.

    The end is the last stable offset: before the first record of a transaction that is still open.

    Raises:
        StartupError: there is no such topic.
        Unavailable: no broker answered in time.
    """
    admin = AdminClient(dict(client_config))
    deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        try:
            return _ask_ranges(admin, topic)
        except KafkaException as exception:
            error = exception.args[0]
            if error.code() not in _PASSING_CODES or time.monotonic() > deadline_s:
                raise Unavailable(
                    f"Kafka cannot be asked for the offsets of {topic}: {error.str()}; try again"
                ) from exception
        time.sleep(_PAUSE_S)


def _ask_ranges(admin: AdminClient, topic: str) -> Ranges:
    found = admin.list_topics(topic, timeout=_ANSWER_TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise StartupError(
            f"no topic {topic} ({found.error.str()}); create it with: purchase-stream topics create"
        )
    partitions = [TopicPartition(topic, partition) for partition in sorted(found.partitions)]
    begins, ends = (
        admin.list_offsets(
            dict.fromkeys(partitions, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_ANSWER_TIMEOUT_S,
        )
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]  # untyped there
    )
    return {at.partition: (begins[at].result().offset, ends[at].result().offset) for at in partitions}


def committed_records(
    client_config: Mapping[str, Any], topic: str, ranges: Ranges
) -> Iterator[Sequence[Message]]:
    """Yield the committed records inside the ranges, in batches; a batch mixes partitions.

    Raises:
        Unavailable: the broker went away, or the topic lost records while they were read.
    """
    left = {partition: end for partition, (begin, end) in ranges.items() if begin < end}
    consumer = Consumer(
        {
            **client_config,
            "group.id": _SCAN_GROUP,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )
    heard_s = time.monotonic()
    try:
        consumer.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in left])
        while left:
            messages = consumer.consume(_BATCH, timeout=0.1)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SCAN_SILENCE_LIMIT_S:
                raise Unavailable(
                    f"{topic}: nothing to read for {_SCAN_SILENCE_LIMIT_S:.0f} s; is the broker there?"
                )
            records = [message for message in messages if _is_record(message, topic)]
            yield [m for m in records if m.offset() < ranges[m.partition()][1]]  # type: ignore[index,operator]  # a record has both
            for partition in _finished(messages, left):
                consumer.incremental_unassign([TopicPartition(topic, partition)])
                del left[partition]
    except KafkaException as exception:
        raise Unavailable(f"{topic} cannot be read: {exception.args[0].str()}; try again") from exception
    finally:
        consumer.close()


def _is_record(message: Message, topic: str) -> bool:
    """Tell a record from an end, or from a trouble that the client gets over by itself."""
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise Unavailable(
            f"{topic} lost records of partition {message.partition()} while they were read; try again"
        )
    if error.fatal() or error.code() in _HOPELESS_CODES:
        raise KafkaException(error)
    return False


def _finished(messages: Sequence[Message], ends: Mapping[int, int]) -> list[int]:
    """Return the partitions that are read up to their end.

    An end is reported by itself, with its offset, where nothing but transaction markers is left.
    """
    next_offsets = {m.partition(): (m.offset() or 0) + (m.error() is None) for m in messages}
    return [partition for partition, end in ends.items() if next_offsets.get(partition, -1) >= end]
