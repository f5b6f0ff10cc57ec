"""The configuration of our Kafka clients, with the derivation of every timeout.

A property in the setting ``kafka.client`` overrides the value given here, unless the guarantees depend on
it; such a property is refused.
"""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import libversion

from consumer.errors import StartupError
from consumer.kafka.errors import ClientLog
from consumer.settings import KafkaSettings

LIBRDKAFKA_VERSION: Final = libversion()[0]

SESSION_TIMEOUT_MS: Final = 6_000
"""How long the partitions of a dead scorer stay assigned to it. This is the smallest value that brokers
allow by default. Heartbeats come from a thread of librdkafka, so neither a long batch nor Python's global
interpreter lock delays them."""

TRANSACTION_TIMEOUT_MS: Final = 10_000
"""How long the broker lets a transaction stay open, and so how long the last transaction of a dead scorer
can hold readers back. Ours are open for milliseconds: everything is computed before they begin."""

SOCKET_TIMEOUT_MS: Final = 8_000
"""The limit of one request. It is below the transaction's timeout, so that a request that hangs is noticed
while the transaction can still be aborted."""

RETRY_BACKOFF_MS: Final = 500
"""How long a request waits before it is sent again. A transaction that ended sooner sent each request once
(``MAY_BE_SENT_TWICE_AFTER_S`` in producer.py). The default of 100 ms is too short for that: a busy broker
often takes longer, and the producer would be recreated each time."""

MAX_POLL_INTERVAL_MS: Final = 300_000
"""How long the consumer may go without a poll. The watchdog ends the process long before
(``STALL_LIMIT_S`` in watchdog.py)."""

METADATA_REFRESH_MS: Final = 30_000
"""The longest time until a running client notices a partition that was added."""

STATISTICS_INTERVAL_MS: Final = 1_000
"""How often the consumer reports how far it has fetched, from which its lag is computed."""

FETCH: Final = {
    "queued.min.messages": 20_000,  # Several batches ahead, in bounded memory.
    "queued.max.messages.kbytes": 32 * 1024,
    # The limit of a partition in one response, compressed. The two limits above count compressed bytes, too.
    "fetch.message.max.bytes": 256 * 1024,
    # How long a partition is not fetched after its queue was full. With the default of a second, a consumer
    # that drains the queue faster starves: it read 170,000 instead of 770,000 records/s.
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 100,
}
"""How far consumers fetch ahead."""


_IDENTITY: Final = "it follows from kafka.group_id and kafka.instance_id"
_ATOMIC: Final = "offsets are committed together with the outputs"
_IDEMPOTENT: Final = "exactly-once delivery needs idempotent, fully acknowledged writes"

_FIXED: Final = {
    "acks": ({"all", "-1"}, _IDEMPOTENT),
    "auto.offset.reset": ({"error"}, "a missing offset needs a decision (score --resume-from)"),
    "client.id": (set[str](), _IDENTITY),
    "delivery.report.only.error": ({"true"}, "only failures are expected in delivery reports"),
    "enable.auto.commit": ({"false", "0"}, _ATOMIC),
    "enable.auto.offset.store": ({"false", "0"}, _ATOMIC),
    "enable.idempotence": ({"true", "1"}, _IDEMPOTENT),
    "enable.partition.eof": ({"false"}, "the end of a partition is not an error"),
    "group.id": (set[str](), _IDENTITY),
    "group.instance.id": (set[str](), _IDENTITY),
    "isolation.level": ({"read_committed"}, "records of aborted transactions must not be read"),
    "request.required.acks": ({"all", "-1"}, _IDEMPOTENT),
    "transactional.id": (set[str](), _IDENTITY),
}
"""The properties that ``kafka.client`` must not change: the accepted values, and why there are no others."""

_CLASSIC_ONLY: Final = {
    "group.instance.id": "a static member that was killed could not return before its session times out",
    "heartbeat.interval.ms": "the broker's group.consumer.heartbeat.interval.ms applies",
    "partition.assignment.strategy": "the broker assigns (group.consumer.assignors)",
    "session.timeout.ms": "the broker's group.consumer.session.timeout.ms applies",
}
"""Properties of the classic group protocol, and why KIP-848's (``group.protocol=consumer``) has none."""


