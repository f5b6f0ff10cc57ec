"""Send the events of dead letters again, exactly once, even if a run is killed and repeated.

Each transaction contains a batch of events and the replay's new position. An aborted transaction changes
neither.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from consumer.errors import BatchAborted, CommitOutcomeUnknown, RecordRejectedByBroker, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.producer import Records, SourceOffsets, TransactionalProducer
from consumer.kafka.reader import TopicReader
from consumer.kafka.replay_offsets import ReplayOffsets
from consumer.ops.dlq.dead_letter import DeadLetterRecord, NotReplayable, OriginalEvent, original_event
from consumer.ops.dlq.plan import (
    OnRefused,
    Preview,
    Replayed,
    ReplayItem,
    ReplayPlan,
    accept_all,
)
from consumer.ops.dlq.topic import read_dead_letters
from consumer.settings import Settings

BATCH_EVENTS: Final = 1000
"""The largest number of events in a transaction."""

_TRIES: Final = 5
_CLIENT_LIMIT_BYTES: Final = 1_000_000
"""librdkafka's default limit of a record."""

_RECORD_OVERHEAD_BYTES: Final = 1024
"""The overhead that the client adds to a record's size before it checks the limit."""

_POLL_S: Final = 0.1


def group_of(settings: Settings) -> str:
    """Return the consumer group whose offsets hold the replay's position."""
    return f"{settings.kafka.group_id}-dlq-replay"


