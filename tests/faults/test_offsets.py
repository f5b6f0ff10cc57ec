"""Committed offsets that are gone: the scorers find from their outputs where they were."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import ServiceError
from consumer.kafka.admin import ClusterAdmin

pytestmark = pytest.mark.faults


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

        def group_deleted() -> bool:
            try:
                admin.delete_group(service.group)
            except ServiceError:  # it has members until their sessions time out
                return False
            return True

        service.await_that(group_deleted, 60, "the group still has members")
        started_s = time.monotonic()
        scorers = [service.start("score", instance) for instance in "ab"]
        service.await_progress()
        recoveries_s.append(time.monotonic() - started_s)
    flowing.result()
    service.await_decided()
    resumed = sum(process.output().count("resuming behind the last outputs") for process in service.processes)
    assert resumed >= rounds, service.logs()
    holds("the group's offsets deleted", f"{rounds} times, under 2 scorers", service.verdict(), recoveries_s)
