"""`doctor` on a real broker passes a sound deployment, and names what is wrong with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from consumer.kafka.client_config import transactional_producer
from consumer.kafka.trial import try_commit
from consumer.settings import KafkaSettings
from tests.support.events import good

pytestmark = pytest.mark.broker


def doctor(service: Any, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]], str]:
    """Return the exit code, the checks by name, and what standard error says."""
    done = subprocess.run(  # noqa: S603 - every word is ours
        [sys.executable, "-m", "consumer", *options, "doctor", "--json"],
        env=os.environ | service.environment | {"PURCHASE_STREAM_HTTP__SERVE_PORT": "0"},
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        checks.setdefault(check["check"], []).append(check)
    return done.returncode, checks, done.stderr


def test_a_sound_deployment_passes_and_is_left_as_it_was(deploy: Callable[..., Any]) -> None:
    """With a transaction of its own, under a group that is gone afterwards."""
    service = deploy()
    code, checks, said = doctor(service)
    assert (code, said) == (0, "")
    assert {check["status"] for found in checks.values() for check in found} <= {"ok", "warn"}
    assert [check["status"] for check in checks["transactions"]] == ["ok"]
    assert [check["status"] for check in checks["clock"]] == ["ok"]
    groups = AdminClient({"bootstrap.servers": service.servers}).list_consumer_groups().result(10).valid
    assert f"{service.topics['EVENTS']}-doctor" not in {group.group_id for group in groups}


def test_what_is_wrong_is_named_with_the_code_of_the_contract(deploy: Callable[..., Any]) -> None:
    """78 for what must be corrected, 75 for what may pass by itself."""
    service = deploy()
    code, checks, said = doctor(
        service, "--set", "topics.predictions=nowhere", "--set", "model_store.path=empty"
    )
    assert (code, said.count("\n")) == (78, 1)
    assert checks["model"][0]["status"] == "fail"
    assert [c["found"] for c in checks["topics"] if c["status"] == "fail"] == [
        "no topic nowhere, where predictions go"
    ]
    code, checks, _ = doctor(service, "--set", "kafka.bootstrap_servers=127.0.0.1:1")
    assert (code, checks["broker"][0]["status"]) == (75, "fail")
    code, checks, _ = doctor(service, "--set", "kafka.grup_id=x")
    assert (code, list(checks)) == (78, ["settings"])


def test_a_group_without_scorers_is_a_warning(deploy: Callable[..., Any]) -> None:
    """There is something to decide, and nobody to do it."""
    service = deploy()
    service.produce([(b"k", good(), 0), (b"k", good(), 0)])
    code, checks, _ = doctor(service)
    assert (code, checks["group"][0]["status"]) == (0, "ok")
    assert "is new" in checks["group"][0]["found"]
    events = service.topics["EVENTS"]
    group = Consumer({"bootstrap.servers": service.servers, "group.id": events})
    group.commit(offsets=[TopicPartition(events, 0, 1)], asynchronous=False)
    group.close()
    code, checks, _ = doctor(service)
    assert (code, checks["group"][0]["status"]) == (0, "warn")
    assert "1 events to decide" in checks["group"][0]["found"]


def test_a_transaction_that_stays_open_is_noticed(deploy: Callable[..., Any]) -> None:
    """Committed readers cannot get at what is behind it."""
    service = deploy()
    hanging = Producer({"bootstrap.servers": service.servers, "transactional.id": service.topics["EVENTS"]})
    hanging.init_transactions(20)
    hanging.begin_transaction()
    hanging.produce(service.topics["PREDICTIONS"], b"x", partition=0)
    hanging.flush(10)
    _, checks, _ = doctor(service)
    hanging.abort_transaction(20)
    assert [c["status"] for c in checks["transactions"]] == ["ok", "warn"]
    assert f"{service.topics['PREDICTIONS']}[0] at 0" in checks["transactions"][1]["found"]


@pytest.mark.parametrize("exactly_once", [True, False])
def test_the_clock_is_read_off_the_commit(deploy: Callable[..., Any], *, exactly_once: bool) -> None:
    """On one machine broker and client have the same."""
    service = deploy()
    config = transactional_producer(KafkaSettings(bootstrap_servers=service.servers, group_id="clock"))
    if not exactly_once:
        del config["transactional.id"], config["transaction.timeout.ms"]
    name = f"{service.topics['EVENTS']}-trial"
    trial = try_commit(config, service.topics["EVENTS"], name, exactly_once=exactly_once)
    assert trial.broker_ahead_s is not None
    assert abs(trial.broker_ahead_s) < 0.5


def test_more_in_sync_replicas_than_there_are_is_a_warning(deploy: Callable[..., Any]) -> None:
    """Kafka 4.1 takes such a topic's records all the same."""
    service = deploy()
    topic, admin = service.topics["PREDICTIONS"], AdminClient({"bootstrap.servers": service.servers})
    change = ConfigEntry("min.insync.replicas", "2", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)
    code, checks, _ = doctor(service)
    assert code == 0
    (said,) = [check for check in checks["topics"] if topic in check["found"]]
    assert (said["status"], "min.insync.replicas is 2" in said["found"]) == ("warn", True)
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": service.servers, "acks": "all", "message.timeout.ms": 5000})
    producer.produce(topic, b"x", on_delivery=lambda error, _: failures.append(error))
    producer.flush(10)
    assert failures == [None]