class Replay:
    """A replay of dead letters.

    Args:
        settings: The Kafka cluster and the topics.
        codes: The codes to replay, of :data:`consumer.ops.dlq.dead_letter.CODES`; empty means all.
        limit: The largest number of events to send.
        selected: The ranges of the dead-letter topic to replay; by default all.
        restore: Returns the event to send for a dead letter; by default the original event.
        preview: Returns which events would be rejected again; those are not sent, and stay due.
        is_stale: Returns whether an event is superseded; such events are skipped.
        rate: The largest number of events per second; by default unlimited.
        on_refused: Called with each dead letter that cannot be replayed, and the reason.
        keep_refused: Whether such dead letters stay due. Otherwise they count as handled.
        batch_events: The largest number of events in a transaction.
        open_producer: Creates the producer; tests pass one that dies at a chosen step.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        codes: Sequence[str] = (),
        limit: int | None = None,
        selected: Ranges | None = None,
        restore: Callable[[DeadLetterRecord], OriginalEvent] | None = None,
        preview: Preview = accept_all,
        is_stale: Callable[[ReplayItem], bool] = lambda _: False,
        rate: float | None = None,
        on_refused: OnRefused = lambda _, __: None,
        keep_refused: bool = False,
        batch_events: int = BATCH_EVENTS,
        open_producer: Callable[[dict[str, Any]], TransactionalProducer] = TransactionalProducer,
    ) -> None:
        self._kafka = settings.kafka
        self._client = client_config.common(settings.kafka)
        self._events, self._dead_letters = settings.topics.events, settings.topics.dead_letters
        self._group_id = group_of(settings)
        self._selected = selected
        self._restore = restore or (lambda dead_letter: original_event(dead_letter, self._events))
        self._rate = rate
        self._batch_events = batch_events if rate is None else max(1, min(batch_events, int(rate)))
        self._open_producer = open_producer
        self._admin = ClusterAdmin(self._client)
        events = self._admin.require_topics([self._events, self._dead_letters])[self._events]
        self._event_max_bytes = self._admin.max_message_bytes(self._events)
        self._event_partitions = events.partitions
        self._plan = ReplayPlan(
            codes=codes,
            limit=limit,
            restore=self._restore_event,
            preview=preview,
            is_stale=is_stale,
            on_refused=on_refused,
            keep_refused=keep_refused,
        )

    @property
    def replayed(self) -> Replayed:
        """The counts so far."""
        return self._plan.replayed

    def dry_run(self) -> Iterator[ReplayItem]:
        """Yield the items that :meth:`run` would send now, without sending or committing anything.

        Raises:
            StartupError: The position is beyond the end of the topic.
            Unavailable: The broker is down.
        """
        ranges = self._admin.committed_ranges(self._dead_letters)
        committed = self._admin.committed_offsets(self._group_id, self._dead_letters, ranges)
        to_read = self._plan.resume_from(self._dead_letters, ranges, committed, self._selected)
        for dead_letters in self._batches(to_read):
            yield from self._plan.advance(dead_letters)

    def run(self) -> Replayed:
        """Send the events of all selected dead letters that were not handled before.

        Raises:
            StartupError: The position is beyond the end of the topic.
            BadInputError: The position is too long to commit.
            Unavailable: The broker is down or aborted a transaction; another run continues.
            FatalError: Another replay took over.
        """
        plan = self._plan
        own = {"transactional.id": self._group_id, "message.max.bytes": self._max_bytes}
        producer = self._open_producer(client_config.transactional_producer(self._kafka) | own)
        group = ReplayOffsets(client_config.consumer(self._kafka), self._group_id, self._dead_letters)
        with contextlib.closing(producer), contextlib.closing(group):
            # Fence first: a killed run's pending offsets are invisible until its transaction is aborted.
            producer.open()
            ranges = self._admin.committed_ranges(self._dead_letters)
            committed = group.join(list(ranges))
            to_read = plan.resume_from(self._dead_letters, ranges, committed, self._selected)
            started_s = time.monotonic()
            for dead_letters in self._batches(to_read):
                self._replay(producer, group, dead_letters)
                self._pace(group, started_s)
            if plan.left != 0:  # pass the transaction markers after the last dead letter
                for partition, (_, stop) in to_read.items():
                    plan.mark_read(partition, stop)
                self._publish(producer, group, [])
        return plan.replayed

    def _restore_event(self, dead_letter: DeadLetterRecord) -> OriginalEvent:
        event = self._restore(dead_letter)
        if event.partition >= self._event_partitions:
            raise NotReplayable(f"{self._events} has no partition {event.partition} any more")
        return event

    @property
    def _max_bytes(self) -> int:
        return max(_CLIENT_LIMIT_BYTES, self._event_max_bytes + _RECORD_OVERHEAD_BYTES)

    def _batches(self, ranges: Ranges) -> Iterator[Sequence[DeadLetterRecord]]:
        """Yield the dead letters in batches, until the limit is reached."""
        for dead_letters in read_dead_letters(self._client, self._dead_letters, ranges):
            for start in range(0, len(dead_letters), self._batch_events):
                if self._plan.left == 0:
                    return
                yield dead_letters[start : start + self._batch_events]

    def _pace(self, group: ReplayOffsets, started_s: float) -> None:
        """Wait until the rate allows another batch."""
        if self._rate is None:
            return
        until_s = started_s + self._plan.replayed.sent.total() / self._rate
        while time.monotonic() < until_s:
            group.stay()
            time.sleep(min(_POLL_S, max(until_s - time.monotonic(), 0)))

    def _replay(
        self, producer: TransactionalProducer, group: ReplayOffsets, dead_letters: Sequence[DeadLetterRecord]
    ) -> None:
        """Replay a batch. Halve it if the broker rejects an event, until that event is alone and refused."""
        plan, pending = self._plan, [dead_letters]
        while pending:
            batch, before = pending.pop(), plan.save()
            try:
                self._publish(producer, group, plan.advance(batch))
            except RecordRejectedByBroker as rejected:
                plan.restore_state(before)
                if len(batch) > 1:
                    half = len(batch) // 2
                    pending += [batch[half:], batch[:half]]
                    continue
                plan.refuse(batch[0], f"the broker will not take it: {rejected}")
                plan.mark_read(batch[0].partition, batch[0].offset + 1)
                self._publish(producer, group, [])

    def _publish(
        self, producer: TransactionalProducer, group: ReplayOffsets, items: Sequence[ReplayItem]
    ) -> None:
        """Send events and commit the position in one transaction.

        Raises:
            RecordRejectedByBroker: Aborted, because the broker rejects one of the events.
            BadInputError: The position is too long to commit.
            Unavailable: Aborted, or the outcome is unknown; another run resumes from the committed position.
        """
        events = [item.event for item in items]
        records = Records(
            topic=self._events,
            partitions=[event.partition for event in events],
            keys=[event.key for event in events],
            values=[event.value for event in events],
            headers=[event.headers for event in events],
        )
        for tries_left in reversed(range(_TRIES)):
            group.stay()
            try:
                next_offsets = group.offsets(self._plan.committable())
                metadata = group.client.consumer_group_metadata()
                offsets = SourceOffsets(group.client, self._group_id, next_offsets, metadata)
                producer.begin([records], offsets).commit()
            except RecordRejectedByBroker:
                raise
            except CommitOutcomeUnknown as unknown:
                raise Unavailable(f"{unknown}; run it again: it resumes where it stopped") from unknown
            except BatchAborted as aborted:
                # Only a certain abort may be retried.
                if not tries_left:
                    raise Unavailable(f"{aborted}; run it again: it resumes where it stopped") from aborted
            else:
                return


class NewestEvents:
    """Knows the offset of every student's newest event, and so which events are superseded.

    Args:
        settings: The Kafka cluster and the events topic.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker is down.
    """

    def __init__(self, settings: Settings) -> None:
        client, topic = client_config.common(settings.kafka), settings.topics.events
        self._newest: dict[tuple[int, bytes], int] = {}
        with contextlib.closing(TopicReader(client, topic)) as reader:
            for records in reader.read_ranges(ClusterAdmin(client).committed_ranges(topic)):
                for record in records:
                    key = record.key()
                    if key is not None:
                        self._newest[record.partition(), key] = record.offset()

    def supersede(self, item: ReplayItem) -> bool:
        """Return whether the student of an event has sent a newer one since."""
        event, body = item.event, item.dead_letter.body
        if event.key is None or body is None:
            return False
        return self._newest.get((event.partition, event.key), -1) > int(body["source"]["offset"])
