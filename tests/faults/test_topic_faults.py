"""Topics that change while a scorer runs: partitions, limits, deletion, lost and damaged records."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from consumer.embedded_kafka.broker import free_port
from consumer.kafka.admin import ClusterAdmin, TopicSpec

pytestmark = pytest.mark.faults

_BATCH_LENGTH_AT = 8
"""Where a record batch tells its length from there on (Kafka protocol, "Record Batch")."""
_ANSWER_WITHIN_S = 30


@pytest.fixture
def admin(broker: Any) -> AdminClient:
    """A client that changes topics."""
    return AdminClient({"bootstrap.servers": broker.direct})


def test_partitions_added(admin: AdminClient, deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """A partition that is added is read from its first event."""
    service = deploy(client={"topic.metadata.refresh.interval.ms": 1_000})
    service.start("score")
    service.stream(50_000).result()
    wanted = NewPartitions(service.topics["events"], 7)
    admin.create_partitions([wanted])[wanted.topic].result(_ANSWER_WITHIN_S)
    service.await_that(lambda: len(service.ends()) == 7, 30, "no new partitions")
    service.stream(50_000).result()
    service.await_decided()
    assert all(end > 0 for end in service.ends().values())
    holds("partitions added while running", "4 to 7", service.verdict())


def test_dead_letter_limit_lowered(
    admin: AdminClient, deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """As the limit falls, batches become smaller, then dead letters shorter; nothing is blocked."""
    service = deploy()
    # The limit is that of a whole record batch: two dead letters that do not fit into one need a
    # transaction each. So only a few events arrive until the limit is raised again.
    flowing = service.flow(100_000, seconds=500)
    service.start("score")
    limits = (10_000, 4_000, 2_000, 1_000_000)
    for limit in limits:
        service.await_progress()
        resource = ConfigResource(
            ResourceType.TOPIC,
            service.topics["dead_letters"],
            incremental_configs=[
                ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
            ],
        )
        admin.incremental_alter_configs([resource])[resource].result(_ANSWER_WITHIN_S)
        time.sleep(2)
    flowing.result()
    service.await_decided(300)
    injected = f"{len(limits) - 1} times, then raised"
    holds("max.message.bytes of dead letters lowered", injected, service.verdict())


@pytest.mark.parametrize("kind", ["dead_letters", "predictions"])
def test_output_topic_deleted(
    admin: AdminClient, deploy: Callable[..., Any], holds: Callable[..., None], kind: str
) -> None:
    """The scorer is not ready, does not exit, and continues once the topic exists again."""
    service = deploy()
    port = free_port()
    scorer = service.start("score", HTTP__SCORE_PORT=str(port))
    service.await_that(lambda: service.conditions(port) == {}, 60, "never ready")
    admin.delete_topics([service.topics[kind]])[service.topics[kind]].result(_ANSWER_WITHIN_S)
    time.sleep(2)
    service.stream(100_000).result()
    service.await_that(lambda: bool(service.conditions(port)), 60, "a lost topic is no trouble")
    time.sleep(5)
    assert scorer.exit_code is None, service.logs()
    partitions = 1 if kind == "dead_letters" else service.partitions
    spec = TopicSpec(name=service.topics[kind], partitions=partitions)
    ClusterAdmin({"bootstrap.servers": service.servers}, timeout_s=60).create_topics([spec])
    service.await_decided()
    service.await_that(lambda: service.conditions(port) == {}, 60, "trouble does not end")
    assert scorer.exit_code is None, service.logs()
    holds(f"topic of {kind.replace('_', ' ')} deleted and created again", "once", service.verdict())


def test_events_lost_before_they_were_read(admin: AdminClient, deploy: Callable[..., Any]) -> None:
    """There is no silent jump: the scorer names partition and offset, and reads the other partitions."""
    service = deploy()
    service.stream(8_000).result()
    scorer = service.start("score")
    service.await_decided()
    scorer.kill()
    decided = service.committed()
    service.stream(8_000).result()
    lost = TopicPartition(service.topics["events"], 0, decided[0] + 100)
    admin.delete_records([lost])[lost].result(_ANSWER_WITHIN_S)
    port = free_port()
    service.start("score", HTTP__SCORE_PORT=str(port))
    others = {1, 2, 3}
    service.await_that(
        lambda: all(service.committed()[p] == service.ends()[p] for p in others), 60, "others do not go on"
    )
    time.sleep(2)
    reason = service.conditions(port)["partition"]
    assert f"[0] at offset {decided[0]}" in reason
    assert service.committed()[0] == decided[0]


def test_damaged_batch(broker: Any, deploy: Callable[..., Any]) -> None:
    """A wrong checksum stops its partition and is reported; the other partitions continue."""
    service = deploy(partitions=2)
    service.stream(4_000).result()
    broker.kafka.stop(1)
    (segment,) = broker.kafka._data_dir.glob(f"node-1/data/{service.topics['events']}-0/*.log")
    with segment.open("r+b") as log:
        # The end of the first batch, which its checksum covers. Its length varies from run to run.
        log.seek(_BATCH_LENGTH_AT)
        log.seek(int.from_bytes(log.read(4), "big") - 4, os.SEEK_CUR)
        log.write(b"\xff\xff\xff\xff")
    broker.kafka.restart(1)
    port = free_port()
    scorer = service.start("score", HTTP__SCORE_PORT=str(port))
    service.await_that(lambda: service.committed()[1] == service.ends()[1], 60, "the other does not go on")
    service.await_that(lambda: "partition" in service.conditions(port), 60, "damage is no trouble")
    assert f"{service.topics['events']}[0] at offset 0" in service.conditions(port)["partition"]
    assert service.committed()[0] == 0
    assert scorer.exit_code is None
