"""A transactional producer's id: what fences and ends whatever its transactional id left open."""

from __future__ import annotations

from typing import Final

from confluent_kafka import Producer

from consumer.kafka.policy import served

_ANY_TOPIC: Final = "__transaction_state"
"""Asked about for the sake of an answer; one topic is less of it than all."""


def acquire_producer_id(producer: Producer, timeout_s: float) -> None:
    """Get a new producer its id, as soon as that can be.

    ``init_transactions`` of a producer that has no connection yet waits for half a second before it looks
    for its coordinator again, as often as not: librdkafka drops the connection to the bootstrap server once
    it knows the brokers' names, and connects to none of those before it has something to ask. Two
    questions make sure that it has: the first may be answered by the bootstrap server, not the second.

    Args:
        producer: one that was just made.
        timeout_s: how long each of the three steps may take.

    Raises:
        KafkaException: the broker did not answer, or refuses.
    """
    for _ in range(2):
        served(producer.list_topics, _ANY_TOPIC, timeout_s)
    producer.init_transactions(timeout_s)
