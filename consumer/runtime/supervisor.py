"""Runs the roles as child processes: what begins together ends together, in order.

Scorers stop first, then the API, then the monitor, which can so still read what they committed. A child
that dies takes the others with it: whoever supervises us sees one exit code and restarts the whole.
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

STOP_TIMEOUT_S: Final = 15.0
"""More than stopping takes; the broker then takes back what is left of a child."""

_COMMAND: Final = (sys.executable, "-m", "consumer.runtime.lifeline")
_LOOK_EVERY_S: Final = 0.1
_SIGNAL_CODE: Final = 128
"""A shell adds the signal's number to this."""
_UNEXPECTED_END: Final = 75


@dataclass(frozen=True, slots=True)
class Role:
    """One child.

    Attributes:
        name: what its log lines carry.
        arguments: its command line, from the verb on.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildExit:
    """A child that ended by itself.

    Attributes:
        role: which.
        status: its exit code, or minus the number of the signal that killed it.
    """

    role: str
    status: int

    @property
    def exit_code(self) -> int:
        """What the parent exits with: never 0, for a role has no end of its own."""
        if self.status < 0:
            return _SIGNAL_CODE - self.status
        return self.status or _UNEXPECTED_END

    def __str__(self) -> str:
        how = (
            f"was killed by {signal.Signals(-self.status).name}"
            if self.status < 0
            else f"exited {self.status}"
        )
        return f"{self.role} {how}; the other roles were stopped"


def roles(workers: int, *, serve: bool) -> list[Role]:
    """Return the roles of one machine in the order in which they stop."""
    scorers = [Role(f"score-{worker}", ("score", "--worker", str(worker))) for worker in range(workers)]
    api = [Role("serve", ("serve",))] if serve else []
    return [*scorers, *api, Role("monitor", ("monitor",))]


class Supervisor:
    """Starts, watches and stops children.

    Args:
        children: the roles, in the order in which they stop.
        options: what stands before each child's verb on its command line.
        command: what every child's command line begins with; it ends when its standard input does.
        log: where the children's lines go, each with the role's name; by default standard error.
        stop_timeout_s: how long a child may take to stop before it is killed.
    """

    def __init__(
        self,
        children: Sequence[Role],
        options: Sequence[str] = (),
        *,
        command: Sequence[str] = _COMMAND,
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
        """Start the children and wait until :meth:`request_stop` or a death; then stop what runs."""
        self.start()
        try:
            while not self._stopping and self.death() is None:
                time.sleep(_LOOK_EVERY_S)
            return self.death()
        finally:
            self.stop()

    def request_stop(self) -> None:
        """Let :meth:`run` stop the children and return. Safe to call from a signal handler."""
        self._stopping = True

    def start(self) -> None:
        """Start every child."""
        for role in self._roles:
            process = subprocess.Popen(  # noqa: S603 - every word is ours or the caller's own options
                [*self._command, *role.arguments],
                stdin=subprocess.PIPE,  # its end tells the child that we are gone
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,  # a ctrl-C is for us alone: we stop them in order
            )
            self._processes[role.name] = process
            assert process.stdout is not None  # noqa: S101 - asked for above
            thread = threading.Thread(target=self._copy_log, args=(role.name, process.stdout), daemon=True)
            thread.start()
            self._log_threads.append(thread)

    def pid(self, role: str) -> int:
        """Return a child's process id."""
        return self._processes[role].pid

    def death(self) -> ChildExit | None:
        """Return the first child that has ended by itself, if one has."""
        for name, process in self._processes.items():
            status = process.poll()
            if status is not None:
                return ChildExit(name, status)
        return None

    def stop(self) -> None:
        """Stop the children that run: scorers together, then the others one by one."""
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
                self._log.write(labelled(role, line))
                self._log.flush()


def labelled(role: str, line: str) -> str:
    """Return a log line with the role's name: as a field of a JSON object, else before the text."""
    if line.startswith('{"'):
        return f'{{"role": "{role}", {line[1:]}'
    return f"{role}: {line}"
