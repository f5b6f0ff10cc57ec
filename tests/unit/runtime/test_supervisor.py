"""The supervisor and its children, as real processes without Kafka."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.runtime import lifeline
from consumer.runtime.supervisor import ROLE_COMMAND, ChildExit, Role, Supervisor, label_line, roles

CHILD = """
import os, signal, sys, time
name, folder, obeys = sys.argv[1], sys.argv[2], sys.argv[3] == "obeys"
def stop(*_):
    if obeys:
        with open(folder + "/stopped", "a") as file:
            file.write(name + " ")
        time.sleep(0.2)
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print(name, "is up", flush=True)
open(folder + "/" + name, "w").close()
while True:
    time.sleep(0.05)
"""


def child(name: str, folder: Path, *, obeys: bool = True) -> Role:
    """Return a child that records the order in which the children were stopped."""
    return Role(name, (name, str(folder), "obeys" if obeys else "ignores"))


def started(supervisor: Supervisor, folder: Path, *names: str) -> None:
    """Start children and wait until they are up."""
    supervisor.start()
    await_files(folder, *names)


def await_files(folder: Path, *names: str) -> None:
    """Wait for the files that the children write when they are up."""
    deadline_s = time.monotonic() + 20
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs. A zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the start of the children's command lines."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return [sys.executable, "-S", str(script)]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Return the stream that receives the children's log lines."""
    with io.StringIO() as file:
        yield file


def test_roles_stop_in_the_order_scorers_api_monitor() -> None:
    """The monitor stops last, so it still reads what the scorers committed."""
    assert [role.name for role in roles(2, serve=True)] == ["score-0", "score-1", "serve", "monitor"]
    assert [role.name for role in roles(1, serve=False)] == ["score-0", "monitor"]


def test_children_stop_one_after_the_other(tmp_path: Path, command: list[str], log: io.StringIO) -> None:
    """Each child is stopped after the one before it has ended, and log lines carry the child's name."""
    supervisor = Supervisor([child(name, tmp_path) for name in "abc"], command=command, log=log)
    started(supervisor, tmp_path, *"abc")
    supervisor.stop()
    assert (tmp_path / "stopped").read_text() == "a b c "
    assert sorted(log.getvalue().splitlines()) == ["a: a is up", "b: b is up", "c: c is up"]


def test_a_request_ends_the_run_without_a_death(tmp_path: Path, command: list[str], log: io.StringIO) -> None:
    """A requested stop is not a failure."""
    supervisor = Supervisor([child("a", tmp_path)], command=command, log=log)

    def ask() -> None:
        await_files(tmp_path, "a")
        supervisor.request_stop()

    asker = threading.Thread(target=ask)
    asker.start()
    assert supervisor.run() is None
    asker.join()
    assert (tmp_path / "stopped").read_text() == "a "


def test_an_exit_of_one_child_stops_the_others(tmp_path: Path, command: list[str], log: io.StringIO) -> None:
    """The run returns which child exited and how, and every other child was stopped."""
    supervisor = Supervisor([child(name, tmp_path) for name in "abc"], command=command, log=log)

    def kill() -> None:
        await_files(tmp_path, *"abc")
        os.kill(supervisor.pid("b"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    death = supervisor.run()
    killer.join()
    assert death == ChildExit("b", -signal.SIGKILL)
    assert death.exit_code == 137
    assert str(death) == "b was killed by SIGKILL; the other roles were stopped"
    assert (tmp_path / "stopped").read_text() == "a c "


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, command: list[str], log: io.StringIO) -> None:
    """A child that ignores SIGTERM is gone after the timeout."""
    supervisor = Supervisor([child("a", tmp_path, obeys=False)], command=command, log=log, stop_timeout_s=0.3)
    started(supervisor, tmp_path, "a")
    pid = supervisor.pid("a")
    supervisor.stop()
    assert not is_alive(pid)


@pytest.mark.parametrize(("status", "code"), [(78, 78), (1, 1), (0, 75), (-9, 137)])
def test_the_parent_exits_with_the_childs_code(status: int, code: int) -> None:
    """Even an exit code of 0 is a failure, because a role should not end by itself."""
    assert ChildExit("monitor", status).exit_code == code


def test_lines_carry_the_role() -> None:
    """A JSON line stays valid JSON with one more field."""
    assert label_line("score-0", '{"event": "up"}\n') == '{"role": "score-0", "event": "up"}\n'
    assert label_line("score-0", "up\n") == "score-0: up\n"


@pytest.fixture
def folder_with_traps(tmp_path: Path) -> Path:
    """Return a folder with modules that are named like ours and print when they run."""
    for name in ("consumer", "typer", "structlog"):
        (tmp_path / f"{name}.py").write_text("print('not our code', flush=True)\n")
    return tmp_path


def test_children_run_our_code_only(folder_with_traps: Path) -> None:
    """A ``consumer.py`` in the working directory is not executed."""
    command = [*ROLE_COMMAND, "--version-that-does-not-exist"]
    done = subprocess.run(  # noqa: S603 - no shell
        command, cwd=folder_with_traps, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 64, done.stderr
    assert "not our code" not in done.stdout
    without_safe_path = [word for word in command if word != "-P"]
    trapped = subprocess.run(  # noqa: S603 - no shell
        without_safe_path, cwd=folder_with_traps, capture_output=True, text=True, timeout=60, check=False
    )
    assert "not our code" in trapped.stdout  # the trap works


def test_a_child_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """The end of standard input stops a role that works."""
    code = "import time; from consumer.runtime import lifeline; lifeline.stop_with_parent()"
    process = subprocess.Popen(  # noqa: S603 - no shell
        [sys.executable, "-c", f"{code}; print('up', flush=True); time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"up\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()


def test_the_lifeline_ends_a_foreign_command_and_removes_its_folder(tmp_path: Path) -> None:
    """A command that runs under the script is killed when the parent is gone."""
    folder = tmp_path / "cluster" / "node"
    folder.mkdir(parents=True)
    sleeping = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(  # noqa: S603 - no shell
        [sys.executable, "-I", "-S", lifeline.__file__, "--remove", str(folder), "--", *sleeping],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    pid = int(process.stdout.readline())
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) != 0
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.parent.exists()
    process.stdout.close()
