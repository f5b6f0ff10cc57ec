"""Make a process end when its parent ends, however the parent ends.

The parent holds the write end of the child's standard input and never writes to it. End of file on
standard input therefore means that the parent is gone, even after SIGKILL. This works on every Unix.

A role calls :func:`stop_with_parent`. A foreign command such as java runs under this file as a script,
``python -I -S lifeline.py [--remove FOLDER] -- COMMAND…``, which prints the command's process id. The
script imports only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

STOP_TIMEOUT_S = 15.0
"""Longer than a role takes to stop. The broker aborts the open transaction of a killed role."""

_POLL_INTERVAL_S = 0.1


def stop_with_parent() -> None:
    """Send this process SIGTERM when its parent is gone, and end it if it has not stopped in time."""
    threading.Thread(target=_await_parent_exit, name="lifeline", daemon=True).start()


def _await_parent_exit() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # The log pipe has no reader any more. Writing to it must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os._exit(1)


def run_command(arguments: list[str]) -> int:
    """Run a command until it or the parent ends. Return its exit status."""
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    parent_pid = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603 - the parent's command
    print(child.pid, flush=True)  # noqa: T201 - the parent reads this line
    while child.poll() is None:
        at_end_of_file, _, _ = select.select([sys.stdin], [], [], _POLL_INTERVAL_S)
        # A process that the parent forked may still hold the pipe open after the parent's death.
        if at_end_of_file or os.getppid() != parent_pid:
            child.kill()
            child.wait()
            if options[:1] == ["--remove"]:
                _remove(options[1])
    return child.returncode


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # Only the last node finds the cluster's folder empty.
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))  # noqa: PTH106, PTH120 - pathlib would double the start-up time


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
