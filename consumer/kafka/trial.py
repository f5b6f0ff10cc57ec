"""Try a commit as the scorer makes it, under its own names, and compare the broker's clock with ours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from consumer.errors import ServiceError, StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.errors import format_error, is_outage, kafka_error
from consumer.kafka.producer import CommitRights, acquire_producer_id

_OFFSETS_TOPIC: Final = "__consumer_offsets"
_TIMEOUT_S: Final = 15.0
_COMMON: Final = ("bootstrap.servers", "client.id", "logger", "socket.timeout.ms")
_COMMON_PREFIXES: Final = ("security.", "sasl.", "ssl.", "broker.", "test.mock")


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a trial.

    Attributes:
        took_s: The duration of the transaction or the commit.
        broker_ahead_s: The least difference by which the broker's clock is ahead of this machine's; negative
            if it is behind, 0 if no difference is visible, ``None`` if the timestamp may not be read.
        not_deleted: The reason why the trial's group could not be deleted, or ``None`` if it was.
    """

    took_s: float
    broker_ahead_s: float | None
    not_deleted: str | None = None


def try_commit(config: Mapping[str, Any], topic: str, name: str, *, exactly_once: bool) -> Trial:
    """Commit an offset as the scorer does, then delete the group again.

    Args:
        config: The configuration of the scorer's producer.
        topic: The events topic.
        name: The group and the transactional id to use. No other client may use them.
        exactly_once: Commit in a transaction.

    Raises:
        Unavailable: No broker answered in time.
        StartupError: The broker refuses the commit.
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
        missing = CommitRights(group=name).missing(error, {**config, "transactional.id": name})
        raise StartupError(missing or format_error(error)) from exception
    finally:
        consumer.close()
    admin = ClusterAdmin(common, _TIMEOUT_S)
    ahead_s = _broker_ahead_s(admin, name, began_ms, ended_ms)
    not_deleted = None
    try:
        admin.delete_group(name)
    except ServiceError as error:
        not_deleted = str(error)
    return Trial((ended_ms - began_ms) / 1000, ahead_s, not_deleted)


def _broker_ahead_s(admin: ClusterAdmin, group: str, began_ms: int, ended_ms: int) -> float | None:
    """Compare the clocks by the timestamp that the broker gave to the record of the commit."""
    try:
        count = admin.describe_topic(_OFFSETS_TOPIC).partitions
        stamped_ms = admin.newest_timestamp_ms(_OFFSETS_TOPIC, offsets_partition(group, count))
    except ServiceError:
        return None
    if stamped_ms is None:
        return None
    return (max(stamped_ms - ended_ms, 0) + min(stamped_ms - began_ms, 0)) / 1000


def offsets_partition(group: str, count: int) -> int:
    """Return the partition of Kafka's own offsets topic that holds a group's commits."""
    units = group.encode("utf-16-be")
    code = 0
    for high, low in zip(units[::2], units[1::2], strict=True):  # Java's String.hashCode
        code = (31 * code + (high << 8 | low)) & 0xFFFFFFFF
    signed = code - (1 << 32) if code >= 1 << 31 else code
    return 0 if signed == -(1 << 31) else abs(signed) % count
