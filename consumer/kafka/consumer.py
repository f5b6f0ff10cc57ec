"""The consumer of the events topic: a member of the group that returns batches of events.

:class:`EventConsumer` polls, and keeps track of which partitions it owns. :class:`StuckPartitions` keeps the
partitions that cannot be read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import orjson
import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumer.columnar.arrays import select_rows
from consumer.errors import Condition, FatalError, StartupError, Unavailable
from consumer.kafka.errors import (
    format_error,
    is_outage,
    kafka_error,
    missing_right,
    outage_reason,
    unwrap_callback_errors,
)
from consumer.kafka.reader import Record
from consumer.kafka.starting_offsets import ChooseStarts, StartingOffsets, start_at_committed
from consumer.pipeline.batch import Headers, RawBatch
from consumer.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

ConsumerFactory: TypeAlias = Callable[[dict[str, Any]], Consumer]
"""Creates a client from its configuration. Tests pass their own."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far the client has fetched a partition, from its statistics.

    Attributes:
        n_queued: The number of events that are fetched and not returned yet.
        next_offset: The next offset to fetch; negative if unknown. It is past transaction markers and the
            records of aborted transactions, which are never returned.
        end: The end of what can be fetched (the last stable offset); negative if unknown.
    """

    n_queued: int
    next_offset: int
    end: int

    def lag(self, n_in_hand: int) -> int | None:
        """Return how many events are not committed yet, ``None`` if unknown.

        A marker or an aborted record counts only until it is fetched.

        Args:
            n_in_hand: The number of events that are polled and not committed.
        """
        if self.next_offset < 0 or self.end < 0:
            return None
        return n_in_hand + self.n_queued + max(self.end - self.next_offset, 0)


_PROBE_TIMEOUT_S: Final = 1.0

_FENCED_CODES: Final = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL)
"""``_FATAL`` stands for any fatal error that arrives in place of a message; the client drops its mark."""

_FENCED_AGAIN_S: Final = 20.0
"""Two processes with one instance id fence each other again within this time: several session timeouts."""

_MAX_HOLD_S: Final = 0.2
"""How long a batch that is not full stays open for a commit in flight. A commit that takes longer has met
an outage."""

_AFTER_COMMIT_S: Final = 0.002
"""How long a batch stays open after that commit: the broker is still writing the transaction's markers,
and a transaction that begins meanwhile waits for them."""


class EventConsumer:
    """Reads the events topic as a member of the group.

    Args:
        config: The configuration of the client.
        topic: The events topic.
        readiness: Receives outages and stuck partitions.
        consumer_factory: Creates the client.
        on_rebalance: Called whenever partitions are assigned or revoked.
        before_start: Called after partitions were assigned, before their committed offsets are read.
        choose_starts: Chooses the starting offsets; by default the committed offset or the beginning.
        offset_metadata: The text that this member commits with its offsets.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        readiness: Readiness,
        *,
        consumer_factory: ConsumerFactory = Consumer,
        on_rebalance: Callable[[], None] = lambda: None,
        before_start: Callable[[], None] | None = None,
        choose_starts: ChooseStarts | None = None,
        offset_metadata: str = "",
    ) -> None:
        self.topic = topic
        self._readiness = readiness
        self._on_rebalance = on_rebalance
        self._before_start = before_start
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()
        """The partitions that were revoked since the last poll began, even if they were assigned again."""
        self._stuck = StuckPartitions(readiness, config)
        self._fenced_at_s = float("-inf")
        self._paused: set[int] = set()
        self._unstarted: set[int] = set()
        """Owned partitions whose starting offset is not known yet."""
        self._commit: Future[Any] | None = None
        """The commit in flight during a poll; ``None`` outside of :meth:`poll`."""
        self._joined = False
        incremental = (
            "cooperative" in config.get("partition.assignment.strategy", "")
            or config.get("group.protocol") == "consumer"
        )
        self._config = config
        self._missing_right = False
        """Whether the broker refuses this member the right to join the group."""
        self._was_member = False
        self.offset_metadata = offset_metadata
        self._starts = StartingOffsets(
            topic,
            incremental=incremental,
            choose=choose_starts or start_at_committed,
            metadata=offset_metadata,
        )
        self._progress: dict[int, FetchProgress] = {}
        self._polled: dict[int, int] = {}
        """The offset after the last event that :meth:`poll` returned, by partition. The client's own position
        is past the markers and aborted records behind it, too."""
        callbacks = {"error_cb": self._on_error, "stats_cb": self._on_statistics}
        self._connect = partial(consumer_factory, config | callbacks)
        self.client = self._connect()

    @property
    def group(self) -> str:
        """The consumer group."""
        return str(self._config.get("group.id"))

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that this member owns now."""
        return frozenset(self._assigned)

    @property
    def revoked_since_poll(self) -> frozenset[int]:
        """The partitions that were revoked since the last poll began, even if they were assigned again."""
        return frozenset(self._revoked)

    def open(self) -> None:
        """Join the group."""
        self._readiness.set(Condition.STARTING, "joining the consumer group")
        self.client.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(
        self, max_events: int, max_wait_s: float, idle_s: float, *, commit: Future[Any] | None = None
    ) -> RawBatch | None:
        """Return the next events, or ``None`` if there are none.

        Args:
            max_events: The largest number of events to return.
            max_wait_s: How long to wait for more events after the first one.
            idle_s: How long to wait for the first event.
            commit: The commit of the batch before, if it is in flight. A batch that is not full stays open
                until it ends, and so do partitions that are being revoked.

        Raises:
            FatalError: The broker does not accept this member any more.
            StartupError: The starting offset of a partition is unclear; a person has to choose.
        """
        self._resume()
        self._start_partitions()
        self._revoked.clear()
        with self._hold_revocation_until(commit):
            messages = self._consume(1, idle_s)
            if messages and max_events > 1:
                messages += self._consume(max_events - 1, max_wait_s)
                messages += self._consume_until_committed(max_events - len(messages), commit)
        if not self._joined and not self._unstarted and self.client.memberid():
            self._joined = self._was_member = True
            self._readiness.clear(Condition.STARTING)
        self._probe_after_outage(received=bool(messages))
        raw = self._batch(messages)
        if raw is not None:
            self._polled |= raw.next_offsets
        return raw

    def pause_and_poll(self, seconds: float) -> None:
        """Stay a member of the group for a while without taking events. The next poll takes events again."""
        if flowing := self._assigned - self._paused:
            self._paused |= flowing
            self.client.pause([TopicPartition(self.topic, p) for p in flowing])
        for message in self._without_errors(self._consume(1, seconds)):
            # The client had fetched this event before the pause: fetch it again later.
            position = TopicPartition(self.topic, message.partition(), message.offset())  # type: ignore[arg-type]
            self.client.seek(position)

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the group's committed offset of each partition, 0 if there is none.

        Raises:
            Unavailable: The broker did not answer.
        """
        return self._starts.committed(self.client, partitions)

    def lag(self, next_offsets: Mapping[int, int]) -> dict[int, int]:
        """Return how many events this member has to process in each of its partitions.

        Partitions whose offsets the client does not know yet are left out.

        Args:
            next_offsets: The offset to resume from after the last commit, by partition.
        """
        lag = {}
        for partition in sorted(self._assigned & self._progress.keys()):
            resume_offset = max(next_offsets.get(partition, 0), self._starts.start_of(partition))
            n_in_hand = max(self._polled.get(partition, 0) - resume_offset, 0)
            n_events = self._progress[partition].lag(n_in_hand)
            if n_events is not None:
                lag[partition] = n_events
        return lag

    def close(self) -> None:
        """Leave the group."""
        self.client.close()

    def _start_partitions(self) -> None:
        """Start owned partitions that could not be started when they were assigned.

        Raises:
            StartupError: The starting offset of a partition is unclear; a person has to choose.
        """
        if self._unstarted:
            try:
                self._starts.start(self.client, self._unstarted)
            except Unavailable as outage:
                self._readiness.set(outage.condition, str(outage))
            else:
                self._unstarted.clear()

    def _resume(self) -> None:
        if self._paused:
            self.client.resume([TopicPartition(self.topic, p) for p in self._paused])
            self._paused.clear()

    def _consume(self, n: int, timeout_s: float) -> list[Message]:
        try:
            return unwrap_callback_errors(self.client.consume, n, timeout_s)
        except KafkaException as exception:
            self._rejoin(kafka_error(exception))
            return []

    @contextlib.contextmanager
    def _hold_revocation_until(self, commit: Future[Any] | None) -> Iterator[None]:
        """Give up revoked partitions only after the commit in flight has ended, with or without success."""
        self._commit = commit
        try:
            yield
        finally:
            self._commit = None

    def _consume_until_committed(self, n: int, commit: Future[Any] | None) -> list[Message]:
        """Return up to n more events that arrive while the previous batch is being committed.

        This batch cannot be committed before that one, and an event left behind would wait for this batch's
        commit, too.
        """
        if not n or commit is None or commit.done():
            return []
        futures.wait([commit], _MAX_HOLD_S)
        return self._consume(n, _AFTER_COMMIT_S)

    def _batch(self, messages: list[Message]) -> RawBatch | None:
        """Drop errors, and events of revoked partitions."""
        events = self._without_errors(messages)
        if self._revoked:
            # A partition that was revoked and assigned again within one poll is read from its start again,
            # so its events in hand would be duplicates.
            started = self._assigned - self._unstarted
            restarted = self._starts.start_again(self.client, self._revoked & started, started)
            kept = self._assigned - self._revoked - restarted
            events = [message for message in events if message.partition() in kept]
        if not events:
            return None
        # The client's types allow for a message without coordinates; an event has them.
        partitions: list[int] = list(map(Message.partition, events))  # type: ignore[arg-type]
        offsets: list[int] = list(map(Message.offset, events))  # type: ignore[arg-type]
        self._stuck.clear_read(set(partitions), self._assigned)
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
        """Return the events, and handle the errors among them."""
        if not any(map(Message.error, messages)):
            return messages
        for message in messages:
            if (error := message.error()) is not None:
                self._on_message_error(message, error)
        return [message for message in messages if message.error() is None]

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        """Handle an error that arrived in place of a message."""
        if error.fatal() or error.code() in _FENCED_CODES:
            self._rejoin(error)
            return
        if self._stuck.add_if_stuck(message, error):
            return
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._on_missing_right(error)
            return
        if error.code() != KafkaError._MAX_POLL_EXCEEDED:  # The next poll joins the group again.
            log.warning("consumer error", where=format_coordinates(message), error=format_error(error))

    def _rejoin(self, error: KafkaError) -> None:
        """Join the group again after it has fenced this member.

        A broker that was restarted may fence a member in favour of its own earlier incarnation. Another
        process with the same instance id would fence us again within seconds; then one of them has to stop.

        Raises:
            FatalError: The group has fenced this member twice in a short time.
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

    def _on_missing_right(self, error: KafkaError) -> None:
        """Wait for the right if it was taken away while this member was in the group.

        Raises:
            StartupError: The member never had the right.
        """
        reason = missing_right(error, f"Read on group {self.group}", self._config)
        if not self._was_member:
            raise StartupError(str(reason))
        if not self._missing_right:
            log.error("the broker refuses the group", reason=reason)
        self._missing_right = True
        self._readiness.set(Condition.BROKER, str(reason))

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._readiness.set(Condition.BROKER, outage_reason(error, self._config))

    def _on_statistics(self, statistics: str) -> None:
        """Keep what librdkafka's statistics say about the partitions (its STATISTICS.md)."""
        topic = orjson.loads(statistics)["topics"].get(self.topic, {"partitions": {}})
        self._progress = {
            int(partition): FetchProgress(
                n_queued=found["fetchq_cnt"],
                next_offset=found["next_offset"],
                end=found["ls_offset"],
            )
            for partition, found in topic["partitions"].items()
        }

    def _probe_after_outage(self, *, received: bool) -> None:
        """Clear the outage once the broker is heard from again. If no events arrive, ask the broker."""
        if Condition.BROKER not in self._readiness.active():
            return
        try:
            if self._missing_right:  # Events may still arrive: reading needs no right on the group.
                self.client.committed([TopicPartition(self.topic, 0)], timeout=_PROBE_TIMEOUT_S)
            elif not received:
                self.client.list_topics(self.topic, timeout=_PROBE_TIMEOUT_S)
        except KafkaException:
            return
        self._missing_right = False
        self._readiness.clear(Condition.BROKER)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start each partition at its committed offset, or at its beginning if it has none."""
        assigned = {tp.partition for tp in partitions}
        self._assigned |= assigned
        # The statistics are older than the assignment.
        self._progress.clear()
        self._polled.clear()
        self._on_rebalance()
        log.info("partitions assigned", partitions=sorted(assigned))
        if self._before_start is not None:
            self._before_start()
        try:
            self._starts.start(consumer, assigned)
        except (StartupError, Unavailable) as error:
            # An exception must not pass through librdkafka. The next poll tries again, and raises it.
            log.warning("partitions not started yet", partitions=sorted(assigned), reason=str(error))
            self._starts.start_none(consumer)
            self._unstarted |= assigned

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Give partitions up, after the commit in flight has ended."""
        if self._commit is not None:
            futures.wait([self._commit])
        revoked = {tp.partition for tp in partitions}
        self._assigned -= revoked
        self._unstarted -= revoked
        if paused := self._paused & revoked:
            # librdkafka would keep the pause, and never fetch these partitions for us again.
            consumer.resume([TopicPartition(self.topic, p) for p in paused])
            self._paused -= revoked
        self._revoked |= revoked
        self._on_rebalance()
        log.info("partitions revoked", partitions=sorted(revoked))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Give partitions up that another member may own already."""
        self._on_revoke(consumer, partitions)


_DAMAGED_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
_ABSENT_CODES: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


class StuckPartitions:
    """The partitions that cannot be read until a person helps. While there are any, the role is not ready.

    Args:
        readiness: Receives the latest reason.
        client_config: The configuration of the consumer.
    """

    def __init__(self, readiness: Readiness, client_config: Mapping[str, Any]) -> None:
        self._readiness = readiness
        self._client_config = client_config
        self._partitions: set[int | None] = set()

    def add_if_stuck(self, message: Message, error: KafkaError) -> bool:
        """Add the partition of an error, and return whether the error means that the partition is stuck."""
        where = format_coordinates(message)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            if message.partition() in self._partitions:
                # After a damaged batch the client misreads some bytes as the next offset, and asks for it.
                return True
            reason = (
                f"{where}: the offset to resume from is not in the topic ({error.str()}); "
                "decide where to resume and reset the group's offset"
            )
        elif error.code() in _DAMAGED_CODES:
            reason = f"{where} cannot be read: {format_error(error)}"
        elif missing := missing_right(error, f"Read on topic {message.topic()}", self._client_config):
            if error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return False
            reason = missing
        elif error.code() in _ABSENT_CODES:
            reason = f"{where}: {format_error(error)}"
        else:
            return False
        self._partitions.add(message.partition())
        self._readiness.set(Condition.PARTITION, reason)
        return True

    def clear_read(self, read: AbstractSet[int | None], assigned: AbstractSet[int | None]) -> None:
        """Remove partitions that were read again, and partitions that the member no longer owns."""
        if self._partitions:
            self._partitions = (self._partitions - read) & assigned
            if not self._partitions:
                self._readiness.clear(Condition.PARTITION)


def format_coordinates(message: Message) -> str:
    """Return where a message, or an error in its place, comes from."""
    return f"{message.topic()}[{message.partition()}] at offset {message.offset()}"


def headers_of(message: Message | Record) -> Headers:
    """Return a record's headers. The client cannot return a header whose name is not UTF-8."""
    try:
        return list(message.headers() or ())  # type: ignore[arg-type]  # a list, of bytes
    except UnicodeDecodeError:
        return [("dlq.error.headers", b"unreadable")]


def headers_of_all(messages: Sequence[Message]) -> list[Headers]:
    """Return the headers of each record. Usually no record has any, which one quick pass finds out."""
    with contextlib.suppress(UnicodeDecodeError):
        if not any(map(Message.headers, messages)):
            return [[]] * len(messages)
    return list(map(headers_of, messages))
