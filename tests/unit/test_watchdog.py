"""The watchdog ends a process that hangs, and leaves a living one alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from consumer.watchdog import Watchdog

if TYPE_CHECKING:
    import pytest

_PROGRAM = """
import time
from consumer.watchdog import Watchdog
watchdog = Watchdog(limit_s=1.5)
watchdog.start()
{then}
print("survived")
"""


def _run(then: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", _PROGRAM.format(then=then)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_process_that_hangs_is_ended_and_says_where() -> None:
    """Exit code 75, so that its supervisor restarts it; the stacks are on standard error."""
    ended = _run("time.sleep(20)")
    assert ended.returncode == 75
    assert "survived" not in ended.stdout
    assert "the main loop has not turned for" in ended.stderr
    assert "Thread" in ended.stderr


def test_a_process_that_beats_lives() -> None:
    """However long it works."""
    ended = _run("for _ in range(25): time.sleep(0.1); watchdog.beat()")
    assert (ended.returncode, ended.stdout) == (0, "survived\n")


def test_a_watchdog_that_was_stopped_ends_nothing() -> None:
    """A process may take its time to close down."""
    ended = _run("watchdog.stop(); time.sleep(2.2)")
    assert (ended.returncode, ended.stdout) == (0, "survived\n")


def test_a_stall_is_seen_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """From half the limit on, liveness says so; a beat ends it."""
    now_s = 1000.0
    monkeypatch.setattr("consumer.watchdog.time.monotonic", lambda: now_s)
    watchdog = Watchdog(limit_s=60)
    now_s = 1030.0
    assert watchdog.stalled_for_s() is None
    now_s = 1031.0
    assert watchdog.stalled_for_s() == 31.0
    watchdog.beat()
    assert watchdog.stalled_for_s() is None
