"""The time from SIGKILL to the first new commit, with default settings and real interpreter starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults import crash_points

pytestmark = pytest.mark.faults


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a scorer as an operator would."""
    started: list[subprocess.Popen[bytes]] = []

    def scorer(service: Any, instance: str) -> subprocess.Popen[bytes]:
        environment = os.environ | service.environment(instance)
        with (service.folder / f"fresh-{instance}.log").open("ab") as log:
            command = [sys.executable, "-m", "consumer", "score"]
            started.append(
                subprocess.Popen(  # noqa: S603 - every word is ours
                    command, env=environment, cwd=request.config.rootpath, stdout=log, stderr=log
                )
            )
        return started[-1]

    yield scorer
    for process in started:
        process.kill()
        process.wait()


def test_restart_of_the_same_instance(
    deploy: Callable[..., Any], holds: Callable[..., None], start: Callable[..., Any]
) -> None:
    """A killed scorer that is restarted at once commits within 3 s."""
    service = deploy()
    flowing = service.flow(100_000, seconds=20)
    kills, recoveries_s = 5, []
    scorer = start(service, "a")
    service.await_progress()
    for _ in range(kills):
        time.sleep(0.5)
        scorer.kill()
        scorer.wait()
        interruption = service.interruption()
        scorer = start(service, "a")
        recoveries_s.append(service.recovery_s(interruption))
    flowing.result()
    service.await_decided()
    holds("recovery: the same instance restarted", f"{kills} kills", service.verdict(), recoveries_s)
    assert sorted(recoveries_s)[kills // 2] <= 3 * _patience()


def test_another_instance_takes_over(
    deploy: Callable[..., Any], holds: Callable[..., None], start: Callable[..., Any]
) -> None:
    """If nobody restarts it, another scorer takes its partitions and commits within 10 s."""
    service = deploy()
    flowing = service.flow(100_000, seconds=60)
    start(service, "a")
    service.await_progress()
    kills, recoveries_s = 3, []
    for i in range(kills):
        victim = f"b{i}"
        process = start(service, victim)
        service.await_that(lambda: bool(service.owned(victim)), 60, "it gets no partitions")  # noqa: B023 - called at once
        time.sleep(1)
        orphaned = service.owned(victim)
        process.kill()
        process.wait()
        recoveries_s.append(service.recovery_s(service.interruption(orphaned)))
    flowing.result()
    service.await_decided()
    holds("recovery: another instance takes over", f"{kills} kills", service.verdict(), recoveries_s)
    assert sorted(recoveries_s)[kills // 2] <= 10 * _patience()


def test_another_instance_takes_over_from_one_with_pending_offsets(
    deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """Even if it died between its offsets and its commit, nobody waits for the transaction's timeout."""
    service = deploy()
    flowing = service.flow(100_000, seconds=60)
    service.start("score", "a")
    service.await_progress()
    kills, recoveries_s = 5, []
    for i in range(kills):
        victim = f"b{i}"
        process = service.start("score", victim, wire=crash_points.dies("after offsets", 20))
        orphaned: frozenset[int] = frozenset()
        while process.exit_code is None:
            orphaned = service.owned(victim) or orphaned
            time.sleep(0.05)
        assert process.exit_code == -9, service.logs()
        recoveries_s.append(service.recovery_s(service.interruption(orphaned)))
    flowing.result()
    service.await_decided()
    fault = "recovery: another takes over, offsets pending"
    holds(fault, f"{kills} kills", service.verdict(), recoveries_s)
    assert max(recoveries_s) <= 10 * _patience()


def _patience() -> float:
    """Return the factor for time limits: 1 on an idle machine, more on a busy one."""
    return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
