"""Reads committed records of one topic from any place, again and again, in no consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.errors import Unavailable
from consumer.kafka.policy import describe, error_of

_GROUP: Final = "purchase-stream-look-up"
"""The client asks for one; nothing is ever committed under it."""

_FETCH_AHEAD: Final = 500
_POLL_S: Final = 0.2
_SILENCE_LIMIT_S: Final = 20.0


class PartitionReader:
    """Reads parts of partitions, one part at a time.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the topic.
    """

    def __init__(self, client_config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": _GROUP,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "fetch.wait.max.ms": 50,
                # A look-up takes a few records and goes elsewhere: do not fetch far ahead.
                "queued.min.messages": _FETCH_AHEAD,
                "fetch.message.max.bytes": 256 * 1024,
            }
        )

    def records(self, partition: int, begin: int, end: int) -> Iterator[Message]:
        """Yield the committed records of a part, in their order; stop asking when you have seen enough.

        Args:
            partition: the partition.
            begin: first offset; the topic must still have it.
            end: end of the part, exclusive, at most the last stable offset.

        Raises:
            Unavailable: the broker is away, or lost the records meanwhile.
        """
        if begin >= end:
            return
        try:
            self._consumer.assign([TopicPartition(self._topic, partition, begin)])
            heard_s = time.monotonic()
            while True:
                # One by one: it returns at once, where asking for several waits for all of them.
                message = self._consumer.poll(_POLL_S)
                if message is None:
                    if time.monotonic() - heard_s > _SILENCE_LIMIT_S:
                        raise Unavailable(
                            f"{self._topic}[{partition}]: nothing to read; is the broker there?"
                        )
                    continue
                heard_s = time.monotonic()
                error, offset = message.error(), message.offset() or 0
                if error is None and offset < end:
                    yield message
                elif error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise Unavailable(f"{self._topic}[{partition}] lost its record {begin}; try again")
                if offset + (error is None) >= end:
                    return
        except KafkaException as exception:
            why = describe(error_of(exception))
            raise Unavailable(f"{self._topic} cannot be read: {why}; try again") from exception

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()
