"""Consumer and producer as one: a batch is published and committed together, or not at all.

``stage`` takes a batch with its predictions and dead letters and returns what commits them together
with the batch's offsets, so that publishing without advancing cannot be said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from confluent_kafka import Consumer, TopicPartition

from consumer.columnar.arrays import select_rows
from consumer.errors import Condition, Unavailable
from consumer.kafka.consumer import EventConsumer
from consumer.kafka.producer import Records
from consumer.pipeline.batch import RawBatch
from consumer.runtime.readiness import Readiness
from consumer.scorer.processing import ProcessedBatch


class Publisher(Protocol):
    """Publishes records and commits offsets: ``Transaction`` or ``AtLeastOnce``."""

    in_doubt: bool

    def open(self) -> None:
        """Get ready to publish."""

    def stage(self, outgoing: Sequence[Records]) -> None:
        """Begin, and produce the records."""

    def seal(self, next_offsets: Sequence[TopicPartition], consumer: Consumer, metadata: object) -> None:
        """Flush, and commit them with their offsets."""

    def close(self) -> None:
        """Let go."""


class Session:
    """The scorer's side of Kafka.

    Args:
        consumer: the group's consumer.
        publisher: exactly once or at least once.
        predictions_topic: where predictions go.
        dead_letters_topic: where dead letters go.
        partition_counts: of both.
        conditions: where an outage is noted.
    """

    def __init__(
        self,
        consumer: EventConsumer,
        publisher: Publisher,
        *,
        predictions_topic: str,
        dead_letters_topic: str,
        partition_counts: Mapping[str, int],
        conditions: Readiness,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._predictions_topic = predictions_topic
        self._dead_letters_topic = dead_letters_topic
        self._partition_counts = partition_counts
        self._conditions = conditions
        self._next_offsets: dict[int, int] = {}

    def open(self) -> None:
        """Fence an earlier run of this instance, then join the group.

        In this order: the earlier run's open transaction would hold back its committed offsets.

        Raises:
            Unavailable: the broker did not answer; call again.
            FatalError: the broker refuses us.
        """
        self._publisher.open()
        self._consumer.open()

    def poll(self, max_events: int, max_wait_s: float, idle_s: float) -> RawBatch | None:
        """Return the next events; see :meth:`EventConsumer.poll`."""
        self._consumer.resume()
        return self._consumer.poll(max_events, max_wait_s, idle_s)

    def stage(self, decision: ProcessedBatch) -> Callable[[], None]:
        """Produce what is to be published for a batch.

        Records keep the key of their event and go to the partition that the event's own maps to, so
        that the order per key holds.

        Returns:
            What commits it together with the batch's offsets, all or nothing. It may be called from
            another thread, and nothing but :meth:`poll` may be called meanwhile. It raises as this does.

        Raises:
            BatchAborted: undone, or unknown; go on with :meth:`remaining`.
            RecordRejectedByBroker: undone; the broker will not take one of the records.
            Unavailable: the broker is away; go on with :meth:`remaining` when it is back.
            FatalError: this process must stop.
        """
        raw, rows, letters = decision.raw, decision.rows, decision.letters
        n_predictions = self._partition_counts[self._predictions_topic]
        n_letters = self._partition_counts[self._dead_letters_topic]
        outgoing = [
            Records(
                topic=self._predictions_topic,
                partitions=_modulo(select_rows(raw.partitions, rows), n_predictions),
                keys=select_rows(raw.keys, rows),
                values=decision.predictions,
            ),
            Records(
                topic=self._dead_letters_topic,
                partitions=_modulo(select_rows(raw.partitions, letters.rows), n_letters),
                keys=letters.keys,
                values=letters.values,
                headers=letters.headers,
            ),
        ]
        self._publisher.stage(outgoing)
        consumer = self._consumer.client
        next_offsets = [TopicPartition(raw.topic, *at) for at in raw.next_offsets().items()]
        # Taken now: after the next poll it might be that of a generation in which these are not ours.
        metadata = consumer.consumer_group_metadata()
        return lambda: self._publisher.seal(next_offsets, consumer, metadata)

    def await_before_handover(self, done: Future[float]) -> None:
        """Let partitions be handed over only when a commit under way has ended, either way."""
        self._consumer.await_before_handover(done)

    def committed(self, decision: ProcessedBatch) -> None:
        """Take note that a batch is committed."""
        self._next_offsets |= decision.raw.next_offsets()

    def remaining(self, raw: RawBatch) -> RawBatch:
        """Return what is still to do of a batch that was not committed.

        Rows of partitions that were taken from us are left to their new owner. If it is unknown
        whether the last transaction was committed, the committed offsets tell.

        Raises:
            Unavailable: they cannot be read at the moment.
        """
        lost = self._consumer.lost_since_poll()
        committed: Mapping[int, int] = {}
        if self._publisher.in_doubt:
            committed = self._consumer.committed(sorted(set(raw.partitions) - lost))
            self._publisher.in_doubt = False
        return raw.select_rows(
            [
                row
                for row, (partition, offset) in enumerate(zip(raw.partitions, raw.offsets, strict=True))
                if partition not in lost and offset >= committed.get(partition, 0)
            ]
        )

    def stay(self, seconds: float) -> None:
        """Stay in the group without taking events, while a batch waits."""
        self._consumer.idle(seconds)

    def recover(self) -> None:
        """Get ready to publish again after an outage.

        Raises:
            Unavailable: it goes on.
        """
        try:
            self._publisher.open()
        except Unavailable as outage:
            self._conditions.set(Condition.BROKER, str(outage))
            raise

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many events each of our partitions, (topic, partition), is behind."""
        lag = self._consumer.lag(self._next_offsets)
        return {(self._consumer.topic, partition): n for partition, n in lag.items()}

    def close(self) -> None:
        """Leave the group and let go of everything."""
        self._publisher.close()
        self._consumer.close()


def _modulo(partitions: Sequence[int], count: int) -> Sequence[int]:
    """Return each partition modulo a topic's number of partitions."""
    return partitions if max(partitions, default=0) < count else [part % count for part in partitions]
