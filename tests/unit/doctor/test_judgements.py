"""What is said of each state of things, and with which weight."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.conditions import Conditions, Name
from consumer.doctor.broker import judge_clock, judge_group
from consumer.doctor.check import Check, Status
from consumer.doctor.local import (
    examine_audit_log,
    examine_model,
    examine_port,
    examine_registry,
    examine_settings,
    judge_disk,
)
from consumer.doctor.topics import judge_topics
from consumer.health import HttpServer, health_routes
from consumer.kafka.cluster_facts import TopicSetup
from consumer.kafka.group_progress import Progress
from consumer.kafka.trial import Trial, offsets_partition
from consumer.settings import (
    AuditSettings,
    KafkaSettings,
    ModelStoreSettings,
    SchemaRegistrySettings,
    Settings,
    TopicSettings,
)

NAMES = TopicSettings()
SOUND = TopicSetup(partitions=3, replicas=3, min_insync_replicas=2)
ALL = dict.fromkeys(NAMES.model_dump().values(), SOUND)


def worst(checks: Iterator[Check]) -> tuple[Status, str]:
    """Return the heaviest status, and all that is not ok."""
    found = list(checks)
    bad = [check for check in found if check.status is not Status.OK]
    order = [Status.OK, Status.WARN, Status.FAIL]
    return max((check.status for check in found), key=order.index), " ".join(check.line() for check in bad)


def test_sound_topics_are_ok() -> None:
    """A line for each."""
    assert worst(judge_topics(NAMES, ALL, 3)) == (Status.OK, "")
    assert len(list(judge_topics(NAMES, ALL, 3))) == 5


@pytest.mark.parametrize(
    ("topic", "setup", "status", "word"),
    [
        (NAMES.events, None, Status.FAIL, "topics create"),
        (NAMES.dead_letters, None, Status.FAIL, "topics create"),
        (NAMES.outcomes, None, Status.WARN, "precision"),
        (NAMES.control, None, Status.WARN, "retraining"),
        (NAMES.events, replace(SOUND, without_leader=1), Status.FAIL, "no leader"),
        (NAMES.events, replace(SOUND, under_replicated=1), Status.WARN, "miss a replica"),
        (
            NAMES.predictions,
            replace(SOUND, replicas=1, min_insync_replicas=2),
            Status.FAIL,
            "min.insync.replicas",
        ),
        (NAMES.predictions, replace(SOUND, replicas=1, min_insync_replicas=1), Status.WARN, "one replica"),
        (NAMES.predictions, replace(SOUND, cleanup_policy="compact"), Status.FAIL, "cleanup.policy"),
        (NAMES.control, replace(SOUND, cleanup_policy="compact"), Status.OK, ""),
        (NAMES.events, replace(SOUND, retention_ms=3_600_000), Status.WARN, "1 hours"),
        (NAMES.dead_letters, replace(SOUND, retention_ms=2 * 24 * 3_600_000), Status.WARN, "less long"),
        (NAMES.dead_letters, replace(SOUND, retention_ms=-1), Status.OK, ""),
        (NAMES.events, replace(SOUND, retention_ms=-1), Status.WARN, "less long"),
        (NAMES.dead_letters, replace(SOUND, max_message_bytes=1000), Status.WARN, "truncated"),
        (NAMES.predictions, replace(SOUND, max_message_bytes=100), Status.FAIL, "max.message.bytes"),
    ],
)
def test_each_trouble_with_a_topic_is_named(
    topic: str, setup: TopicSetup | None, status: Status, word: str
) -> None:
    """With what to do about it."""
    found = {**ALL, topic: setup}
    judged, said = worst(judge_topics(NAMES, {name: s for name, s in found.items() if s is not None}, 3))
    assert judged is status
    assert word in said


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [
        (0.0, Status.OK),
        (0.9, Status.OK),
        (-2.0, Status.WARN),
        (90.0, Status.WARN),
        (4000.0, Status.WARN),
        (-4000.0, Status.FAIL),
        (None, Status.WARN),
    ],
)
def test_clocks(ahead_s: float | None, status: Status) -> None:
    """Only a clock of ours that runs an hour ahead makes the broker refuse records."""
    assert judge_clock(Trial(0.01, ahead_s)).status is status


@pytest.mark.parametrize(
    ("state", "members", "committed", "status", "word"),
    [
        ("STABLE", 2, 10, Status.OK, ""),
        ("EMPTY", 0, 20, Status.OK, ""),
        ("EMPTY", 0, 10, Status.WARN, "nobody scores"),
        ("PREPARING_REBALANCING", 2, 10, Status.WARN, "never settles"),
        ("STABLE", 2, 4, Status.FAIL, "1 events expired"),
        ("STABLE", 2, 21, Status.FAIL, "created anew"),
    ],
)
def test_groups(state: str, members: int, committed: int, status: Status, word: str) -> None:
    """Offsets that the topic does not have are a decision for a person."""
    judged, said = worst(judge_group("g", "t", state, members, Progress({0: committed}, {0: 20}), {0: 5}))
    assert judged is status
    assert word in said


@pytest.mark.parametrize(("free_mib", "status"), [(10_000, Status.OK), (900, Status.WARN), (10, Status.FAIL)])
def test_disks(free_mib: int, status: Status) -> None:
    """Two segments' worth of room at least."""
    assert judge_disk(Path(), free_mib * 2**20, 256 * 2**20).status is status


