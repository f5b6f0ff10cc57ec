"""Sends the events of dead letters in again, exactly once, also when it is interrupted and run again.

A batch of events and the new position of the replay are one Kafka transaction. What was committed is
never sent again, and what was not was seen by nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from consumer.errors import BatchAborted, CommitOutcomeUnknown, RecordRejectedByBroker, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.producer import Records, SourceOffsets, TransactionalProducer
from consumer.kafka.replay_offsets import ReplayOffsets
from consumer.ops.dlq.dead_letter import DeadLetterRecord
from consumer.ops.dlq.plan import Refused, Replayed, ReplayItem, ReplayPlan
from consumer.ops.dlq.topic import letters_between

if TYPE_CHECKING:
    from consumer.settings import Settings

BATCH_EVENTS: Final = 1000
"""Events of one transaction, at most."""

_TRIES: Final = 5
_CLIENT_LIMIT_BYTES: Final = 1_000_000
"""What librdkafka takes by default."""

_RECORD_ROOM_BYTES: Final = 1024
"""What the client reckons on top of a record when it holds it against its own limit."""


def group_of(settings: Settings) -> str:
    """Return the consumer group that remembers how far the replay is."""
    return f"{settings.kafka.group_id}-dlq-replay"


class Replay:
    """A replay of dead letters.

    Args:
        settings: where Kafka is and which topics.
        codes: to replay, of :data:`consumer.ops.dlq.dead_letter.CODES`; empty means all.
        limit: at most so many events.
        on_refused: see :data:`Refused`.
        batch_events: events of one transaction, at most.
        open_producer: makes the producer; tests pass one that dies at a chosen step.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        codes: Sequence[str] = (),
        limit: int | None = None,
        on_refused: Refused = lambda _letter, _why: None,
        batch_events: int = BATCH_EVENTS,
        open_producer: Callable[[dict[str, Any]], TransactionalProducer] = TransactionalProducer,
    ) -> None:
        self._kafka = settings.kafka
        self._client = client_config.common(settings.kafka)
        self._events, self._letters = settings.topics.events, settings.topics.dead_letters
        self._group_id = group_of(settings)
        self._batch_events = batch_events
        self._open_producer = open_producer
        self._admin = ClusterAdmin(self._client)
        events = self._admin.require_topics([self._events, self._letters])[self._events]
        self._event_max_bytes = events.max_message_bytes
        self._selection = ReplayPlan(self._events, codes, limit, on_refused, events.partitions)

    def dry_run(self) -> Iterator[ReplayItem]:
        """Yield what :meth:`run` would send now; nothing is sent, and nothing remembered.

        Raises:
            StartupError: the topic does not go as far as the replay has come.
            Unavailable: the broker is away.
        """
        ranges = self._admin.committed_ranges(self._letters)
        committed = self._admin.committed_offsets(self._group_id, self._letters, ranges)
        for letters in self._batches(self._selection.begin(self._letters, ranges, committed)):
            yield from self._selection.take(letters)

    @property
    def replayed(self) -> Replayed:
        """What became of the dead letters so far."""
        return self._selection.replayed

    def run(self) -> Replayed:
        """Send the events of all dead letters that are in the topic now and were not replayed before.

        Raises:
            StartupError: the topic does not go as far as the replay has come.
            Unavailable: the broker is away, or undid a transaction; run it again, it goes on.
            FatalError: another replay took over.
        """
        selection = self._selection
        own = {"transactional.id": self._group_id, "message.max.bytes": self._max_bytes}
        publisher = self._open_producer(client_config.transactional_producer(self._kafka) | own)
        group = ReplayOffsets(client_config.consumer(self._kafka), self._group_id, self._letters)
        with contextlib.closing(publisher), contextlib.closing(group):
            # In this order: offsets that an interrupted run left pending would not be seen otherwise.
            publisher.open()
            ranges = self._admin.committed_ranges(self._letters)
            todo = selection.begin(self._letters, ranges, group.join(list(ranges)))
            for letters in self._batches(todo):
                self._replay(publisher, group, letters)
            if selection.left != 0:  # behind the last letters there may be Kafka's own marks
                for partition, (_, end) in ranges.items():
                    selection.pass_(partition, end)
                self._publish(publisher, group, [])
        return selection.replayed

    @property
    def _max_bytes(self) -> int:
        return max(_CLIENT_LIMIT_BYTES, self._event_max_bytes + _RECORD_ROOM_BYTES)

    def _batches(self, ranges: Ranges) -> Iterator[Sequence[DeadLetterRecord]]:
        """Yield the dead letters in batches, until the limit is reached."""
        for letters in letters_between(self._client, self._letters, ranges):
            for begin in range(0, len(letters), self._batch_events):
                if self._selection.left == 0:
                    return
                yield letters[begin : begin + self._batch_events]

    def _replay(
        self, publisher: TransactionalProducer, group: ReplayOffsets, letters: Sequence[DeadLetterRecord]
    ) -> None:
        """Replay some dead letters; where the broker will not take an event, find it and say so."""
        selection, before = self._selection, self._selection.snapshot()
        due = selection.take(letters)
        try:
            self._publish(publisher, group, due)
        except RecordRejectedByBroker as refused:
            selection.restore(before)
            if len(letters) > 1:
                half = len(letters) // 2
                self._replay(publisher, group, letters[:half])
                self._replay(publisher, group, letters[half:])
                return
            selection.refuse(letters[0], f"the broker will not take it: {refused}")
            selection.pass_(letters[0].partition, letters[0].offset + 1)
            self._publish(publisher, group, [])

    def _publish(
        self, publisher: TransactionalProducer, group: ReplayOffsets, due: Sequence[ReplayItem]
    ) -> None:
        """Send events and remember the position, all or nothing.

        Raises:
            RecordRejectedByBroker: undone; the broker will not take one of them.
            Unavailable: undone, or unknown; a new run goes on where it really is.
        """
        events = [one.event for one in due]
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
                next_offsets = group.offsets(self._selection.committable())
                metadata = group.client.consumer_group_metadata()
                publisher.begin([records], SourceOffsets(group.client, next_offsets, metadata)).commit()
            except RecordRejectedByBroker:
                raise
            except CommitOutcomeUnknown as unknown:
                raise Unavailable(f"{unknown}; run it again: it goes on where it was") from unknown
            except BatchAborted as aborted:
                # What was undone for certain may be tried again; a broker that has refused a record
                # refuses the next transaction, too, as the sequence numbers skip.
                if not tries_left:
                    raise Unavailable(f"{aborted}; run it again: it goes on where it was") from aborted
            else:
                return
