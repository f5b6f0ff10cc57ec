"""Start the partitions of a group member at their committed offsets, or where a policy chooses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from consumer.errors import Unavailable
from consumer.kafka.errors import format_error, kafka_error

log = structlog.get_logger(__name__)

_COMMITTED_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """An offset that the group has committed.

    Attributes:
        offset: The offset to resume from.
        metadata: The text that was committed with it.
    """

    offset: int
    metadata: str


ChooseStarts: TypeAlias = Callable[[Mapping[int, CommittedOffset | None]], Mapping[int, int]]
"""Returns where to start each partition. May raise ``StartupError`` or ``Unavailable``."""


def start_at_committed(committed: Mapping[int, CommittedOffset | None]) -> dict[int, int]:
    """Start each partition at its committed offset, or at its beginning if there is none."""
    return {p: OFFSET_BEGINNING if found is None else found.offset for p, found in committed.items()}


class StartingOffsets:
    """Starts the partitions of one member.

    Args:
        topic: The events topic.
        incremental: Whether the group's protocol adds and removes single partitions. Otherwise every
            assignment replaces all of them.
        choose: Chooses the starting offsets.
        metadata: The text to commit with a starting offset, unless the group has committed it so.
    """

    def __init__(
        self, topic: str, *, incremental: bool, choose: ChooseStarts = start_at_committed, metadata: str = ""
    ) -> None:
        self._topic = topic
        self._incremental = incremental
        self._choose = choose
        self._metadata = metadata
        self._starts: dict[int, int] = {}
        """Where each partition was started when it was last assigned."""

    def committed(self, consumer: Consumer, partitions: Collection[int]) -> dict[int, int]:
        """Return the group's committed offset of each partition, 0 if there is none.

        Raises:
            Unavailable: The broker did not answer.
        """
        found = self._committed(consumer, partitions)
        return {partition: 0 if at is None else at.offset for partition, at in found.items()}

    def start(self, consumer: Consumer, partitions: Collection[int]) -> None:
        """Read newly assigned partitions from their starting offsets.

        Raises:
            StartupError: The starting offset is unclear; a person has to choose.
            Unavailable: The broker did not answer.
        """
        for partition in partitions:
            self._starts.pop(partition, None)
        if not partitions:
            return
        committed = self._committed(consumer, partitions)
        starts = self._choose(committed)
        self._commit_starts(consumer, committed, starts)
        self._starts |= starts
        self._assign(consumer, starts)

    def start_of(self, partition: int) -> int:
        """Return where a partition was started, 0 if that is unknown."""
        return max(self._starts.get(partition, 0), 0)

    def start_none(self, consumer: Consumer) -> None:
        """Accept an assignment without reading its partitions yet."""
        self._assign(consumer, {})

    def start_again(
        self, consumer: Consumer, partitions: AbstractSet[int], started: AbstractSet[int]
    ) -> AbstractSet[int]:
        """Read partitions again from their starting offsets; none of their events was committed since.

        Args:
            consumer: The member that owns the partitions.
            partitions: Partitions of the latest assignment.
            started: All partitions that the member owns and reads.

        Returns:
            The partitions that are read again. Their events are delivered a second time.
        """
        if not partitions:
            return partitions
        if not self._incremental:
            partitions = started  # One assignment replaces all of them.
        starts = {partition: self._starts[partition] for partition in sorted(partitions)}
        if self._incremental:
            consumer.incremental_unassign([TopicPartition(self._topic, p) for p in starts])
        self._assign(consumer, starts)
        return partitions

    def _committed(
        self, consumer: Consumer, partitions: Collection[int]
    ) -> dict[int, CommittedOffset | None]:
        if not partitions:
            return {}
        requested = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        try:
            answer = consumer.committed(requested, timeout=_COMMITTED_TIMEOUT_S)
        except KafkaException as exception:
            reason = format_error(kafka_error(exception))
            raise Unavailable(f"committed offsets unknown: {reason}") from exception
        return {
            tp.partition: CommittedOffset(tp.offset, tp.metadata or "") if tp.offset >= 0 else None
            for tp in answer
        }

    def _commit_starts(
        self,
        consumer: Consumer,
        committed: Mapping[int, CommittedOffset | None],
        starts: Mapping[int, int],
    ) -> None:
        """Commit the starting offsets that the group does not have with our metadata.

        The decision is thus made only once, and even a partition without events has an offset.
        """
        offsets = [
            TopicPartition(self._topic, partition, start, self._metadata)
            for partition, start in starts.items()
            if self._metadata and committed[partition] != CommittedOffset(start, self._metadata)
        ]
        if offsets:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as exception:
                # The first batch commits an offset, too. Until then a restart decides again.
                log.info("starting offsets not committed", error=format_error(kafka_error(exception)))

    def _assign(self, consumer: Consumer, starts: Mapping[int, int]) -> None:
        offsets = [TopicPartition(self._topic, *start) for start in starts.items()]
        if self._incremental:
            consumer.incremental_assign(offsets)
        else:
            consumer.assign(offsets)
