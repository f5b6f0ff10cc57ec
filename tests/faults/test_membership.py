"""Changes of the group: suspended scorers, duplicate instance ids, members that join and leave."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import crash_points

pytestmark = pytest.mark.faults

_SUSPENDED_S = 22
"""Beyond the session's timeout (6 s) and the transaction's, and the look that the broker takes every
10 s for those that have timed out."""


def test_suspended_scorer(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """A scorer is suspended in a transaction until another takes over. It publishes nothing stale later."""
    service = deploy()
    flowing = service.flow(100_000, seconds=60)
    suspended = service.start("score", "a", wire=crash_points.Scorer(crash_points.SlowProducer))
    service.await_progress()
    service.start("score", "b")
    service.await_that(lambda: bool(service.owned("b")), 60, "b gets no partitions")
    rounds, recoveries_s = 2, []
    for _ in range(rounds):
        service.await_that(lambda: bool(service.owned("a")), 60, "a gets no partitions")
        mine = service.owned("a")
        suspended.send(signal.SIGSTOP)
        recoveries_s.append(service.recovery_s(service.interruption(mine)))
        time.sleep(max(_SUSPENDED_S - recoveries_s[-1], 0))
        suspended.send(signal.SIGCONT)
    flowing.result()
    service.await_decided()
    assert suspended.exit_code is None, service.logs()
    holds(
        "SIGSTOP beyond all timeouts, then SIGCONT",
        f"{rounds} times {_SUSPENDED_S} s",
        service.verdict(),
        recoveries_s,
    )


def test_two_scorers_of_the_same_name(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """One of them exits 75 and says why; the other continues."""
    service = deploy()
    flowing = service.flow(100_000, seconds=15)
    times = 3
    scorer = service.start("score", "twin")
    for _ in range(times):
        service.await_progress()
        twins = [scorer, service.start("score", "twin")]
        service.await_that(lambda: any(t.exit_code is not None for t in twins), 60, "neither exits")  # noqa: B023 - called at once
        loser = next(twin for twin in twins if twin.exit_code is not None)
        scorer = next(twin for twin in twins if twin is not loser)
        assert loser.exit_code == 75, service.logs()
        assert "another process" in loser.output().splitlines()[-1]
    flowing.result()
    service.await_decided()
    assert scorer.exit_code is None, service.logs()
    holds("two live scorers with one instance id", f"{times} twins", service.verdict())


def test_killed_while_handing_over(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """A scorer is killed during a rebalance and restarted: every partition has an owner afterwards."""
    kills, recoveries_s = 10, []
    service = deploy(partitions=kills + 2)
    flowing = service.flow(100_000, seconds=20)
    names = ["a"]
    scorer = service.start("score", "a", wire=crash_points.dies_handing_over)
    for i in range(kills):
        service.await_that(lambda: bool(service.owned("a")), 60, "a gets no partitions")
        names.append(f"b{i}")
        service.start("score", names[-1])
        assert scorer.wait(60) == -9, service.logs()
        interruption = service.interruption()
        scorer = service.start("score", "a", wire=crash_points.dies_handing_over)
        service.await_that(
            lambda: frozenset().union(*map(service.owned, names)) == interruption.partitions,  # noqa: B023 - called at once
            60,
            "a partition has no owner",
        )
        recoveries_s.append(time.monotonic() - interruption.at_s)
    flowing.result()
    service.await_decided()
    holds("SIGKILL while partitions are handed over", f"{kills} kills", service.verdict(), recoveries_s)


def test_members_come_and_go(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """About once a second a member joins or leaves, half of the time by SIGKILL."""
    service = deploy()
    flowing = service.flow(100_000, seconds=50)
    service.start("score", "a")
    service.await_progress()
    changes, random_source = 32, random.Random(4)
    running: dict[str, Any] = {}
    for i in range(changes):
        name = "bcd"[i % 3]
        if name in running:
            leaver = running.pop(name)
            leaver.send(random_source.choice((signal.SIGTERM, signal.SIGKILL)))
            leaver.wait(30)
        else:
            running[name] = service.start("score", name)
        time.sleep(random_source.uniform(0.5, 1.5))
    flowing.result()
    service.await_decided()
    holds("members joining and leaving", f"{changes} changes", service.verdict())
