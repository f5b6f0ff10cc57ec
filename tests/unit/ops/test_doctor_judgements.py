"""Each state gets the right severity and advice."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import Condition
from consumer.kafka.admin import GroupLag, TopicSetup
from consumer.kafka.trial import Trial, offsets_partition
from consumer.ops.acls import Resource, User, grants
from consumer.ops.doctor.broker import judge_clock, judge_group, judge_rights, judge_topics
from consumer.ops.doctor.check import BUG, Check, CheckStatus, guarded
from consumer.ops.doctor.local import (
    examine_audit_log,
    examine_model,
    examine_port,
    examine_registry,
    examine_settings,
    judge_disk,
)
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.readiness import Readiness
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


def worst(checks: Iterator[Check]) -> tuple[CheckStatus, str]:
    """Return the heaviest status, and all that is not ok."""
    found = list(checks)
    bad = [check for check in found if check.status is not CheckStatus.OK]
    order = [CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL]
    return max((check.status for check in found), key=order.index), " ".join(check.line() for check in bad)


def test_sound_topics_are_ok() -> None:
    """A line for each."""
    assert worst(judge_topics(NAMES, ALL, 3)) == (CheckStatus.OK, "")
    assert len(list(judge_topics(NAMES, ALL, 3))) == 5


@pytest.mark.parametrize(
    ("topic", "setup", "status", "word"),
    [
        (NAMES.events, None, CheckStatus.FAIL, "topics create"),
        (NAMES.dead_letters, None, CheckStatus.FAIL, "topics create"),
        (NAMES.outcomes, None, CheckStatus.WARN, "precision"),
        (NAMES.control, None, CheckStatus.WARN, "retraining"),
        (NAMES.events, replace(SOUND, without_leader=1), CheckStatus.FAIL, "no leader"),
        (NAMES.events, replace(SOUND, under_replicated=1), CheckStatus.WARN, "miss a replica"),
        (
            NAMES.predictions,
            replace(SOUND, replicas=1, min_insync_replicas=2),
            CheckStatus.WARN,
            "min.insync.replicas",
        ),
        (
            NAMES.predictions,
            replace(SOUND, replicas=1, min_insync_replicas=1),
            CheckStatus.WARN,
            "one replica",
        ),
        (NAMES.predictions, replace(SOUND, cleanup_policy="compact"), CheckStatus.FAIL, "cleanup.policy"),
        (NAMES.control, replace(SOUND, cleanup_policy="compact"), CheckStatus.OK, ""),
        (NAMES.events, replace(SOUND, retention_ms=3_600_000), CheckStatus.WARN, "1 hours"),
        (NAMES.dead_letters, replace(SOUND, retention_ms=2 * 24 * 3_600_000), CheckStatus.WARN, "less long"),
        (NAMES.dead_letters, replace(SOUND, retention_ms=-1), CheckStatus.OK, ""),
        (NAMES.events, replace(SOUND, retention_ms=-1), CheckStatus.WARN, "less long"),
        (NAMES.dead_letters, replace(SOUND, max_message_bytes=1000), CheckStatus.WARN, "truncated"),
        (NAMES.predictions, replace(SOUND, max_message_bytes=100), CheckStatus.FAIL, "max.message.bytes"),
    ],
)
def test_each_trouble_with_a_topic_is_named(
    topic: str, setup: TopicSetup | None, status: CheckStatus, word: str
) -> None:
    """With what to do about it."""
    found = {**ALL, topic: setup}
    judged, said = worst(judge_topics(NAMES, {name: s for name, s in found.items() if s is not None}, 3))
    assert judged is status
    assert word in said


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [
        (0.0, CheckStatus.OK),
        (0.9, CheckStatus.OK),
        (-2.0, CheckStatus.WARN),
        (90.0, CheckStatus.WARN),
        (4000.0, CheckStatus.WARN),
        (-4000.0, CheckStatus.FAIL),
        (None, CheckStatus.WARN),
    ],
)
def test_clocks(ahead_s: float | None, status: CheckStatus) -> None:
    """The broker refuses records only if our clock is an hour ahead."""
    assert judge_clock(Trial(0.01, ahead_s)).status is status


@pytest.mark.parametrize(
    ("state", "members", "committed", "status", "word"),
    [
        ("STABLE", 2, 10, CheckStatus.OK, ""),
        ("EMPTY", 0, 20, CheckStatus.OK, ""),
        ("EMPTY", 0, 10, CheckStatus.WARN, "no scorer runs"),
        ("PREPARING_REBALANCING", 2, 10, CheckStatus.WARN, "never settles"),
        ("STABLE", 2, 4, CheckStatus.FAIL, "1 events expired"),
        ("STABLE", 2, 21, CheckStatus.FAIL, "created again"),
    ],
)
def test_groups(state: str, members: int, committed: int, status: CheckStatus, word: str) -> None:
    """Offsets that the topic does not have are a decision for a person."""
    judged, said = worst(judge_group("g", "t", state, members, GroupLag({0: committed}, {0: 20}), {0: 5}))
    assert judged is status
    assert word in said


def test_a_new_group_is_no_trouble() -> None:
    """It has committed nothing, and so lost nothing."""
    lag = GroupLag({0: 5}, {0: 20})
    (check,) = judge_group("g", "t", "DEAD", 0, lag, {0: 5}, has_committed=False)
    assert check.status is CheckStatus.OK
    assert "new" in check.what
    assert "15 events" in check.what


@pytest.mark.parametrize(
    ("free_mib", "status"), [(10_000, CheckStatus.OK), (900, CheckStatus.WARN), (10, CheckStatus.FAIL)]
)
def test_disks(free_mib: int, status: CheckStatus) -> None:
    """The disk needs room for at least two segments."""
    assert judge_disk(Path(), free_mib * 2**20, 256 * 2**20).status is status


def test_the_offsets_partition_is_kafkas() -> None:
    """Values of Java's Utils.abs(group.hashCode()) % 50."""
    assert [offsets_partition(group, 50) for group in ("", "a", "purchase-stream", "ä€")] == [
        0, 97 % 50, abs(_java("purchase-stream")) % 50, abs(_java("ä€")) % 50,
    ]  # fmt: skip


