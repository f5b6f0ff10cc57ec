"""Run a command that must not outlive the process that asked for it.

Started by its path (``python -I -S guard.py [--remove FOLDER] -- COMMAND…``), so it imports nothing
of ours. Standard input is a pipe that the owner holds open and never writes to: end of file means that
the owner is gone, however it went. The command's process id is the one line on standard output.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys

_LOOK_AGAIN_S = 0.1


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the owner does; return its exit status."""
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    owner_pid = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603 - the owner's command
    print(child.pid, flush=True)  # noqa: T201 - that line is the protocol
    while child.poll() is None:
        owner_closed_pipe, _, _ = select.select([sys.stdin], [], [], _LOOK_AGAIN_S)
        # A process forked from the owner may hold the pipe open after the owner's death.
        if owner_closed_pipe or os.getppid() != owner_pid:
            child.kill()
            child.wait()
            if options[:1] == ["--remove"]:
                _remove(options[1])
    return child.returncode


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # The last of several guards finds the folder around it empty.
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))  # noqa: PTH106, PTH120 - pathlib would double the start-up time


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
