"""The group's consumer: batches of events, and which partitions are ours while they last.

Where the group's consumer reads on in partitions that become its own.

Partitions that cannot be read, and why: a person has to look.

The headers of records that were read, as far as the client can tell them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumer.columnar.arrays import select_rows
from consumer.errors import Condition, FatalError, Unavailable
from consumer.kafka.errors import format_error, is_outage, kafka_error, unwrap_callback_errors
from consumer.pipeline.batch import Headers, RawBatch
from consumer.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

_PROBE_TIMEOUT_S: Final = 1.0
_FENCED_CODES: Final = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL)
"""The last is what a fatal error comes as in place of a message; the client drops the mark there."""
_FENCED_AGAIN_S: Final = 20.0
"""Several times the session's timeout, by the end of which twins have met."""
_HOLD_S: Final = 0.2
"""How long a batch that is not full is held open at most; beyond it, the commit has met an outage."""
_BEHIND_COMMIT_S: Final = 0.002
"""A moment for the broker to finish what a commit leaves it to do, before the next transaction begins."""


class EventConsumer:
    """Reads the events topic as a member of the group.

    Args:
        config: of the consumer.
        topic: the events topic.
        conditions: where an outage or a stuck partition is noted.
        consumer_factory: makes the consumer; tests may pass their own.
        on_rebalance: told whenever partitions come or go.
        before_start: called when partitions have come, before it is asked where to begin.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        conditions: Readiness,
        *,
        consumer_factory: Callable[[dict[str, Any]], Consumer] = Consumer,
        on_rebalance: Callable[[], None] = lambda: None,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.topic = topic
        self._conditions = conditions
        self._on_rebalance = on_rebalance
        self._before_start = before_start
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()
        self._unreadable = StuckPartitions(conditions)
        self._fenced_at_s = float("-inf")
        self._paused: set[int] = set()
        self._commit_under_way: Future[float] | None = None
        self._joined = False
        incremental = (
            "cooperative" in config["partition.assignment.strategy"]
            or config.get("group.protocol") == "consumer"
        )
        self._positions = StartingOffsets(topic, incremental=incremental)
        self._connect = partial(consumer_factory, config | {"error_cb": self._on_error})
        self.client = self._connect()

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that are ours now."""
        return frozenset(self._assigned)

    def open(self) -> None:
        """Join the group."""
        self._conditions.set(Condition.STARTING, "joining the consumer group")
        self.client.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, max_events: int, max_wait_s: float, idle_s: float) -> RawBatch | None:
        """Return the next events, or ``None`` if there are none.

        Args:
            max_events: at most so many.
            max_wait_s: how long to wait for more once there is one; longer if a commit is under way.
            idle_s: how long to wait for the first.

        Raises:
            FatalError: the broker will not have us in the group any more.
            Unavailable: it cannot be told where to go on; only a new start helps.
        """
        self._revoked.clear()
        messages = self._consume(1, idle_s)
        if messages and max_events > 1:
            messages += self._consume(max_events - 1, max_wait_s)
            messages += self._while_committing(max_events - len(messages))
        if not self._joined and self.client.memberid():
            self._joined = True
            self._conditions.clear(Condition.STARTING)
        self._probe_after_outage(heard=bool(messages))
        return self._batch(messages)

    def idle(self, seconds: float) -> None:
        """Stay a member of the group without taking events, while a batch waits for an outage to end."""
        if flowing := self._assigned - self._paused:
            self._paused |= flowing
            self.client.pause([TopicPartition(self.topic, p) for p in flowing])
        for message in self._without_errors(self._consume(1, seconds)):
            # It was already on its way to us: fetch it again later.
            at = TopicPartition(self.topic, message.partition(), message.offset())  # type: ignore[arg-type]
            self.client.seek(at)

    def resume(self) -> None:
        """Take events again."""
        if self._paused:
            self.client.resume([TopicPartition(self.topic, p) for p in self._paused])
            self._paused.clear()

    def lost_since_poll(self) -> frozenset[int]:
        """Partitions that were taken from us, even if they are back, since the last poll began."""
        return frozenset(self._revoked)

    def await_before_handover(self, done: Future[float]) -> None:
        """Let partitions be handed over only when a commit under way has ended, either way."""
        self._commit_under_way = done

    def committed(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the group's committed offset of each partition, 0 where there is none.

        Raises:
            Unavailable: the broker did not answer.
        """
        return self._positions.committed(self.client, partitions)

    def lag(self, next_offsets: dict[int, int]) -> dict[int, int]:
        """Return how many events each of our partitions is behind, from what the client last heard."""
        lag = {}
        for partition, offset in next_offsets.items():
            if partition in self._assigned:
                watermarks = self.client.get_watermark_offsets(
                    TopicPartition(self.topic, partition), cached=True
                )
                if watermarks[1] >= 0:
                    lag[partition] = max(watermarks[1] - offset, 0)
        return lag

    def close(self) -> None:
        """Leave the group."""
        self.client.close()

    def _consume(self, n: int, timeout_s: float) -> list[Message]:
        try:
            return unwrap_callback_errors(self.client.consume, n, timeout_s)
        except KafkaException as exception:
            self._rejoin(kafka_error(exception))
            return []

    def _while_committing(self, n: int) -> list[Message]:
        """Return up to n events more that come while the batch before is committed.

        This one cannot take off sooner, and what is left behind waits for the commit after its own.
        """
        if not n or self._commit_under_way is None or self._commit_under_way.done():
            return []
        futures.wait([self._commit_under_way], _HOLD_S)
        return self._consume(n, _BEHIND_COMMIT_S)

    def _batch(self, messages: list[Message]) -> RawBatch | None:
        """Sort out what is no event, and what is no longer ours."""
        events = self._without_errors(messages)
        if self._revoked:
            # Lost and back within one poll: what we hold may overlap with what comes. Start clean.
            back = self._positions.start_again(self.client, self._revoked & self._assigned, self._assigned)
            ours = self._assigned - self._revoked - back
            events = [message for message in events if message.partition() in ours]
        if not events:
            return None
        # The client's types allow for a message without coordinates; an event has them.
        partitions: list[int] = list(map(Message.partition, events))  # type: ignore[arg-type]
        offsets: list[int] = list(map(Message.offset, events))  # type: ignore[arg-type]
        self._unreadable.read(set(partitions), self._assigned)
        return RawBatch(
            topic=self.topic,
            partitions=partitions,
            offsets=offsets,
            keys=list(map(Message.key, events)),
            values=list(map(Message.value, events)),
            timestamps_ms=lambda rows: [ms for _, ms in map(Message.timestamp, select_rows(events, rows))],
            headers=lambda rows: headers_of_all(select_rows(events, rows)),
        )

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        """Return the events; heed what else came."""
        if not any(map(Message.error, messages)):
            return messages
        for message in messages:
            if (error := message.error()) is not None:
                self._on_message_error(message, error)
        return [message for message in messages if message.error() is None]

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        """Heed what came in place of a message."""
        if error.fatal() or error.code() in _FENCED_CODES:
            self._rejoin(error)
            return
        if self._unreadable.note(message, error):
            return
        if error.code() != KafkaError._MAX_POLL_EXCEEDED:  # the next poll joins again
            log.warning("consumer error", where=parse_partition_offset(message), error=format_error(error))

    def _rejoin(self, error: KafkaError) -> None:
        """Join the group anew as somebody else has our place in it, or seems to.

        A broker that was restarted may take a member for its own predecessor. A living twin would
        fence us again within seconds, and then one of us has to go.

        Raises:
            FatalError: it is a twin.
        """
        now_s = time.monotonic()
        if now_s - self._fenced_at_s < _FENCED_AGAIN_S:
            raise FatalError(
                f"the group has fenced us ({format_error(error)}); "
                "does another process run with our instance id? Give each its own kafka.instance_id"
            )
        self._fenced_at_s = now_s
        log.warning("fenced by the group, joining it again", error=format_error(error))
        self._paused.clear()
        self._on_revoke(self.client, [TopicPartition(self.topic, p) for p in self._assigned])
        self.client.close()
        self.client = self._connect()
        self._joined = False
        self.open()

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._conditions.set(Condition.BROKER, format_error(error))

    def _probe_after_outage(self, *, heard: bool) -> None:
        """End the outage once the broker is heard again; where no events flow, ask it."""
        if Condition.BROKER not in self._conditions.active():
            return
        if not heard:
            try:
                self.client.list_topics(self.topic, timeout=_PROBE_TIMEOUT_S)
            except KafkaException:
                return
        self._conditions.clear(Condition.BROKER)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start each partition at its committed offset, or at its beginning if it has none."""
        self._assigned |= {at.partition for at in partitions}
        self._on_rebalance()
        log.info("partitions assigned", partitions=sorted(at.partition for at in partitions))
        self._before_start()
        self._positions.start(consumer, partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget partitions that go to another member, once nothing of them is under way."""
        if self._commit_under_way is not None:
            futures.wait([self._commit_under_way])
        gone = {at.partition for at in partitions}
        self._assigned -= gone
        if paused := self._paused & gone:
            # librdkafka would remember it, and never fetch them for us again.
            consumer.resume([TopicPartition(self.topic, p) for p in paused])
            self._paused -= gone
        self._revoked |= gone
        self._on_rebalance()
        log.info("partitions revoked", partitions=sorted(gone))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget partitions that somebody else may own already."""
        self._on_revoke(consumer, partitions)


_COMMITTED_TIMEOUT_S: Final = 10.0


class StartingOffsets:
    """The beginnings of one member's partitions.

    Args:
        topic: the events topic.
        incremental: whether the group's protocol adds and takes partitions, or replaces all of them.
    """

    def __init__(self, topic: str, *, incremental: bool) -> None:
        self._topic = topic
        self._incremental = incremental
        self._begins: dict[int, int] = {}
        """Where each partition was started when it became ours."""

    def committed(self, consumer: Consumer, partitions: Collection[int]) -> dict[int, int]:
        """Return the group's committed offset of each partition, 0 where there is none.

        Raises:
            Unavailable: the broker did not answer.
        """
        if not partitions:
            return {}
        wanted = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        try:
            answer = consumer.committed(wanted, timeout=_COMMITTED_TIMEOUT_S)
        except KafkaException as exception:
            raise Unavailable(
                f"committed offsets unknown: {format_error(kafka_error(exception))}"
            ) from exception
        return {at.partition: max(at.offset, 0) for at in answer}

    def start(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Read new partitions from their committed offsets, or from the beginning where there is none."""
        for at in partitions:
            self._begins.pop(at.partition, None)
        if not partitions:
            return
        try:
            offsets = consumer.committed(list(partitions), timeout=_COMMITTED_TIMEOUT_S)
        except KafkaException as exception:
            # librdkafka asks again by itself; only a partition without an offset then needs a restart.
            log.warning("committed offsets unknown", error=format_error(kafka_error(exception)))
            return
        for at in offsets:
            if at.offset < 0:
                at.offset = OFFSET_BEGINNING
        self._begins |= {at.partition: at.offset for at in offsets}
        self._assign(consumer, offsets)

    def start_again(
        self, consumer: Consumer, partitions: AbstractSet[int], assigned: AbstractSet[int]
    ) -> AbstractSet[int]:
        """Read partitions anew from where they were started, as nothing of them is committed since.

        Args:
            consumer: whose they are.
            partitions: some of those that became ours last.
            assigned: all that are ours.

        Returns:
            Those that are read anew; what was read of them before comes again.

        Raises:
            Unavailable: it could not be told then, and cannot be now.
        """
        if not partitions:
            return partitions
        if not self._incremental:
            partitions = assigned  # all of them became ours together
        begins = self.committed(consumer, partitions - self._begins.keys()) | self._begins
        offsets = [TopicPartition(self._topic, p, begins[p]) for p in sorted(partitions)]
        if self._incremental:
            consumer.incremental_unassign(offsets)
        self._assign(consumer, offsets)
        return partitions

    def _assign(self, consumer: Consumer, offsets: list[TopicPartition]) -> None:
        if self._incremental:
            consumer.incremental_assign(offsets)
        else:
            consumer.assign(offsets)


_STUCK_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
_ABSENT_CODES: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)


class StuckPartitions:
    """The unreadable partitions of one consumer; keeps it from being ready while there are any.

    Args:
        conditions: where the last reason is shown.
    """

    def __init__(self, conditions: Readiness) -> None:
        self._conditions = conditions
        self._partitions: set[int | None] = set()

    def note(self, message: Message, error: KafkaError) -> bool:
        """Note the partition that an error came from; tell whether the error was of this kind."""
        where = parse_partition_offset(message)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            if message.partition() in self._partitions:
                # Behind a damaged batch the client takes some bytes for the next offset, and asks for that.
                return True
            reason = (
                f"{where}: the offset to go on from is not in the topic ({error.str()}); "
                "decide where to go on and reset the group's offset"
            )
        elif error.code() in _STUCK_CODES:
            reason = f"{where} cannot be read: {format_error(error)}"
        elif error.code() in _ABSENT_CODES:
            reason = f"{where}: {format_error(error)}"
        else:
            return False
        self._partitions.add(message.partition())
        self._conditions.set(Condition.PARTITION, reason)
        return True

    def read(self, partitions: AbstractSet[int | None], assigned: AbstractSet[int | None]) -> None:
        """Note what was read; the trouble ends with the last partition that was in it and is still ours."""
        if self._partitions:
            self._partitions = (self._partitions - partitions) & assigned
            if not self._partitions:
                self._conditions.clear(Condition.PARTITION)


def parse_partition_offset(message: Message) -> str:
    """Say where a message, or an error in its place, comes from."""
    return f"{message.topic()}[{message.partition()}] at offset {message.offset()}"


def headers_of(message: Message) -> Headers:
    """Return a record's headers; ones whose names are not UTF-8 cannot be had from the client."""
    try:
        return list(message.headers() or ())  # type: ignore[arg-type]  # a list, of bytes
    except UnicodeDecodeError:
        return [("dlq.error.headers", b"unreadable")]


def headers_of_all(messages: Sequence[Message]) -> list[Headers]:
    """Return the headers of each record; hardly any has some, which one look tells."""
    with contextlib.suppress(UnicodeDecodeError):
        if not any(map(Message.headers, messages)):
            return [[]] * len(messages)
    return list(map(headers_of, messages))
