"""A backlog that appears at once: copied in one transaction, which ends when everybody is ready.

Workers that join one after the other hand partitions over in between, for seconds. What they do once
they all have theirs can only be measured if nothing could be done before.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from consumer.kafka.client_config import FETCH

_TRANSACTION_TIMEOUT_MS = 900_000
"""The longest that brokers allow by default."""
_READ_S = 30.0
_CHUNK = 10_000


@contextlib.contextmanager
def gated_backlog(servers: str, source: str, target: str, total: int) -> Iterator[Callable[[], None]]:
    """Copy ``total`` records to another topic, by their keys; yield what makes them readable.

    Both topics are there; the source holds at least this many records.
    """
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": f"curtain-{uuid.uuid4()}",
            "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 3,  # a broker's first transactional producer waits for its coordinator, and says so
        }
    )
    producer.init_transactions(_READ_S)
    producer.begin_transaction()
    for value, key in _records(servers, source, total):
        while True:
            try:
                producer.produce(target, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    yield producer.commit_transaction


def _records(servers: str, topic: str, total: int) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Read a topic from its beginning."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench-copy", **FETCH})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        left = total
        while left:
            messages = consumer.consume(min(left, _CHUNK), _READ_S)
            if not messages:
                raise TimeoutError(f"{topic}: {left} of {total} records were not there")
            for message in messages:
                if message.error() is None:
                    left -= 1
                    yield message.value(), message.key()
    finally:
        consumer.close()
