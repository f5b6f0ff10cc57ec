"""Where partitions are read from, also after they were revoked and assigned again within one poll."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from consumer.errors import Unavailable
from consumer.kafka.starting_offsets import StartingOffsets


class Consumer:
    """A client that answers with committed offsets and records the assignment.

    Attributes:
        offsets: The committed offsets by partition; ``None`` if the broker does not answer.
        assigned: Where each partition was started.
    """

    def __init__(self, **offsets: int) -> None:
        self.offsets: dict[int, int] | None = {int(name[1:]): offset for name, offset in offsets.items()}
        self.metadata: dict[int, str] = {}
        self.assigned: dict[int, int] = {}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the committed offsets."""
        assert timeout > 0
        if self.offsets is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [
            TopicPartition(
                at.topic, at.partition, self.offsets[at.partition], self.metadata.get(at.partition, "")
            )
            for at in partitions
        ]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:  # noqa: FBT001 - the client's
        """Commit offsets."""
        assert self.offsets is not None
        assert not asynchronous
        self.offsets |= {at.partition: at.offset for at in offsets}
        self.metadata |= {at.partition: at.metadata or "" for at in offsets}

    def assign(self, offsets: list[TopicPartition]) -> None:
        """Replace the assignment."""
        self.assigned = {at.partition: at.offset for at in offsets}

    def incremental_assign(self, offsets: list[TopicPartition]) -> None:
        """Add partitions."""
        assert not self.assigned.keys() & {at.partition for at in offsets}
        self.assigned |= {at.partition: at.offset for at in offsets}

    def incremental_unassign(self, offsets: list[TopicPartition]) -> None:
        """Remove partitions."""
        for at in offsets:
            del self.assigned[at.partition]


def started(consumer: Any, *, incremental: bool) -> StartingOffsets:
    """Start partitions 1 and 2."""
    positions = StartingOffsets("events", incremental=incremental)
    positions.start(consumer, {1, 2})
    return positions


@pytest.mark.parametrize("incremental", [False, True])
def test_a_partition_without_an_offset_starts_at_its_beginning(incremental: bool) -> None:  # noqa: FBT001
    """Any other partition starts at its committed offset."""
    consumer = Consumer(_1=7, _2=-1001)
    positions = started(consumer, incremental=incremental)
    assert consumer.assigned == {1: 7, 2: OFFSET_BEGINNING}
    assert positions.committed(consumer, {1, 2}) == {1: 7, 2: 0}  # type: ignore[arg-type]


def test_where_the_protocol_replaces_all_partitions_all_start_again() -> None:
    """To assign only the partitions that came back would remove the others."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=False)
    consumer.assigned = {}
    assert positions.start_again(consumer, {1}, {1, 2}) == {1, 2}
    assert consumer.assigned == {1: 7, 2: 9}


def test_where_the_protocol_is_incremental_the_others_continue() -> None:
    """Partition 2 keeps its position."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=True)
    consumer.assigned = {1: 100, 2: 200}
    assert positions.start_again(consumer, {1}, {1, 2}) == {1}
    assert consumer.assigned == {1: 7, 2: 200}


@pytest.mark.parametrize("incremental", [False, True])
def test_without_a_revoked_partition_nothing_starts_again(incremental: bool) -> None:  # noqa: FBT001
    """The usual case costs nothing."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=incremental)
    consumer.assigned = {1: 100, 2: 200}
    assert positions.start_again(consumer, set(), {1, 2}) == set()
    assert consumer.assigned == {1: 100, 2: 200}


@pytest.mark.parametrize("incremental", [False, True])
def test_without_an_answer_nothing_is_read(incremental: bool) -> None:  # noqa: FBT001
    """The start of an earlier assignment is not used again; the broker is asked until it answers."""
    consumer: Any = Consumer(_1=7, _2=9)
    positions = started(consumer, incremental=incremental)
    consumer.offsets, consumer.assigned = None, {}
    with pytest.raises(Unavailable):
        positions.start(consumer, {1, 2})
    positions.start_none(consumer)
    assert consumer.assigned == {}
    consumer.offsets = {1: 50, 2: 60}
    positions.start(consumer, {1, 2})
    assert consumer.assigned == {1: 50, 2: 60}


def test_a_chosen_start_is_committed_with_our_metadata_once() -> None:
    """An offset that has our metadata already is left alone."""
    consumer: Any = Consumer(_1=7, _2=-1001, _3=4)
    consumer.metadata = {1: "ours", 3: "another program's"}
    positions = StartingOffsets(
        "events", incremental=False, choose=lambda _: {1: 7, 2: 3, 3: 4}, metadata="ours"
    )
    positions.start(consumer, {1, 2, 3})
    assert consumer.offsets == {1: 7, 2: 3, 3: 4}
    assert set(consumer.metadata.values()) == {"ours"}
    assert consumer.assigned == {1: 7, 2: 3, 3: 4}


def test_a_start_that_cannot_be_committed_is_read_all_the_same() -> None:
    """The first batch commits an offset, too."""

    class Refusing(Consumer):
        def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:  # noqa: ARG002, FBT001
            raise KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))

    consumer: Any = Refusing(_1=-1001)
    StartingOffsets("events", incremental=False, choose=lambda _: {1: 3}, metadata="ours").start(
        consumer, {1}
    )
    assert consumer.assigned == {1: 3}
