"""Where the group's consumer reads on in partitions that become its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from consumer.errors import Unavailable
from consumer.kafka.policy import describe, error_of

log = structlog.get_logger(__name__)

_COMMITTED_TIMEOUT_S: Final = 10.0


class Positions:
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
            raise Unavailable(f"committed offsets unknown: {describe(error_of(exception))}") from exception
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
            log.warning("committed offsets unknown", error=describe(error_of(exception)))
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
