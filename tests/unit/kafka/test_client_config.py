"""Which properties of ``kafka.client`` override ours, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from consumer.errors import StartupError
from consumer.kafka import client_config
from consumer.settings import KafkaSettings

_CLASSIC_ONLY = (
    "group.instance.id",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
)


def settings(**client: Any) -> KafkaSettings:
    """Return settings with client properties; ``_`` stands for a dot."""
    properties = {name.replace("_", "."): value for name, value in client.items()}
    return KafkaSettings(bootstrap_servers="localhost:1", group_id="g", instance_id="a", client=properties)


@pytest.mark.parametrize(
    "client",
    [
        {"session_timeout_ms": 30_000},
        {"partition_assignment_strategy": "cooperative-sticky"},
        {"transaction_timeout_ms": 5_000, "socket_timeout_ms": 4_000},
        {"compression_type": "none", "linger_ms": 50},
        {"queued_min_messages": 10, "fetch_wait_max_ms": 5},
    ],
)
def test_a_property_of_the_user_wins(client: dict[str, Any]) -> None:
    """The clients accept the combination."""
    kafka = settings(**client)
    consumer = client_config.consumer(kafka)
    producer = client_config.transactional_producer(kafka)
    for name, value in kafka.client.items():
        assert consumer[name] == producer[name] == value
    Consumer(consumer).close()
    Producer(producer)
    Producer(client_config.producer(kafka))


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ({"enable_auto_commit": True}, "committed together with the outputs"),
        ({"isolation_level": "read_uncommitted"}, "aborted transactions"),
        ({"acks": 1}, "exactly-once"),
        ({"enable_idempotence": "false"}, "exactly-once"),
        ({"auto_offset_reset": "latest"}, "--resume-from"),
        ({"client_id": "mine"}, "kafka.instance_id"),
        ({"transactional_id": "mine"}, "kafka.instance_id"),
        ({"group_protocol": "consumer", "session_timeout_ms": 6_000}, "group.consumer.session.timeout.ms"),
        ({"group_protocol": "consumer", "partition_assignment_strategy": "range"}, "the broker assigns"),
    ],
)
def test_a_property_that_the_guarantees_depend_on_is_refused(client: dict[str, Any], reason: str) -> None:
    """With the name of the property and the reason."""
    kafka = settings(**client)
    for config in (client_config.common, client_config.consumer, client_config.transactional_producer):
        with pytest.raises(StartupError, match=reason) as raised:
            config(kafka)
        assert str(raised.value).startswith(f"kafka.client must not set {list(kafka.client)[-1]}")


def test_our_own_value_may_be_repeated() -> None:
    """As a boolean or as a text."""
    kafka = settings(enable_auto_commit="false", enable_idempotence=True, acks="all")
    assert client_config.consumer(kafka)["enable.auto.commit"] == "false"


def test_the_consumer_protocol_has_none_of_the_classic_properties() -> None:
    """The client would refuse them. The classic protocol keeps them."""
    kafka = settings(group_protocol="consumer")
    config = client_config.consumer(kafka)
    assert not set(_CLASSIC_ONLY) & config.keys()
    Consumer(config).close()
    assert set(_CLASSIC_ONLY) <= client_config.consumer(settings()).keys()
    assert set(_CLASSIC_ONLY) <= client_config.consumer(settings(group_protocol="classic")).keys()
