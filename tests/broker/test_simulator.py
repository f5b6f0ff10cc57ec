"""The simulated platform on a real Kafka."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from consumer.errors import StartupError, Unavailable
from consumer.settings import KafkaSettings, Settings, TopicSettings
from consumer.simulator.producer import EventProducer
from model_store.synthetic import generate_students

pytestmark = pytest.mark.broker


def settings_of(kafka: str, topic: str, **client: object) -> Settings:
    """Return settings with an events topic."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka, client=client), topics=TopicSettings(events=topic)
    )


def read(kafka: str, topic: str, partitions: int, count: int) -> list[tuple[int, bytes | None, bytes | None]]:
    """Return partition, key and value of this many records."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "test-upstream", "auto.offset.reset": "earliest"}
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[tuple[int, bytes | None, bytes | None]] = []
    deadline_s = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline_s:
        for message in consumer.consume(count, timeout=0.2):
            assert message.error() is None
            found.append((message.partition() or 0, message.key(), message.value()))
    consumer.close()
    return found


def test_every_event_arrives_and_a_student_stays_in_a_partition(
    kafka: str, topics: Callable[..., str]
) -> None:
    """What the summary says is in the topic, and all events of a key are in one of its partitions."""
    topic = topics("events", partitions=3)
    students = generate_students(50)
    sent = EventProducer(settings_of(kafka, topic), students, count=200, broken_ratio=0.1).run()
    records = read(kafka, topic, 3, 220)
    assert sent.events == len(records) == 220
    assert sum(sent.broken.values()) == 20
    assert sent.broken["tombstone"] == sum(value is None for _, _, value in records) == 2
    partitions_of_key: dict[bytes | None, set[int]] = {}
    for partition, key, _ in records:
        partitions_of_key.setdefault(key, set()).add(partition)
    assert len(partitions_of_key) == 50
    assert {len(partitions) for partitions in partitions_of_key.values()} == {1}
    assert len(Counter(partition for partition, _, _ in records)) == 3


def test_a_rate_is_kept(kafka: str, topics: Callable[..., str]) -> None:
    """Three hundred events at 300 a second take a second."""
    upstream = EventProducer(settings_of(kafka, topics("events")), generate_students(10), count=300, rate=300)
    assert upstream.run().duration_s == pytest.approx(1.0, abs=0.5)


def test_a_stop_sends_no_more_and_keeps_count(kafka: str, topics: Callable[..., str]) -> None:
    """What was sent until then is delivered, and the summary says how much that was."""
    topic = topics("events")
    upstream = EventProducer(settings_of(kafka, topic), generate_students(10), count=10_000, rate=100)
    threading.Timer(0.5, upstream.stop).start()
    sent = upstream.run()
    assert 10 < sent.events < 1_000
    assert len(read(kafka, topic, 1, sent.events)) == sent.events


def test_undelivered_events_are_an_error_that_counts_them(kafka: str, topics: Callable[..., str]) -> None:
    """A topic that refuses records makes the upstream fail, with the number and the reason."""
    topic = topics("events", max_message_bytes="1")
    upstream = EventProducer(settings_of(kafka, topic), generate_students(10), count=7)
    with pytest.raises(Unavailable, match=r"7 of 7 events were not delivered to .*MSG_SIZE_TOO_LARGE"):
        upstream.run()


def test_a_missing_topic_is_said_at_once(kafka: str) -> None:
    """Nothing is sent into the void."""
    with pytest.raises(StartupError, match=r"no topic no-such-topic .*topics create"):
        EventProducer(settings_of(kafka, "no-such-topic"), generate_students(10)).run()
