"""Whose transactions are ended: of those who were in the group and are no more, never our own."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.kafka.fencing import ZombieFencer
from consumer.settings import KafkaSettings

_DOWN = KafkaException(KafkaError(KafkaError._TIMED_OUT))


class World:
    """A group whose members come and go."""

    def __init__(self) -> None:
        self.present: set[str] | None = set()
        self.fenced: list[str] = []
        self.refuses = False
        kafka = KafkaSettings(group_id="g", instance_id="a")
        self.departed = ZombieFencer(kafka, ask=self._ask, fence=self._fence)

    def _ask(self) -> Future[set[str]]:
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
    """We are in the group like the others."""
    world.rebalance("g-a", "g-b")
    assert world.rebalance("g-a") == ["g-b"]


def test_an_answer_without_us_is_none(world: World) -> None:
    """The coordinator was away: nobody is gone for that, nor is anybody there."""
    assert world.rebalance("g-b") == []
    assert world.rebalance("g-a", "g-c") == []
    assert world.rebalance() == []
    assert world.rebalance("g-a") == ["g-c"]


def test_without_an_answer_the_next_rebalance_tries_again(world: World) -> None:
    """Nobody is taken for gone because the broker was; who could not be fenced is not forgotten."""
    world.rebalance("g-a", "g-b", "g-c")
    world.present = None
    world.departed.end_transactions()
    world.refuses = True
    assert world.rebalance("g-a", "g-c") == []
    world.refuses = False
    assert world.rebalance("g-a", "g-c") == ["g-b"]


def test_nobody_waits_for_an_answer_who_was_alone(world: World) -> None:
    """A start, a restart and a lone member go on at once, whatever becomes of the answer."""
    never: Future[set[str]] = Future()
    alone = ZombieFencer(KafkaSettings(group_id="g", instance_id="a"), ask=lambda: never)
    alone.end_transactions()
    assert not never.done()
    assert world.rebalance("g-a") == []
