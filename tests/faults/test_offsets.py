"""Committed offsets that are gone: the scorers find from their outputs where they were."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import ServiceError
from consumer.kafka.admin import ClusterAdmin
from tests.faults.crash_points import without_markers
from tests.faults.service import Service

pytestmark = pytest.mark.faults

_EXPIRING = {
    "transactional.id.expiration.ms": "2000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    "producer.id.expiration.ms": "2000",
    "producer.id.expiration.check.interval.ms": "500",
}
_EXPIRED_AFTER_S = 6.0


def delete_group(service: Service, admin: ClusterAdmin) -> None:
    """Delete the scorers' group, as soon as the sessions of its killed members have timed out."""

    def deleted() -> bool:
        try:
            admin.delete_group(service.group)
        except ServiceError:  # it still has members
            return False
        return True

    service.await_that(deleted, 60, "the group still has members")


def test_offsets_deleted_under_two_scorers(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """The group is deleted between two runs of both scorers, one of them killed, while events arrive."""
    service = deploy(partitions=6)
    admin = ClusterAdmin({"bootstrap.servers": service.servers})
    flowing = service.flow(100_000, seconds=60)
    rounds, recoveries_s = 3, []
    scorers = [service.start("score", instance) for instance in "ab"]
    service.await_progress()
    for i in range(rounds):
        time.sleep(2)
        scorers[i % 2].kill()
        scorers[1 - i % 2].send(signal.SIGTERM)
        assert scorers[1 - i % 2].wait(30) == 0, service.logs()
        delete_group(service, admin)
        started_s = time.monotonic()
        scorers = [service.start("score", instance) for instance in "ab"]
        service.await_progress()
        recoveries_s.append(time.monotonic() - started_s)
    flowing.result()
    service.await_decided()
    resumed = sum(process.output().count("resuming behind the last outputs") for process in service.processes)
    assert resumed >= rounds, service.logs()
    holds("the group's offsets deleted", f"{rounds} times, under 2 scorers", service.verdict(), recoveries_s)


def test_the_outputs_of_the_former_version_are_resumed(
    deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """Version 0.1 committed offsets without a marker; they are deleted before the first start of this one."""
    service = deploy(partitions=6)
    admin = ClusterAdmin({"bootstrap.servers": service.servers})
    flowing = service.flow(100_000, seconds=20)
    scorers = [service.start("score", instance, wire=without_markers) for instance in "ab"]
    service.await_progress()
    time.sleep(5)
    scorers[0].kill()
    scorers[1].send(signal.SIGTERM)
    assert scorers[1].wait(30) == 0, service.logs()
    committed = admin.committed_offsets(service.group, service.topics["events"], range(6))
    assert {metadata for _, metadata in committed.values()} <= {"", None}
    delete_group(service, admin)
    started_s = time.monotonic()
    for instance in "ab":
        service.start("score", instance)
    service.await_progress()
    recovery_s = time.monotonic() - started_s
    flowing.result()
    service.await_decided()
    assert any("resuming behind the last outputs" in process.output() for process in service.processes)
    holds("upgrade, the group's offsets deleted", "once, under 2 scorers", service.verdict(), [recovery_s])


def test_a_transactional_id_that_has_expired(
    tmp_path_factory: pytest.TempPathFactory, store: Path, tmp_path: Path, holds: Callable[..., None]
) -> None:
    """The broker forgets the id of a scorer that was idle; the scorer goes on with the next event."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("expiring"), properties=_EXPIRING, remove_data=True)
    with kafka, Service(kafka.bootstrap_servers, tmp_path, store) as service:
        scorer = service.start("score")
        rounds, recoveries_s = 3, []
        for _ in range(rounds):
            service.stream(500).result()
            sent_s = time.monotonic()
            service.await_decided()
            recoveries_s.append(time.monotonic() - sent_s)
            time.sleep(_EXPIRED_AFTER_S)
        scorer.send(signal.SIGTERM)
        assert scorer.wait(30) == 0, service.logs()
        # The first round made the id, and the others found it expired.
        assert scorer.output().count("batch not committed, trying again") >= rounds - 1
        time.sleep(_EXPIRED_AFTER_S)
        scorer = service.start("score")
        service.stream(500).result()
        service.await_decided()
        assert scorer.exit_code is None, service.logs()
        holds("the transactional id expired", f"{rounds} times", service.verdict(), recoveries_s)
