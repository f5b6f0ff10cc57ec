"""The watchdog ends a process that hangs, and leaves a living one alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from consumer.runtime.watchdog import Watchdog

_PROGRAM = """
import time
from consumer.runtime.watchdog import Watchdog
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


def test_a_call_with_a_limit_of_its_own_is_ended_by_that() -> None:
    """Also where it is shorter; beats from elsewhere put it off, and it goes with the call."""
    hangs = "with watchdog.limited(1.5): watchdog.beat(); time.sleep(20)"
    assert _run(f"watchdog._limit_s = 15\n{hangs}").returncode == 75
    returns = "with watchdog.limited(0.1): pass\ntime.sleep(1.2)"
    assert _run(returns).stdout == "survived\n"
    longer = "with watchdog.limited(15): time.sleep(3.2)"
    assert _run(longer).stdout == "survived\n"


def test_a_process_that_was_suspended_is_not_taken_for_one_that_hangs() -> None:
    """However long it slept, the loop has its whole limit from when it wakes."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", _PROGRAM.format(then="print('on', flush=True); time.sleep(0.7)")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        assert lines.readline() == "on\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(process.pid, signal.SIGCONT)
        assert lines.read() == "survived\n"
    assert process.wait() == 0


def test_a_stall_is_seen_before_the_end() -> None:
    """From half the limit on, liveness says so; a beat ends it."""
    watchdog = Watchdog(limit_s=60)
    for _ in range(30):
        watchdog._tick()
    assert watchdog.stalled_for_s() is None
    watchdog._tick()
    assert watchdog.stalled_for_s() == 31.0
    watchdog.beat()
    assert watchdog.stalled_for_s() is None


def test_a_long_commit_is_no_stall() -> None:
    """Liveness gives it half of what it may take, and never less than the loop."""
    watchdog = Watchdog(limit_s=30)
    with watchdog.limited(60):
        for _ in range(30):
            watchdog._tick()
        assert watchdog.stalled_for_s() is None
    with watchdog.limited(15):
        for _ in range(15):
            watchdog._tick()
        assert watchdog.stalled_for_s() is None
