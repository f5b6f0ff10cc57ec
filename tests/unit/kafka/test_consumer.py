"""Which events one poll returns as a batch."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from consumer.errors import Condition, StartupError
from consumer.kafka.consumer import EventConsumer
from consumer.runtime.readiness import Readiness


class Client:
    """A client that returns the events that the test has let arrive."""

    def __init__(self) -> None:
        self._arrived: list[Message] = []
        self._next_offset = 0
        self._refusal: KafkaError | None = None
        self.is_member = True

    def let_arrive(self, n: int) -> None:
        """Let n events arrive."""
        offsets = range(self._next_offset, self._next_offset + n)
        self._arrived += [Message("events", 0, offset, None, b"event") for offset in offsets]
        self._next_offset += n

    def consume(self, n: int, timeout: float) -> list[Message]:  # noqa: ARG002 - the client's
        """Return at most n of the events that have arrived."""
        taken, self._arrived = self._arrived[:n], self._arrived[n:]
        return taken

    def memberid(self) -> str:
        """Return a member id if this client has joined the group."""
        return "member" if self.is_member else ""

    def refuse_group(self, *, forget: bool = False) -> None:
        """Let the broker refuse the group from now on, or no more."""
        refusal = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "scripted")
        self._refusal = None if forget else refusal
        if not forget:
            self._arrived.append(Message("", error=refusal))

    def committed(self, _partitions: object, timeout: float) -> None:  # noqa: ARG002 - the client's
        """Answer like a broker that looks at the rights on the group."""
        if self._refusal is not None:
            raise KafkaException(self._refusal)


@pytest.fixture
def client() -> Client:
    """Return a client with three events."""
    client = Client()
    client.let_arrive(3)
    return client


@pytest.fixture
def consumer(client: Client) -> EventConsumer:
    """Return a consumer on that client."""
    config = {"partition.assignment.strategy": "range", "group.id": "g"}
    return EventConsumer(config, "events", Readiness(lambda: 0.0), consumer_factory=lambda _: client)  # type: ignore[arg-type,return-value]  # a stand-in


def offsets(consumer: EventConsumer, max_events: int, commit: Future[float] | None = None) -> list[int]:
    """Poll once and return the offsets of the events."""
    batch: Any = consumer.poll(max_events, 0, 0, commit=commit)
    return list(batch.offsets)


def test_a_batch_takes_in_what_comes_while_the_one_before_is_committed(
    consumer: EventConsumer, client: Client
) -> None:
    """It could not be committed sooner. A commit that has ended is not waited for."""
    commit: Future[float] = Future()

    def end_commit() -> None:
        client.let_arrive(2)
        commit.set_result(0.0)

    threading.Timer(0.05, end_commit).start()
    assert offsets(consumer, 10, commit) == [0, 1, 2, 3, 4]
    client.let_arrive(1)
    assert offsets(consumer, 10, commit) == [5]


def test_a_full_batch_does_not_wait_for_the_commit(consumer: EventConsumer) -> None:
    """Behind a backlog the work on one batch overlaps the commit of the one before."""
    never: Future[float] = Future()
    assert offsets(consumer, 3, never) == [0, 1, 2]
    assert not never.done()


def test_an_outage_does_not_hold_a_batch_open(consumer: EventConsumer) -> None:
    """The loop waits for a commit that does not end, and that wait has a limit of its own."""
    assert offsets(consumer, 10, Future()) == [0, 1, 2]


def test_a_revoked_partition_waits_for_the_commit_in_flight(consumer: EventConsumer, client: Client) -> None:
    """The commit ends before the partition goes to another member, and only that poll knows the commit."""
    commit: Future[float] = Future()
    ended_first: list[bool] = []

    def consume(n: int, timeout: float) -> list[Message]:  # noqa: ARG001 - the client's
        consumer._on_revoke(client, [TopicPartition("events", 0)])  # type: ignore[arg-type]  # a stand-in
        ended_first.append(commit.done())
        return []

    client.consume = consume  # type: ignore[method-assign]  # librdkafka calls back from here
    threading.Timer(0.05, commit.set_result, [0.0]).start()
    assert consumer.poll(10, 0, 0, commit=commit) is None
    assert ended_first == [True]
    consumer._on_revoke(client, [])  # type: ignore[arg-type]  # outside of a poll nothing is waited for


def test_a_group_right_that_was_never_there_ends_the_start(client: Client, consumer: EventConsumer) -> None:
    """Joining would go on forever."""
    client.is_member = False
    client.refuse_group()
    with pytest.raises(StartupError, match="lacks the right Read on group g"):
        consumer.poll(10, 0, 0)


def test_a_group_right_that_is_taken_away_is_waited_for(client: Client, consumer: EventConsumer) -> None:
    """The role is not ready until the broker accepts the group again, though events still arrive."""
    readiness = consumer._readiness
    assert offsets(consumer, 3) == [0, 1, 2]
    client.refuse_group()
    consumer.poll(10, 0, 0)
    client.let_arrive(1)
    consumer.poll(10, 0, 0)
    assert "lacks the right Read on group g" in readiness.active()[Condition.BROKER].reason
    client.refuse_group(forget=True)
    consumer.poll(10, 0, 0)
    assert not readiness.active()


def _statistics(**partition: int) -> str:
    """Return the client's statistics about partition 0; -1 is the client's own entry."""
    known = {"fetchq_cnt": 0, "next_offset": -1001, "ls_offset": -1001} | partition
    return json.dumps({"topics": {"events": {"partitions": {"0": known, "-1": known}}, "other": {}}})


def test_lag_counts_events_and_no_transaction_markers(consumer: EventConsumer) -> None:
    """In hand, fetched, and not fetched yet; nothing is left once markers and aborted records are fetched."""
    consumer._assigned = {0, 1}
    assert consumer.lag({0: 5}) == {}, "nothing is known yet"
    consumer._on_statistics(_statistics())
    assert consumer.lag({0: 5}) == {}, "nothing was fetched yet"
    consumer._polled = {0: 15}
    consumer._on_statistics(_statistics(fetchq_cnt=20, next_offset=40, ls_offset=100))
    assert consumer.lag({0: 5}) == {0: 10 + 20 + 60}
    assert consumer.lag({0: 15}) == {0: 20 + 60}
    consumer._polled = {0: 90}
    consumer._on_statistics(_statistics(fetchq_cnt=0, next_offset=100, ls_offset=100))
    assert consumer.lag({0: 90}) == {0: 0}, "offsets 90 to 99 are markers and aborted records"
    consumer._polled = {}
    consumer._on_statistics(_statistics(next_offset=100, ls_offset=100))
    assert consumer.lag({}) == {0: 0}, "started at the end, no event yet"
    consumer._assigned = {1}
    assert consumer.lag({0: 90}) == {}, "only owned partitions"
