"""Where new partitions are read from, and again when they were lost and came back at once."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from consumer.errors import Unavailable
from consumer.kafka.consumer import StartingOffsets


class Consumer:
    """Answers with committed offsets, and keeps what is assigned.

    Attributes:
        offsets: committed, by partition; ``None`` for a broker that does not answer.
        assigned: where each partition was started.
    """

    def __init__(self, **offsets: int) -> None:
        self.offsets: dict[int, int] | None = {int(name[1:]): offset for name, offset in offsets.items()}
        self.assigned: dict[int, int] = {}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the committed offsets."""
        assert timeout > 0
        if self.offsets is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(at.topic, at.partition, self.offsets[at.partition]) for at in partitions]

    def assign(self, offsets: list[TopicPartition]) -> None:
        """Replace the assignment."""
        self.assigned = {at.partition: at.offset for at in offsets}

    def incremental_assign(self, offsets: list[TopicPartition]) -> None:
        """Add to it."""
        assert not self.assigned.keys() & {at.partition for at in offsets}
        self.assigned |= {at.partition: at.offset for at in offsets}

    def incremental_unassign(self, offsets: list[TopicPartition]) -> None:
        """Take from it."""
        for at in offsets:
            del self.assigned[at.partition]


def started(consumer: Any, *, incremental: bool) -> StartingOffsets:
    """Start partitions 1 and 2."""
    positions = StartingOffsets("events", incremental=incremental)
    positions.start(consumer, [TopicPartition("events", 1), TopicPartition("events", 2)])
    return positions


@pytest.mark.parametrize("incremental", [False, True])
def test_a_partition_without_an_offset_starts_at_its_beginning(incremental: bool) -> None:  # noqa: FBT001
    """Any other where the group has come to."""
    consumer = Consumer(_1=7, _2=-1001)
    positions = started(consumer, incremental=incremental)
    assert consumer.assigned == {1: 7, 2: OFFSET_BEGINNING}
    assert positions.committed(consumer, {1, 2}) == {1: 7, 2: 0}  # type: ignore[arg-type]


def test_where_the_protocol_replaces_all_partitions_all_start_again() -> None:
    """To assign those alone that were lost and came back would take the others away."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=False)
    consumer.assigned = {}
    assert positions.start_again(consumer, {1}, {1, 2}) == {1, 2}
    assert consumer.assigned == {1: 7, 2: 9}


def test_where_the_protocol_is_incremental_the_others_go_on() -> None:
    """Partition 2 is not touched."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=True)
    consumer.assigned = {1: 100, 2: 200}
    assert positions.start_again(consumer, {1}, {1, 2}) == {1}
    assert consumer.assigned == {1: 7, 2: 200}


@pytest.mark.parametrize("incremental", [False, True])
def test_nothing_lost_nothing_started_again(incremental: bool) -> None:  # noqa: FBT001
    """The usual case costs nothing."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=incremental)
    consumer.assigned = {1: 100, 2: 200}
    assert positions.start_again(consumer, set(), {1, 2}) == set()
    assert consumer.assigned == {1: 100, 2: 200}


def test_an_earlier_beginning_is_never_gone_back_to() -> None:
    """If the broker was silent when a partition came back, it is asked again, and must answer."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=False)
    consumer.offsets = None
    positions.start(consumer, [TopicPartition("events", 1), TopicPartition("events", 2)])
    with pytest.raises(Unavailable):
        positions.start_again(consumer, {1}, {1, 2})
    consumer.offsets = {1: 50, 2: 60}
    positions.start_again(consumer, {1}, {1, 2})
    assert consumer.assigned == {1: 50, 2: 60}