def test_the_offsets_partition_is_kafkas() -> None:
    """Values of Java's Utils.abs(group.hashCode()) % 50."""
    assert [offsets_partition(group, 50) for group in ("", "a", "purchase-stream", "ä€")] == [
        0, 97 % 50, abs(_java("purchase-stream")) % 50, abs(_java("ä€")) % 50,
    ]  # fmt: skip


def _java(text: str) -> int:
    code = sum(ord(char) * 31 ** (len(text) - 1 - i) for i, char in enumerate(text)) % 2**32
    return code - 2**32 if code >= 2**31 else code


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ({}, Status.OK),
        ({"sasl.password": "hunter2"}, Status.OK),
        ({"enable.auto.commit": True}, Status.FAIL),
        ({"isolation.level": "read_uncommitted"}, Status.FAIL),
        ({"acks": 1}, Status.FAIL),
    ],
)
def test_settings_that_break_the_promise_are_failures(client: dict[str, Any], status: Status) -> None:
    """And secrets are masked."""
    checks = list(examine_settings(Settings(kafka=KafkaSettings(client=client))))
    assert worst(iter(checks))[0] is status
    assert "hunter2" not in " ".join(check.line() for check in checks)


def test_a_missing_model_is_a_failure_that_says_how_to_get_one(tmp_path: Path) -> None:
    """In the store's words."""
    judged, said = worst(examine_model(Settings(model_store=ModelStoreSettings(path=tmp_path))))
    assert judged is Status.FAIL
    assert "train --promote" in said


def test_a_registry_that_is_away_is_an_outage() -> None:
    """It may be back by itself."""
    registry = SchemaRegistrySettings(url="http://127.0.0.1:1", client={"max.retries": 0})
    (check,) = examine_registry(Settings(schema_registry=registry))
    assert (check.status, check.exit_code) == (Status.FAIL, 75)


@pytest.mark.parametrize(
    ("log", "checkpoint", "word"),
    [
        (None, None, None),
        (b"line\n", None, "no checkpoint"),
        (b"line\n", b"nonsense", "no usable checkpoint"),
        (b"li", b'{"source": {}, "length_bytes": 5}', "somebody cut it"),
    ],
)
def test_a_log_and_its_checkpoint(
    tmp_path: Path, log: bytes | None, checkpoint: bytes | None, word: str | None
) -> None:
    """What the monitor would refuse is a failure here."""
    path = tmp_path / "log.jsonl"
    if log is not None:
        path.write_bytes(log)
    if checkpoint is not None:
        path.with_name("log.jsonl.checkpoint").write_bytes(checkpoint)
    judged, said = worst(examine_audit_log(Settings(audit=AuditSettings(path=path))))
    assert (judged is Status.FAIL) == (word is not None)
    assert word is None or word in said


@pytest.fixture
def role() -> Iterator[Callable[..., int]]:
    """A function that starts a role's HTTP endpoints and returns their port."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only here

    servers = []

    def start(**reasons: str) -> int:
        conditions = Conditions(lambda: 0.0)
        for name, reason in reasons.items():
            conditions.set(Name(name), reason)
        servers.append(HttpServer(health_routes(conditions, CollectorRegistry()), "127.0.0.1", 0))
        servers[-1].start()
        return servers[-1].port

    yield start
    for server in servers:
        server.stop()


def test_a_role_that_answers_says_how_it_is(role: Callable[..., int]) -> None:
    """Ready, or why not."""
    assert examine_port("score", "127.0.0.1", role()).status is Status.OK
    check = examine_port("score", "127.0.0.1", role(model="none is loaded"))
    assert (check.status, "model: none is loaded" in check.what) == (Status.WARN, True)


def test_a_port_is_free_or_somebody_elses() -> None:
    """Another program's answer is no health."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "is free" in examine_port("monitor", "127.0.0.1", port).what
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        check = examine_port("monitor", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (check.status, "another program" in check.what) == (Status.FAIL, True)
    assert examine_port("monitor", "127.0.0.1", 0).status is Status.OK
