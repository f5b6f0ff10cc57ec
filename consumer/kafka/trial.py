"""Tries out what a scorer does to Kafka, under names of its own, and reads the broker's clock by it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is exported

from consumer.errors import StartupError, Unavailable
from consumer.kafka.errors import format_error, is_outage, kafka_error
from consumer.kafka.producer import acquire_producer_id

_OFFSETS_TOPIC: Final = "__consumer_offsets"
_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        took_s: seconds for a transaction, or a commit.
        broker_ahead_s: by how much the broker's clock is ahead of ours, at least; negative if it is
            behind, 0 if that cannot be told apart from no difference, ``None`` if it may not be read.
    """

    took_s: float
    broker_ahead_s: float | None


def try_commit(config: Mapping[str, Any], topic: str, name: str, *, exactly_once: bool) -> Trial:
    """Commit an offset under a group of that name, as the scorer would, and remove the group again.

    Args:
        config: of the scorer's producer.
        topic: the events topic.
        name: of the group, and the transactional id; nobody else's.
        exactly_once: do it in a transaction.

    Raises:
        Unavailable: no broker answered in time.
        StartupError: the broker refuses it.
    """
    common = {key: config[key] for key in config if key in _COMMON or key.startswith(_COMMON_PREFIXES)}
    consumer = Consumer({**common, "group.id": name, "enable.auto.commit": False})
    offsets = [TopicPartition(topic, 0, 0)]
    try:
        if exactly_once:
            producer = Producer({**config, "transactional.id": name})
            acquire_producer_id(producer, _TIMEOUT_S)
            began_ms = time.time_ns() // 1_000_000
            producer.begin_transaction()
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), _TIMEOUT_S)
            producer.commit_transaction(_TIMEOUT_S)
        else:
            began_ms = time.time_ns() // 1_000_000
            consumer.commit(offsets=offsets, asynchronous=False)
        ended_ms = time.time_ns() // 1_000_000
    except KafkaException as exception:
        error = kafka_error(exception)
        if error.retriable() or is_outage(error):
            raise Unavailable(format_error(error)) from exception
        raise StartupError(format_error(error)) from exception
    finally:
        consumer.close()
    admin = AdminClient(common)
    ahead_s = _broker_ahead_s(admin, name, began_ms, ended_ms)
    with contextlib.suppress(KafkaException, TimeoutError):  # it would expire by itself, too
        admin.delete_consumer_groups([name])[name].result(_TIMEOUT_S)
    return Trial((ended_ms - began_ms) / 1000, ahead_s)


_COMMON: Final = ("bootstrap.servers", "client.id", "logger", "socket.timeout.ms")
_COMMON_PREFIXES: Final = ("security.", "sasl.", "ssl.", "broker.", "test.mock")


def _broker_ahead_s(admin: AdminClient, group: str, began_ms: int, ended_ms: int) -> float | None:
    """Compare clocks by the record of the commit, which the broker has stamped."""
    try:
        count = len(admin.list_topics(_OFFSETS_TOPIC, timeout=_TIMEOUT_S).topics[_OFFSETS_TOPIC].partitions)
        at = TopicPartition(_OFFSETS_TOPIC, offsets_partition(group, count))
        wanted = {at: OffsetSpec.max_timestamp()}  # type: ignore[no-untyped-call]  # untyped there
        stamped_ms: int = (
            admin.list_offsets(wanted, request_timeout=_TIMEOUT_S)[at].result(_TIMEOUT_S).timestamp
        )
    except (KafkaException, TimeoutError, ZeroDivisionError):
        return None
    if stamped_ms < 0:
        return None
    return (max(stamped_ms - ended_ms, 0) + min(stamped_ms - began_ms, 0)) / 1000


def offsets_partition(group: str, count: int) -> int:
    """Return the partition of Kafka's own offsets topic that a group's commits are in."""
    units = group.encode("utf-16-be")
    code = 0
    for high, low in zip(units[::2], units[1::2], strict=True):  # Java's String.hashCode
        code = (31 * code + (high << 8 | low)) & 0xFFFFFFFF
    signed = code - (1 << 32) if code >= 1 << 31 else code
    return 0 if signed == -(1 << 31) else abs(signed) % count
