"""The fault proxy before a real broker, and the hazard it exists to produce."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import Unavailable
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from tests.faults.proxy import END_TXN, KafkaProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedKafka, KafkaProxy]]:
    """A broker whose only advertised address is the proxy's."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=256)
    with KafkaProxy(kafka.client_address(1)) as proxy:
        kafka.advertise(1, proxy.address)
        with kafka:
            yield kafka, proxy


def _committed(servers: str, topic: str, count: int) -> list[bytes | None]:
    """Read the first messages that a read_committed reader sees of partition 0, waiting up to 10 s."""
    reader = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    try:
        reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        return [message.value() for message in reader.consume(count, 10.0)]
    finally:
        reader.close()


def test_a_late_end_txn_commits_the_next_transaction_of_the_same_producer(
    proxied: tuple[EmbeddedKafka, KafkaProxy],
) -> None:
    """The held EndTxn is retried and succeeds; delivered later, it commits what nobody committed."""
    kafka, proxy = proxied
    ClusterAdmin({"bootstrap.servers": kafka.bootstrap_servers}).create_topics(
        [TopicSpec(name="late", partitions=1)]
    )
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": "late"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce("late", b"first")
    producer.flush(10)
    proxy.hold(END_TXN)
    producer.commit_transaction(20)
    assert proxy.wait_until_held(0)
    assert proxy.requests[END_TXN] == 2

    producer.begin_transaction()
    producer.produce("late", b"second, never committed")
    producer.flush(10)
    (answer,) = proxy.release()
    _throttle_ms, error_code = struct.unpack_from(">ih", answer)

    assert error_code == 0
    assert _committed(kafka.bootstrap_servers, "late", 2) == [b"first", b"second, never committed"]
    with pytest.raises(KafkaException):
        producer.abort_transaction(20)


def test_a_black_hole_makes_the_broker_unavailable_until_it_ends(
    proxied: tuple[EmbeddedKafka, KafkaProxy],
) -> None:
    """A real client times out in it and gets through afterwards."""
    kafka, proxy = proxied
    client_config = {"bootstrap.servers": kafka.bootstrap_servers}
    proxy.swallow()
    with pytest.raises(Unavailable):
        ClusterAdmin(client_config, timeout_s=1).cluster()
    proxy.pass_on()
    assert ClusterAdmin(client_config).cluster().broker_ids == {1}
