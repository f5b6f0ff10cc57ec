"""A call that never returns, and a wall clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import crash_points

pytestmark = pytest.mark.faults


def test_call_that_never_returns(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """The watchdog ends the process with 75 and says where it hung; a restart continues."""
    service = deploy()
    service.stream(100_000).result()
    times = 3
    for _ in range(times):
        stuck = service.start("score", wire=crash_points.stuck)
        assert stuck.wait(60) == 75, service.logs()
        assert "ending the process" in stuck.output()
        assert "send_offsets_to_transaction" in stuck.output()
    service.start("score")
    service.await_decided()
    holds("a call that never returns (watchdog)", f"{times} times", service.verdict())


def test_clock_stepped(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """The wall clocks of scorer and monitor jump an hour ahead and back every second."""
    service = deploy()
    flowing = service.stream(100_000, seconds=10)
    for role in ("score", "monitor"):
        service.start(role, wire=crash_points.SteppingClock(every_s=1, step_s=3600))
    flowing.result()
    service.await_decided()
    holds("wall clock stepped by ±1 h (injected)", "every second", service.await_log())