def _java(text: str) -> int:
    code: int = sum(ord(char) * 31 ** (len(text) - 1 - i) for i, char in enumerate(text)) % 2**32
    return code - 2**32 if code >= 2**31 else code


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ({}, CheckStatus.OK),
        ({"sasl.password": "hunter2"}, CheckStatus.OK),
        ({"enable.auto.commit": True}, CheckStatus.FAIL),
        ({"isolation.level": "read_uncommitted"}, CheckStatus.FAIL),
        ({"acks": 1}, CheckStatus.FAIL),
    ],
)
def test_settings_that_break_the_promise_are_failures(client: dict[str, Any], status: CheckStatus) -> None:
    """And secrets are masked."""
    checks = list(examine_settings(Settings(kafka=KafkaSettings(client=client))))
    assert worst(iter(checks))[0] is status
    assert "hunter2" not in " ".join(check.line() for check in checks)


def test_a_missing_model_is_a_failure_that_says_how_to_get_one(tmp_path: Path) -> None:
    """In the store's words."""
    judged, said = worst(
        guarded("model", examine_model(Settings(model_store=ModelStoreSettings(path=tmp_path))))
    )
    assert judged is CheckStatus.FAIL
    assert "train --promote" in said


def test_a_check_that_breaks_is_a_failure_and_no_exception() -> None:
    """The checks after it still run."""

    def broken() -> Iterator[Check]:
        yield Check("a", CheckStatus.OK, "fine")
        raise ZeroDivisionError("oops")

    fine, failed = guarded("b", broken())
    assert fine.status is CheckStatus.OK
    assert (failed.name, failed.status, failed.exit_code) == ("b", CheckStatus.FAIL, BUG)
    assert "oops" in failed.what


def test_a_registry_that_is_away_is_an_outage() -> None:
    """It may be back by itself."""
    registry = SchemaRegistrySettings(url="http://127.0.0.1:1", client={"max.retries": 0})
    (check,) = examine_registry(Settings(schema_registry=registry))
    assert (check.status, check.exit_code) == (CheckStatus.FAIL, 75)


@pytest.mark.parametrize(
    ("log", "checkpoint", "word"),
    [
        (None, None, None),
        (b"line\n", None, "no checkpoint"),
        (b"line\n", b"nonsense", "not a valid checkpoint"),
        (b"li", b'{"source": {}, "length_bytes": 5}', "it was truncated"),
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
    assert (judged is CheckStatus.FAIL) == (word is not None)
    assert word is None or word in said


@pytest.fixture
def role() -> Iterator[Callable[..., int]]:
    """A function that starts a role's HTTP endpoints and returns their port."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only here

    servers = []

    def start(**reasons: str) -> int:
        conditions = Readiness(lambda: 0.0)
        for name, reason in reasons.items():
            conditions.set(Condition(name), reason)
        servers.append(HttpServer(health_routes(conditions, CollectorRegistry()), "127.0.0.1", 0))
        servers[-1].start()
        return servers[-1].port

    yield start
    for server in servers:
        server.stop()


def test_a_role_that_answers_says_how_it_is(role: Callable[..., int]) -> None:
    """Ready, or why not."""
    assert examine_port("score", "127.0.0.1", role()).status is CheckStatus.OK
    check = examine_port("score", "127.0.0.1", role(model="none is loaded"))
    assert (check.status, "model: none is loaded" in check.what) == (CheckStatus.WARN, True)


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
    assert (check.status, "another program" in check.what) == (CheckStatus.FAIL, True)
    assert examine_port("monitor", "127.0.0.1", 0).status is CheckStatus.OK


def test_a_right_that_the_broker_does_not_allow_is_named() -> None:
    """What the broker does not tell is not held against the user."""
    allowed: dict[tuple[Resource, str], list[str]] = {
        ("topic", NAMES.events): ["DESCRIBE", "READ"],
        ("topic", NAMES.predictions): ["DESCRIBE"],
        ("group", "purchase-stream"): ["DESCRIBE"],
    }
    check = judge_rights(User.SCORE, grants(Settings(), User.SCORE), allowed)
    assert check.status is CheckStatus.WARN
    assert check.what == (
        "the user of these settings cannot run score: it lacks Write on topic purchase-predictions,"
        " Read on topic purchase-predictions, Read on group purchase-stream"
    )
    allowed["topic", NAMES.predictions].append("WRITE")
    assert judge_rights(User.SERVE, grants(Settings(), User.SERVE), allowed).status is CheckStatus.OK


def test_a_topic_that_cannot_be_described_is_not_called_missing() -> None:
    """Its own check says why; the others are judged."""
    found = {name: SOUND for name in NAMES.model_dump().values() if name != NAMES.events}
    checks = list(judge_topics(NAMES, found, 3, {NAMES.events}))
    assert {check.status for check in checks} == {CheckStatus.OK}
    assert len(checks) == len(found)
