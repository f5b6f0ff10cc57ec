"""What a poll makes a batch of."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import Message

from consumer.kafka.consumer import EventConsumer
from consumer.runtime.readiness import Readiness


class Client:
    """A client whose events are there as soon as the test lets them come."""

    def __init__(self) -> None:
        self._came: list[Message] = []
        self._next_offset = 0

    def let_come(self, n: int) -> None:
        """Let n events come."""
        offsets = range(self._next_offset, self._next_offset + n)
        self._came += [Message("events", 0, offset, None, b"event") for offset in offsets]
        self._next_offset += n

    def consume(self, n: int, timeout: float) -> list[Message]:  # noqa: ARG002 - the client's
        """Return at most n of those that came."""
        taken, self._came = self._came[:n], self._came[n:]
        return taken

    def memberid(self) -> str:
        """Return that we are in the group."""
        return "member"


@pytest.fixture
def client() -> Client:
    """Make one with three events."""
    client = Client()
    client.let_come(3)
    return client


@pytest.fixture
def consumer(client: Client) -> EventConsumer:
    """Make a consumer that reads with it."""
    config = {"partition.assignment.strategy": "range"}
    return EventConsumer(config, "events", Readiness(lambda: 0.0), consumer_factory=lambda _: client)  # type: ignore[arg-type,return-value]  # a stand-in


def offsets(consumer: EventConsumer, max_events: int) -> list[int]:
    """Poll once and return the offsets of what came."""
    batch: Any = consumer.poll(max_events, 0, 0)
    return list(batch.offsets)


def test_a_batch_takes_in_what_comes_while_the_one_before_is_committed(
    consumer: EventConsumer, client: Client
) -> None:
    """It could not take off sooner; the next poll does not wait any more."""
    commit: Future[float] = Future()
    consumer.await_before_handover(commit)

    def land() -> None:
        client.let_come(2)
        commit.set_result(0.0)

    threading.Timer(0.05, land).start()
    assert offsets(consumer, 10) == [0, 1, 2, 3, 4]
    client.let_come(1)
    assert offsets(consumer, 10) == [5]


def test_a_full_batch_does_not_wait_for_the_commit(consumer: EventConsumer) -> None:
    """Behind a backlog the work on one batch overlaps the commit of the one before."""
    never: Future[float] = Future()
    consumer.await_before_handover(never)
    assert offsets(consumer, 3) == [0, 1, 2]
    assert not never.done()


def test_an_outage_does_not_hold_a_batch_open(consumer: EventConsumer) -> None:
    """A commit that does not end is waited for elsewhere, where it has a limit of its own."""
    consumer.await_before_handover(Future())
    assert offsets(consumer, 10) == [0, 1, 2]