def check_client_properties(kafka: KafkaSettings) -> None:
    """Check that ``kafka.client`` changes nothing that the guarantees depend on.

    Raises:
        StartupError: It does. The message names the property and the reason.
    """
    for name, value in kafka.client.items():
        accepted, reason = _FIXED.get(name, ({str(value).lower()}, ""))
        if str(value).lower() not in accepted:
            raise StartupError(f"kafka.client must not set {name} to {value}: {reason}; remove it")
        if name in _CLASSIC_ONLY and uses_consumer_protocol(kafka):
            raise StartupError(
                f"kafka.client must not set {name} with group.protocol=consumer: {_CLASSIC_ONLY[name]};"
                " remove it"
            )


def uses_consumer_protocol(kafka: KafkaSettings) -> bool:
    """Return whether the group uses the protocol of KIP-848 in place of the classic one."""
    return str(kafka.client.get("group.protocol", "classic")).lower() == "consumer"


def common(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration that all clients share.

    Raises:
        StartupError: See :func:`check_client_properties`.
    """
    check_client_properties(kafka)
    return {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": f"{kafka.group_id}-{kafka.instance_id}",
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
        "reconnect.backoff.max.ms": 2_000,  # Reconnect soon after the broker is back.
        "enable.metrics.push": False,  # Do not send client metrics to the broker.
        "allow.auto.create.topics": False,
        "logger": ClientLog(),
        **kafka.client,
    }


def consumer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration of the group's consumer."""
    config = {
        "group.id": kafka.group_id,
        # Static membership: a scorer that restarts gets its partitions back at once.
        "group.instance.id": f"{kafka.group_id}-{kafka.instance_id}",
        # Not cooperative-sticky: a static member that is killed between the two rounds of a rebalance and
        # restarts gets only what the first round left it. The second round never starts, so some
        # partitions have no owner until another member joins or leaves.
        "partition.assignment.strategy": "range",
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        # Members learn of a rebalance with a heartbeat, and all of them wait for the last one.
        "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 6,
        "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A missing offset is an error that a person has to decide on, never a silent jump. A partition
        # without a committed offset is started explicitly (StartingOffsets in starting_offsets.py).
        "auto.offset.reset": "error",
        "check.crcs": True,
        "statistics.interval.ms": STATISTICS_INTERVAL_MS,
        **FETCH,
        **common(kafka),
    }
    if uses_consumer_protocol(kafka):
        return {name: value for name, value in config.items() if name not in _CLASSIC_ONLY}
    return config


DEFAULT_MAX_MESSAGE_BYTES: Final = 1_000_000
"""librdkafka's default; a topic accepts 1,048,588 bytes by default."""


def producer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration that both kinds of producer share."""
    return {
        "enable.idempotence": True,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "acks": "all",
        # The client accepts no transaction timeout below it.
        "message.timeout.ms": int(1000 * transaction_timeout_s(kafka)),
        "delivery.report.only.error": True,  # flush() reports success; a callback per record is slow.
        "queue.buffering.max.messages": 1_000_000,  # One batch must fit; batch.max_events limits it.
        # Compression saves half of a batch's bytes and nine tenths of a dead letter's, and takes less time
        # than moving those bytes. Every client can read it.
        "compression.type": "lz4",
        **common(kafka),
    }


def max_message_bytes(kafka: KafkaSettings) -> int:
    """Return the largest record that the client produces, whatever the topic accepts."""
    return int(kafka.client.get("message.max.bytes", DEFAULT_MAX_MESSAGE_BYTES))


def transaction_timeout_s(kafka: KafkaSettings) -> float:
    """Return how long a transaction may stay open, which also limits the calls that end it."""
    return float(kafka.client.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)) / 1000


def transactional_producer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration of the exactly-once producer."""
    return {
        **producer(kafka),
        # The same id after a restart, so that a restart aborts the open transaction of the earlier run.
        "transactional.id": f"{kafka.group_id}-{kafka.instance_id}",
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        # With the default, rebootstrap, the client forgets a broker whose connections all broke, but keeps
        # it as the group's coordinator. It then never sends the offsets, and the call never returns
        # (librdkafka issues 5511 and 5456). The producer is recreated after an outage anyway.
        "metadata.recovery.strategy": "none",
        **kafka.client,
    }
