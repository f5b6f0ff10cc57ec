"""Consumer and producer as one: a batch is published and committed together, or not at all.

:meth:`Session.begin` takes the records of a batch together with its next offsets, so that no caller can
publish records without advancing, or advance without publishing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from consumer.kafka.consumer import EventConsumer
from consumer.kafka.producer import OpenTransaction, Records, SourceOffsets
from consumer.pipeline.batch import RawBatch


class Publisher(Protocol):
    """Publishes records and commits offsets: ``TransactionalProducer`` or ``AtLeastOnceProducer``."""

    def open(self) -> None:
        """Get ready to publish."""

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Produce records."""

    def close(self) -> None:
        """Release the client."""


class Session:
    """The scorer's connection to Kafka.

    Args:
        consumer: The group's consumer.
        publisher: Publishes exactly once or at least once.
    """

    def __init__(self, consumer: EventConsumer, publisher: Publisher) -> None:
        self._consumer = consumer
        self._publisher = publisher

    def open(self) -> None:
        """Fence the earlier run of this instance, then join the group.

        The order matters: the open transaction of the earlier run would hide its committed offsets.

        Raises:
            Unavailable: The broker did not answer; call again.
            FatalError: The broker refuses this instance.
        """
        self._publisher.open()
        self._consumer.open()

    def poll(
        self, max_events: int, max_wait_s: float, idle_s: float, *, commit: Future[Any] | None = None
    ) -> RawBatch | None:
        """Return the next events; see :meth:`EventConsumer.poll`."""
        return self._consumer.poll(max_events, max_wait_s, idle_s, commit=commit)

    def begin(self, records: Sequence[Records], next_offsets: Mapping[int, int]) -> OpenTransaction:
        """Produce the records of a batch, to be committed together with its offsets.

        Args:
            records: The predictions and dead letters of the batch.
            next_offsets: The offset to resume from, for each partition of the batch.

        Raises:
            BatchAborted: No reader will see any of the records.
            RecordRejectedByBroker: The same, because of one of the records.
            CommitOutcomeUnknown: The producer was lost.
            Unavailable: The broker is away.
            FatalError: This process must stop.
        """
        client, topic = self._consumer.client, self._consumer.topic
        offsets = SourceOffsets(
            consumer=client,
            next_offsets=[
                TopicPartition(topic, partition, offset, self._consumer.offset_metadata)
                for partition, offset in next_offsets.items()
            ],
            group_metadata=client.consumer_group_metadata(),
        )
        return self._publisher.begin(records, offsets)

    def uncommitted_rows(self, raw: RawBatch, *, commit_outcome_unknown: bool) -> RawBatch:
        """Return the rows that still have to be committed of a batch whose commit failed.

        Rows of partitions that were revoked since the last poll belong to another member.

        Args:
            raw: The batch.
            commit_outcome_unknown: Whether the batch may have been committed. If so, the group's committed
                offsets tell.

        Raises:
            Unavailable: The committed offsets cannot be read at the moment.
        """
        revoked = self._consumer.revoked_since_poll
        committed: Mapping[int, int] = {}
        if commit_outcome_unknown:
            committed = self._consumer.committed(set(raw.partitions) - revoked)
        return raw.select_rows(
            [
                row
                for row, (partition, offset) in enumerate(zip(raw.partitions, raw.offsets, strict=True))
                if partition not in revoked and offset >= committed.get(partition, 0)
            ]
        )

    def pause_and_poll(self, seconds: float) -> None:
        """Stay a member of the group without taking events, while a batch waits."""
        self._consumer.pause_and_poll(seconds)

    def reconnect(self) -> None:
        """Get ready to publish again after a failure.

        Raises:
            Unavailable: The broker is still away.
            FatalError: The broker refuses this instance.
        """
        self._publisher.open()

    def lag(self, next_offsets: Mapping[int, int]) -> dict[tuple[str, int], int]:
        """Return how many events wait in each owned partition (topic, number).

        Args:
            next_offsets: The offset to resume from, by partition.
        """
        lag = self._consumer.lag(next_offsets)
        return {(self._consumer.topic, partition): n for partition, n in lag.items()}

    def close(self) -> None:
        """Leave the group and release both clients."""
        self._publisher.close()
        self._consumer.close()
