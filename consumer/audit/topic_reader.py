"""Reads a topic's committed records from its first to the end it had when we began.

A reader of the oracle's own: with the stream it shares the Kafka client and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in __all__

from consumer.errors import StartupError, Unavailable

_GROUP: Final = "purchase-stream-audit-verify"
"""The client asks for one; nothing is ever committed under it."""

_BATCH: Final = 10_000
_ANSWER_TIMEOUT_S: Final = 15.0
_PAUSE_S: Final = 0.1
_SILENCE_LIMIT_S: Final = 60.0
"""Without a record or an end for so long, the broker is taken to be away."""

_HOPELESS_CODES: Final = (
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
)

_PASSING_CODES: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""A partition has a new leader, as the broker will know in a moment."""

Ranges = dict[int, tuple[int, int]]
"""First offset and end (exclusive) by partition."""


def committed_ranges(client_config: Mapping[str, Any], topic: str) -> Ranges:
    """Return what of each partition a reader of committed records can read now.

    The end is the last stable offset: before the first record of a transaction that is still open.

    Raises:
        StartupError: there is no such topic.
        Unavailable: no broker answered in time.
    """
    admin = AdminClient(dict(client_config))
    deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        try:
            return _ask_ranges(admin, topic)
        except KafkaException as exception:
            error = exception.args[0]
            if error.code() not in _PASSING_CODES or time.monotonic() > deadline_s:
                raise Unavailable(
                    f"Kafka cannot be asked for the offsets of {topic}: {error.str()}; try again"
                ) from exception
        time.sleep(_PAUSE_S)


def _ask_ranges(admin: AdminClient, topic: str) -> Ranges:
    found = admin.list_topics(topic, timeout=_ANSWER_TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise StartupError(
            f"no topic {topic} ({found.error.str()}); create it with: purchase-stream topics create"
        )
    partitions = [TopicPartition(topic, partition) for partition in sorted(found.partitions)]
    begins, ends = (
        admin.list_offsets(
            dict.fromkeys(partitions, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_ANSWER_TIMEOUT_S,
        )
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]  # untyped there
    )
    return {at.partition: (begins[at].result().offset, ends[at].result().offset) for at in partitions}


def committed_records(
    client_config: Mapping[str, Any], topic: str, ranges: Ranges
) -> Iterator[Sequence[Message]]:
    """Yield the committed records inside the ranges, in batches; a batch mixes partitions.

    Raises:
        Unavailable: the broker went away, or the topic lost records while they were read.
    """
    left = {partition: end for partition, (begin, end) in ranges.items() if begin < end}
    consumer = Consumer(
        {
            **client_config,
            "group.id": _GROUP,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )
    heard_s = time.monotonic()
    try:
        consumer.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in left])
        while left:
            messages = consumer.consume(_BATCH, timeout=0.1)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SILENCE_LIMIT_S:
                raise Unavailable(
                    f"{topic}: nothing to read for {_SILENCE_LIMIT_S:.0f} s; is the broker there?"
                )
            records = [message for message in messages if _is_record(message, topic)]
            yield [m for m in records if m.offset() < ranges[m.partition()][1]]  # type: ignore[index,operator]  # a record has both
            for partition in _finished(messages, left):
                consumer.incremental_unassign([TopicPartition(topic, partition)])
                del left[partition]
    except KafkaException as exception:
        raise Unavailable(f"{topic} cannot be read: {exception.args[0].str()}; try again") from exception
    finally:
        consumer.close()


def _is_record(message: Message, topic: str) -> bool:
    """Tell a record from an end, or from a trouble that the client gets over by itself."""
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise Unavailable(
            f"{topic} lost records of partition {message.partition()} while they were read; try again"
        )
    if error.fatal() or error.code() in _HOPELESS_CODES:
        raise KafkaException(error)
    return False


def _finished(messages: Sequence[Message], ends: Mapping[int, int]) -> list[int]:
    """Return the partitions that are read up to their end.

    An end is reported by itself, with its offset, where nothing but transaction markers is left.
    """
    next_offsets = {m.partition(): (m.offset() or 0) + (m.error() is None) for m in messages}
    return [partition for partition, end in ends.items() if next_offsets.get(partition, -1) >= end]
