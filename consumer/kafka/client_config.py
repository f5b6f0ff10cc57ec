"""How our clients are configured; the derivation of every timeout stands beside it.

Whatever the user passes in ``kafka.client`` overrides what stands here.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from consumer.settings import KafkaSettings

SESSION_TIMEOUT_MS: Final = 6_000
"""How long a dead scorer's partitions stay with it. The least that brokers allow by default: heartbeats
come from a thread of librdkafka's own, so neither a long batch nor Python's lock delays them."""

TRANSACTION_TIMEOUT_MS: Final = 10_000
"""How long the broker lets a transaction stay open, and so how long a dead scorer's last one can hold
readers back. Ours stay open for milliseconds: everything is computed before they begin."""

SOCKET_TIMEOUT_MS: Final = 8_000
"""How long one request may take. Below the transaction's timeout, so that a stuck request is known
to be stuck while the transaction can still be aborted."""

RETRY_BACKOFF_MS: Final = 500
"""How long a request waits at least before it is sent again. A transaction that ended sooner was ended
by requests that were sent once (consumer/kafka/transaction.py); with the default of 100 a busy broker
is slower than that often enough to matter, as the producer is thrown away then."""

MAX_POLL_INTERVAL_MS: Final = 300_000
"""How long we may go without polling; the watchdog ends us well before (consumer/watchdog.py)."""

METADATA_REFRESH_MS: Final = 30_000
"""How long partitions that are added while we run go unnoticed at most."""

FETCH: Final = {
    "queued.min.messages": 20_000,  # several batches ahead, yet bounded memory
    "queued.max.messages.kbytes": 32 * 1024,
    # Of a partition in one answer, compressed: what comes out of it is not held against the two above.
    "fetch.message.max.bytes": 256 * 1024,
    # A partition whose queue is full is fetched again after this. The default, a second, starves
    # whoever drains the queue faster: 170,000 instead of 770,000 records/s were read with it.
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 100,
}
"""How readers fetch ahead."""

_LOGGER: Final = logging.getLogger("librdkafka")


def common(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what every client of ours is configured with."""
    return {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": f"{kafka.group_id}-{kafka.instance_id}",
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
        "reconnect.backoff.max.ms": 2_000,  # go on soon after the broker is back
        "enable.metrics.push": False,  # nobody asked the broker to collect our metrics
        "allow.auto.create.topics": False,
        "logger": _LOGGER,
        **kafka.client,
    }


def consumer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration of the group's consumer."""
    return {
        "group.id": kafka.group_id,
        # Static membership: a scorer that is restarted gets its partitions back at once.
        "group.instance.id": f"{kafka.group_id}-{kafka.instance_id}",
        # Not cooperative-sticky, which goes together badly with static membership: a scorer that is
        # killed between the two rounds of a rebalance and restarted is given what the first round left
        # it, the second never comes, and partitions stay with nobody for as long as nobody else comes
        # or goes. One round cannot be cut in two.
        "partition.assignment.strategy": "range",
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        # Also how late members hear of a rebalance, in which all wait for the last of them.
        "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 6,
        "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # An offset that is gone is an error for a person to decide on, never a silent jump. A
        # partition that has no offset yet is started at its beginning (event_consumer.py).
        "auto.offset.reset": "error",
        "check.crcs": True,
        **FETCH,
        **common(kafka),
    }


def producer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what both kinds of producer are configured with."""
    return {
        "enable.idempotence": True,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "acks": "all",
        "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "delivery.report.only.error": True,  # successes are known from the flush; spare a callback each
        "queue.buffering.max.messages": 1_000_000,  # one batch must fit; its size is bounded elsewhere
        # Of a batch's records half the bytes are alike, of dead letters nine tenths. Every client can read
        # it, and it costs client, network and broker together less than moving what it spares.
        "compression.type": "lz4",
        **common(kafka),
    }


def transaction_timeout_s(kafka: KafkaSettings) -> float:
    """Return how long a transaction may stay open, and so how long a call that ends one may take."""
    return float(kafka.client.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)) / 1000


def transactional_producer(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration of the exactly-once producer."""
    return {
        **producer(kafka),
        # Stable over restarts, so that a restart ends its own dangling transaction at once.
        "transactional.id": f"{kafka.group_id}-{kafka.instance_id}",
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        # The default, rebootstrap, forgets a broker whose connections all broke, yet keeps it as the
        # group's coordinator: the offsets are then never sent, and the call never returns (librdkafka
        # issues 5511 and 5456). Nothing is lost by it, for a producer is made anew after an outage.
        "metadata.recovery.strategy": "none",
        **kafka.client,
    }
