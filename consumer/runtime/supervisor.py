"""Run the roles of one machine as child processes and stop them in order.

Scorers stop first, then the API, then the monitor, so that the monitor still reads what they committed.
When one child exits, the others are stopped too. The outer supervisor then sees one exit code and restarts
everything.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final, TextIO

from consumer.runtime.lifeline import STOP_TIMEOUT_S

ROLE_COMMAND: Final = (sys.executable, "-P", "-m", "consumer", "--lifeline")
"""Starts this product as a child process. Without ``-P``, Python would search the working directory first
and run a ``consumer.py`` that it finds there."""

_POLL_INTERVAL_S: Final = 0.1
_SIGNAL_EXIT_CODE: Final = 128
"""As in a shell, the exit code after a signal is this plus the signal's number."""
_UNEXPECTED_EXIT_CODE: Final = 75


@dataclass(frozen=True, slots=True)
class Role:
    """One child.

    Attributes:
        name: The role in its log lines.
        arguments: The command line, from the verb on.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildExit:
    """The unexpected end of a child.

    Attributes:
        role: The name of the role.
        status: The exit code, or minus the number of the signal that killed the child.
    """

    role: str
    status: int

    @property
    def exit_code(self) -> int:
        """The exit code for the parent. Never 0, because a role should not end by itself."""
        if self.status < 0:
            return _SIGNAL_EXIT_CODE - self.status
        return self.status or _UNEXPECTED_EXIT_CODE

    def __str__(self) -> str:
        how = (
            f"was killed by {signal.Signals(-self.status).name}"
            if self.status < 0
            else f"exited {self.status}"
        )
        return f"{self.role} {how}; the other roles were stopped"


def roles(workers: int, *, serve: bool, resume_from: str | None = None) -> list[Role]:
    """Return the roles of one machine, in the order in which they stop."""
    resume = ("--resume-from", resume_from) if resume_from else ()
    scorers = [
        Role(f"score-{worker}", ("score", "--worker", str(worker), *resume)) for worker in range(workers)
    ]
    api = [Role("serve", ("serve",))] if serve else []
    return [*scorers, *api, Role("monitor", ("monitor",))]


class Supervisor:
    """Starts, watches and stops children.

    Args:
        children: The roles, in the order in which they stop.
        options: Options before each child's verb on its command line.
        command: The start of each child's command line. The command must end when its standard input does.
        log: Receives the children's log lines with the role's name; standard error by default.
        stop_timeout_s: How long a child may take to stop before it is killed.
    """

    def __init__(
        self,
        children: Sequence[Role],
        options: Sequence[str] = (),
        *,
        command: Sequence[str] = ROLE_COMMAND,
        log: TextIO | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self._roles = children
        self._command = [*command, *options]
        self._log = log or sys.stderr
        self._stop_timeout_s = stop_timeout_s
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._log_threads: list[threading.Thread] = []
        self._stopping = False

    def run(self) -> ChildExit | None:
        """Run the children until :meth:`request_stop` is called or one exits. Return that exit."""
        self.start()
        try:
            while not self._stopping and self.first_exit() is None:
                time.sleep(_POLL_INTERVAL_S)
            return self.first_exit()
        finally:
            self.stop()

    def request_stop(self) -> None:
        """Make :meth:`run` stop the children and return. Safe to call from a signal handler."""
        self._stopping = True

    def start(self) -> None:
        """Start every child."""
        for role in self._roles:
            process = subprocess.Popen(  # noqa: S603 - our command and the caller's options
                [*self._command, *role.arguments],
                stdin=subprocess.PIPE,  # the child's lifeline
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,  # Ctrl-C reaches only the parent, which stops them in order
            )
            self._processes[role.name] = process
            assert process.stdout is not None  # noqa: S101 - requested above
            thread = threading.Thread(target=self._copy_log, args=(role.name, process.stdout), daemon=True)
            thread.start()
            self._log_threads.append(thread)

    def pid(self, role: str) -> int:
        """Return a child's process id."""
        return self._processes[role].pid

    def first_exit(self) -> ChildExit | None:
        """Return the first child in order that has exited, if any."""
        for name, process in self._processes.items():
            status = process.poll()
            if status is not None:
                return ChildExit(name, status)
        return None

    def stop(self) -> None:
        """Stop the running children: all scorers together, then the others one by one."""
        scorers = [role.name for role in self._roles if role.arguments[0] == "score"]
        others = [role.name for role in self._roles if role.name not in scorers]
        for group in (scorers, *([name] for name in others)):
            self._stop_together([self._processes[name] for name in group if name in self._processes])
        for thread in self._log_threads:
            thread.join(1.0)

    def _stop_together(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        deadline_s = time.monotonic() + self._stop_timeout_s
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(max(deadline_s - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _copy_log(self, role: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._log.write(label_line(role, line))
                self._log.flush()


def label_line(role: str, line: str) -> str:
    """Add the role to a log line: as a field of a JSON object, as a prefix otherwise."""
    if line.startswith('{"'):
        return f'{{"role": "{role}", {line[1:]}'
    return f"{role}: {line}"
