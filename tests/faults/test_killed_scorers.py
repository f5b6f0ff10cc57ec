"""Scorers that are killed at random instants and at every step of a transaction, or forced to abort."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import crash_points

pytestmark = pytest.mark.faults


def test_scorers_killed_at_random_instants(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """One of two scorers is killed and restarted 36 times while 100,000 events flow."""
    service = deploy()
    kills = 36
    flowing = service.flow(100_000, seconds=45)
    scorers = {instance: service.start("score", instance) for instance in "ab"}
    random_source = random.Random(1)
    service.await_progress()
    for _ in range(kills):
        time.sleep(random_source.uniform(0.05, 1.6))
        instance = random_source.choice("ab")
        scorers[instance].kill()
        scorers[instance] = service.start("score", instance)
    flowing.result()
    service.await_decided()
    holds("SIGKILL of scorers at random instants", f"{kills} kills", service.verdict())


def test_scorers_killed_at_every_named_point(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """Ten kills at each crash point leave no trace in the outputs."""
    service = deploy()
    service.stream(100_000).result()
    kills = 10
    for point in crash_points.POINTS:
        for i in range(kills):
            killed = service.start("score", wire=crash_points.dies(point, 1 + i % 3))
            assert killed.wait(60) == -9, service.logs()
    assert service.committed() != service.ends(), "they were killed too late to matter"
    service.start("score")
    service.await_decided()
    holds(f"SIGKILL {', '.join(crash_points.POINTS)}", f"{kills} kills at each", service.verdict())


def test_every_third_transaction_is_forced_to_abort(
    deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """It is aborted after its offsets were sent. Readers see none of it, and the batch is retried."""
    service = deploy()
    flowing = service.stream(100_000)
    scorer = service.start("score", wire=crash_points.Scorer(crash_points.AbortingProducer))
    flowing.result()
    service.await_decided()
    aborts = scorer.output().count("forced to abort")
    assert aborts >= 60
    holds("every third transaction aborted", f"{aborts} aborts", service.verdict())
