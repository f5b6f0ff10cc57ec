"""Whose transactions are ended: of those who were in the group and are no more, never our own."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.kafka.departed import DepartedMembers
from consumer.settings import KafkaSettings

_DOWN = KafkaException(KafkaError(KafkaError._TIMED_OUT))


class World:
    """A group whose members come and go."""

    def __init__(self) -> None:
        self.present: set[str] | None = set()
        self.fenced: list[str] = []
        self.refuses = False
        kafka = KafkaSettings(group_id="g", instance_id="a")
        self.departed = DepartedMembers(kafka, present=self._ask, fence=self._fence)

    def _ask(self) -> set[str]:
        if self.present is None:
            raise _DOWN
        return self.present

    def _fence(self, transactional_id: str) -> None:
        if self.refuses:
            raise _DOWN
        self.fenced.append(transactional_id)

    def rebalance(self, *present: str) -> list[str]:
        """Let there be other members; return whose transactions have been ended for it."""
        self.present, self.fenced = set(present), []
        self.departed.end_transactions()
        return self.fenced


@pytest.fixture
def world() -> World:
    """Make an empty one."""
    return World()


def test_who_was_there_and_is_gone_has_nothing_left_open(world: World) -> None:
    """Once, and only those; who comes back is a member like any other."""
    assert world.rebalance("g-a", "g-b", "g-c") == []
    assert world.rebalance("g-a", "g-c") == ["g-b"]
    assert world.rebalance("g-a", "g-c") == []
    assert world.rebalance("g-a", "g-b") == ["g-c"]
    assert world.rebalance("g-a") == ["g-b"]


def test_our_own_transaction_is_never_ended(world: World) -> None:
    """Also when the group knows us no more."""
    world.rebalance("g-a", "g-b")
    assert world.rebalance() == ["g-b"]


def test_without_an_answer_the_next_rebalance_tries_again(world: World) -> None:
    """Nobody is taken for gone because the broker was; who could not be fenced is not forgotten."""
    world.rebalance("g-a", "g-b", "g-c")
    world.present = None
    world.departed.end_transactions()
    world.refuses = True
    assert world.rebalance("g-a", "g-c") == []
    world.refuses = False
    assert world.rebalance("g-a", "g-c") == ["g-b"]
