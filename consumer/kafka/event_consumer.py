"""The group's consumer: batches of events, and which partitions are ours while they last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumer.conditions import Conditions, Name
from consumer.core.batch import RawBatch, of_rows
from consumer.errors import FatalError
from consumer.kafka.policy import describe, error_of, is_outage, served
from consumer.kafka.positions import Positions
from consumer.kafka.record_headers import headers_of_all
from consumer.kafka.unreadable import Unreadable, place_of

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
        conditions: Conditions,
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
        self._unreadable = Unreadable(conditions)
        self._fenced_at_s = float("-inf")
        self._paused: set[int] = set()
        self._commit_under_way: Future[float] | None = None
        self._joined = False
        incremental = (
            "cooperative" in config["partition.assignment.strategy"]
            or config.get("group.protocol") == "consumer"
        )
        self._positions = Positions(topic, incremental=incremental)
        self._connect = partial(consumer_factory, config | {"error_cb": self._on_error})
        self.client = self._connect()

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that are ours now."""
        return frozenset(self._assigned)

    def open(self) -> None:
        """Join the group."""
        self._conditions.set(Name.STARTING, "joining the consumer group")
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
            self._conditions.clear(Name.STARTING)
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
            return served(self.client.consume, n, timeout_s)
        except KafkaException as exception:
            self._rejoin(error_of(exception))
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
            timestamps_ms=lambda rows: [ms for _, ms in map(Message.timestamp, of_rows(events, rows))],
            headers=lambda rows: headers_of_all(of_rows(events, rows)),
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
            log.warning("consumer error", where=place_of(message), error=describe(error))

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
                f"the group has fenced us ({describe(error)}); "
                "does another process run with our instance id? Give each its own kafka.instance_id"
            )
        self._fenced_at_s = now_s
        log.warning("fenced by the group, joining it again", error=describe(error))
        self._paused.clear()
        self._on_revoke(self.client, [TopicPartition(self.topic, p) for p in self._assigned])
        self.client.close()
        self.client = self._connect()
        self._joined = False
        self.open()

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._conditions.set(Name.BROKER, describe(error))

    def _probe_after_outage(self, *, heard: bool) -> None:
        """End the outage once the broker is heard again; where no events flow, ask it."""
        if Name.BROKER not in self._conditions.active():
            return
        if not heard:
            try:
                self.client.list_topics(self.topic, timeout=_PROBE_TIMEOUT_S)
            except KafkaException:
                return
        self._conditions.clear(Name.BROKER)

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
