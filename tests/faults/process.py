"""A role in its own process, forked from a server that has imported everything.

A fork takes milliseconds and a new interpreter two seconds, so hundreds of kills fit into a run. The
process is a real one: it can be killed and suspended, and it has an exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONTEXT: Final = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.crash_points"])


def nothing() -> None:
    """Replace nothing."""


class RoleProcess:
    """A running ``purchase-stream ARGUMENTS…``.

    Args:
        arguments: The command line.
        environment: Variables that are added to the environment.
        folder: The working directory.
        log: Receives the output of the process.
        wire: Called in the process before the command, to replace parts of the product.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        wire: Callable[[], None] = nothing,
    ) -> None:
        self.log = log
        self._call = (list(arguments), dict(environment), folder, log, wire)
        self._process: ForkServerProcess = CONTEXT.Process(target=_run, args=self._call, daemon=True)
        self._process.start()

    def again(self) -> RoleProcess:
        """Start the same process again."""
        return RoleProcess(*self._call)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while the process runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self.exit_code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process (SIGKILL) and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait(10)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end of the process; return its exit code, or ``None`` if it still runs."""
        self._process.join(timeout_s)
        return self.exit_code

    def output(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _run(
    arguments: list[str], environment: dict[str, str], folder: Path, log: Path, wire: Callable[[], None]
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    threading.Thread(target=_follow_parent, daemon=True).start()
    from consumer import cli  # noqa: PLC0415 - the fork server has it, the tests' own process need not

    wire()
    cli.main(arguments)


def _follow_parent() -> None:
    """End when the tests end, in whatever way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
