"""Brokers that are killed: the only one, and the important ones of three."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

pytestmark = pytest.mark.faults


def test_broker_killed_and_restarted(
    broker: Any, deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """The only broker is stopped twenty times while events flow, alternately by SIGKILL and cleanly."""
    service = deploy()
    flowing = service.flow(100_000, seconds=120)
    ends = [service.supervise(service.start("score", instance)) for instance in "ab"]
    service.await_that(lambda: bool(service.owned("b")), 60, "b gets no partitions")
    times, recoveries_s = 20, []
    for i in range(times):
        (broker.kafka.kill if i % 2 else broker.kafka.stop)(1)
        broker.kafka.restart(1)
        recoveries_s.append(service.recovery_s(service.interruption(), 120))
        time.sleep(1)
    flowing.result()
    service.await_decided()
    injected = f"{times} times, {sum(map(len, ends))} scorers restarted"
    holds("the only broker killed or restarted", injected, service.verdict(), recoveries_s)


def test_coordinator_and_leaders_killed(
    cluster: Any, deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """The transaction coordinator, the group coordinator and a leader of three brokers are killed in turn."""
    service = deploy(cluster.bootstrap_servers)
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    flowing = service.flow(100_000, seconds=60)
    ends = service.supervise(service.start("score"))
    service.await_progress()
    roles = (_transaction_coordinator, _group_coordinator, _leader)
    times, recoveries_s = 6, []
    for i in range(times):
        node = roles[i % len(roles)](admin, service)
        interruption = service.interruption()
        cluster.kill(node)
        recoveries_s.append(service.recovery_s(interruption, 120))
        cluster.restart(node)
        _await_replicas(admin, service)
    flowing.result()
    service.await_decided()
    injected = f"{times} kills, {len(ends)} scorers restarted"
    holds("coordinator or leader of 3 brokers killed", injected, service.verdict(), recoveries_s)


def _transaction_coordinator(admin: AdminClient, service: Any) -> int:
    """Return the broker that coordinates the scorer's transactions."""
    partitions = admin.list_topics("__transaction_state", 30).topics["__transaction_state"].partitions
    hashed = 0
    for unit in f"{service.group}-a":  # Java's String.hashCode
        hashed = (31 * hashed + ord(unit)) & 0xFFFFFFFF
    return int(partitions[(hashed & 0x7FFFFFFF) % len(partitions)].leader)


def _group_coordinator(admin: AdminClient, service: Any) -> int:
    found: list[int] = []

    def told() -> bool:
        # The request may have gone to the killed broker: ask another one soon.
        asked = admin.describe_consumer_groups([service.group], request_timeout=5)
        found.append(int(asked[service.group].result().coordinator.id))
        return True

    # The coordinator moves after a kill. The old one only answers that it is not the coordinator.
    service.await_that(told, 60, "the group has no coordinator")
    return found[0]


def _leader(admin: AdminClient, service: Any) -> int:
    topic = service.topics["predictions"]
    return int(admin.list_topics(topic, 30).topics[topic].partitions[0].leader)


def _await_replicas(admin: AdminClient, service: Any) -> None:
    """Wait until a restarted broker is in sync, so that the next kill does not take the last replica."""

    def all_in_sync() -> bool:
        topics = admin.list_topics(timeout=30).topics.values()
        return all(len(part.isrs) == 3 for topic in topics for part in topic.partitions.values())

    service.await_that(all_in_sync, 120, "a replica stays behind")
