"""The watchdog ends a process that hangs, and no other."""

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


def test_a_process_that_hangs_is_ended_with_its_stacks() -> None:
    """The exit code is 75, so the supervisor restarts it. The stacks are on standard error."""
    ended = _run("time.sleep(20)")
    assert ended.returncode == 75
    assert "survived" not in ended.stdout
    assert "the main loop has not turned for" in ended.stderr
    assert "Thread" in ended.stderr


def test_a_process_that_beats_lives() -> None:
    """Regular beats keep a process alive."""
    ended = _run("for _ in range(25): time.sleep(0.1); watchdog.beat()")
    assert (ended.returncode, ended.stdout) == (0, "survived\n")


def test_a_watchdog_that_was_stopped_ends_nothing() -> None:
    """Shutting down may take longer than the limit."""
    ended = _run("watchdog.stop(); time.sleep(2.2)")
    assert (ended.returncode, ended.stdout) == (0, "survived\n")


def test_a_limited_block_has_its_own_limit() -> None:
    """The limit may be shorter or longer, and it ends with the block. Beats extend it."""
    hangs = "with watchdog.limited(1.5): watchdog.beat(); time.sleep(20)"
    assert _run(f"watchdog._limit_s = 15\n{hangs}").returncode == 75
    returns = "with watchdog.limited(0.1): pass\ntime.sleep(1.2)"
    assert _run(returns).stdout == "survived\n"
    longer = "with watchdog.limited(15): time.sleep(3.2)"
    assert _run(longer).stdout == "survived\n"


def test_a_suspended_process_is_not_ended() -> None:
    """After it resumes, the loop has its whole limit again."""
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


def test_a_stall_is_reported_before_the_process_ends() -> None:
    """Liveness reports a stall from half of the limit on, and a beat ends it."""
    watchdog = Watchdog(limit_s=60)
    for _ in range(30):
        watchdog._tick()
    assert watchdog.stalled_for_s() is None
    watchdog._tick()
    assert watchdog.stalled_for_s() == 31.0
    watchdog.beat()
    assert watchdog.stalled_for_s() is None


def test_a_long_commit_is_not_a_stall() -> None:
    """Liveness allows half of the block's limit, and never less than half of the loop's."""
    watchdog = Watchdog(limit_s=30)
    with watchdog.limited(60):
        for _ in range(30):
            watchdog._tick()
        assert watchdog.stalled_for_s() is None
    with watchdog.limited(15):
        for _ in range(15):
            watchdog._tick()
        assert watchdog.stalled_for_s() is None
