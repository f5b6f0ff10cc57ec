"""Whose transactions are aborted: those of members that have left the group, never our own."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.kafka.session import ZombieFencer
from consumer.settings import KafkaSettings

_DOWN = KafkaException(KafkaError(KafkaError._TIMED_OUT))


class World:
    """A group whose members come and go."""

    def __init__(self) -> None:
        self.present: set[str] | None = set()
        self.fenced: list[str] = []
        self.refuses = False
        kafka = KafkaSettings(group_id="g", instance_id="a")
        self.fencer = ZombieFencer(kafka, list_members=self._list_members, fence=self._fence)

    def _list_members(self) -> Future[set[str]]:
        answer: Future[set[str]] = Future()
        if self.present is None:
            answer.set_exception(_DOWN)
        else:
            answer.set_result(self.present)
        return answer

    def _fence(self, transactional_id: str) -> None:
        if self.refuses:
            raise _DOWN
        self.fenced.append(transactional_id)

    def rebalance(self, *present: str) -> list[str]:
        """Change the members; return whose transactions were aborted because of it."""
        self.present, self.fenced = set(present), []
        self.fencer.abort_transactions()
        return self.fenced


@pytest.fixture
def world() -> World:
    """Return a group without members."""
    return World()


def test_the_transactions_of_departed_members_are_aborted(world: World) -> None:
    """Once each. A member that comes back is a member like any other."""
    assert world.rebalance("g-a", "g-b", "g-c") == []
    assert world.rebalance("g-a", "g-c") == ["g-b"]
    assert world.rebalance("g-a", "g-c") == []
    assert world.rebalance("g-a", "g-b") == ["g-c"]
    assert world.rebalance("g-a") == ["g-b"]


def test_our_own_transaction_is_never_aborted(world: World) -> None:
    """Although this instance is in the list of members."""
    world.rebalance("g-a", "g-b")
    assert world.rebalance("g-a") == ["g-b"]


def test_an_answer_without_ourselves_is_ignored(world: World) -> None:
    """The coordinator did not answer, so the answer shows neither who has left nor who is there."""
    assert world.rebalance("g-b") == []
    assert world.rebalance("g-a", "g-c") == []
    assert world.rebalance() == []
    assert world.rebalance("g-a") == ["g-c"]


def test_without_an_answer_the_next_rebalance_tries_again(world: World) -> None:
    """An outage makes no member a departed one, and a member that could not be fenced is not forgotten."""
    world.rebalance("g-a", "g-b", "g-c")
    world.present = None
    world.fencer.abort_transactions()
    world.refuses = True
    assert world.rebalance("g-a", "g-c") == []
    world.refuses = False
    assert world.rebalance("g-a", "g-c") == ["g-b"]


def test_a_member_that_was_alone_does_not_wait_for_an_answer(world: World) -> None:
    """A first start, a restart and a lone member continue at once, even if no answer ever arrives."""
    never: Future[set[str]] = Future()
    alone = ZombieFencer(KafkaSettings(group_id="g", instance_id="a"), list_members=lambda: never)
    alone.abort_transactions()
    assert not never.done()
    assert world.rebalance("g-a") == []
