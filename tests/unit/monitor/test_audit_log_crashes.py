"""The audit log stays exact if any of its system calls fails, is torn, or is the last one.

The calls go through a disk that can kill the process at any of them, before or after its effect or
with a write torn; that can refuse any of them; and that can lose power, keeping only what an fsync
has made durable: contents by the file's own, names by the folder's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.errors import StartupError, Unavailable
from consumer.monitor.audit import log as audit_log
from consumer.monitor.audit.log import AuditLog
from model_store import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Call: TypeAlias = Callable[[int | None], Any]
    """Performs one call; the argument is how many bytes a write may take at most."""
    Fault: TypeAlias = Callable[[int, Call], None]

RECORDS = [b"record %d\n" % i for i in range(18)]
BATCH = 3
ROTATE_BYTES = 50  # every second append
SOURCE = {"topic": "predictions"}


def healthy(_number: int, _perform: Call) -> None:
    """Let every call succeed."""


class ProcessDied(BaseException):
    """The process was killed; nothing catches this."""


class Loss(Enum):
    """What survives the end of a process."""

    NOTHING = "killed: what was written is there"
    CONTENTS = "power lost: names are there, contents only where synced"
    CONTENTS_AND_NAMES = "power lost: names and contents only where synced"
    MOST_NAMES = "power lost: the same, but the checkpoint's new name has survived"


class Disk:
    """Stands in for :mod:`os`; counts the calls that change a disk and lets one of them go wrong.

    Args:
        syncs: Whether fsync has its effect.

    Attributes:
        calls: How many calls the present process has made.
        fault: Is asked before each such call with its number (from 1) and the call; it may do part
            or all of the call and raise.
    """

    def __init__(self, *, syncs: bool = True) -> None:
        self.calls = 0
        self.fault: Fault = healthy
        self._syncs = syncs
        self._contents: dict[int, bytearray] = {}  # durable, by inode
        self._unsynced: dict[int, list[tuple[int, bytes | None]]] = {}  # writes; None: cut there
        self._names: dict[Path, dict[str, int]] = {}  # durable, by folder

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _call(self, perform: Call) -> Any:
        self.calls += 1
        self.fault(self.calls, perform)
        return perform(None)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """Open, or create."""
        descriptor: int = self._call(lambda _: os.open(path, flags, mode))
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        """Append."""

        def perform(at_most: int | None) -> int:
            part = bytes(data[:at_most])
            at = os.fstat(descriptor).st_size
            written = os.write(descriptor, part)
            self._unsynced.setdefault(os.fstat(descriptor).st_ino, []).append((at, part))
            return written

        n_written: int = self._call(perform)
        return n_written

    def ftruncate(self, descriptor: int, length: int) -> None:
        """Truncate."""

        def perform(_: int | None) -> None:
            os.ftruncate(descriptor, length)
            self._unsynced.setdefault(os.fstat(descriptor).st_ino, []).append((length, None))

        self._call(perform)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file."""
        self._call(lambda _: os.rename(source, target))  # noqa: PTH104 - the call that is meant

    def replace(self, source: Path, target: Path) -> None:
        """Replace a file."""
        self._call(lambda _: os.replace(source, target))  # noqa: PTH105 - the call that is meant

    def fsync(self, descriptor: int) -> None:
        """Make a file's content, or a folder's names, durable."""

        def perform(_: int | None) -> None:
            self._sync(descriptor)

        try:
            self._call(perform)
        except OSError:  # the kernel drops what it could not write and will report it as written
            dirty = self._unsynced.get(os.fstat(descriptor).st_ino, [])
            dirty[:] = [(at, data and bytes(len(data))) for at, data in dirty]
            raise

    def _sync(self, descriptor: int) -> None:
        if not self._syncs:
            return
        inode = os.fstat(descriptor).st_ino
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        if folder.is_dir():
            self._names[folder] = {file.name: file.stat().st_ino for file in folder.iterdir()}
            return
        content = self._contents.setdefault(inode, bytearray())
        for at, data in self._unsynced.pop(inode, []):
            content[at : at + len(data) if data else None] = data or b""

    def lose(self, loss: Loss, folder: Path) -> None:
        """Leave in the folder only what survives."""
        if loss is Loss.NOTHING:
            return
        names = {file.name: file.stat().st_ino for file in folder.iterdir()}
        if loss is not Loss.CONTENTS:
            survives = ".checkpoint" if loss is Loss.MOST_NAMES else "nothing else"
            new = {name: inode for name, inode in names.items() if name.endswith(survives)}
            names = {**self._names.get(folder, {}), **new}
        survivors = {name: bytes(self._contents.get(inode, b"")) for name, inode in names.items()}
        for file in folder.iterdir():
            file.unlink()
        for name, content in survivors.items():
            (folder / name).write_bytes(content)
        self._unsynced.clear()
        self._names[folder] = {name: (folder / name).stat().st_ino for name in survivors}
        self._contents = {self._names[folder][name]: bytearray(data) for name, data in survivors.items()}


def dies_at(step: int, *, torn_at: int | None = None, done: bool = False) -> Fault:
    """Die at one call: before it, after its effect, or with a write torn."""

    def fault(number: int, perform: Call) -> None:
        if number > step:
            raise ProcessDied
        if number == step:
            if done:
                perform(torn_at)
            raise ProcessDied

    return fault


def refuses_at(step: int, code: int) -> Fault:
    """Let one call fail, a write after half of a line."""

    def fault(number: int, perform: Call) -> None:
        if number == step:
            if perform.__qualname__.startswith("Disk.write"):
                perform(5)
            raise OSError(code, os.strerror(code))

    return fault


def stream(path: Path, disk: Disk, fault: Fault = healthy) -> None:
    """Run one process: open the log, append up to the end of the topic, release the lock."""
    disk.calls, disk.fault = 0, fault
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_log, "os", disk)
        patch.setattr(files, "os", disk)
        log = open_again_and_again(path)
        try:
            while (begin := log.next_offsets.get(0, 0)) < len(RECORDS):
                batch = RECORDS[begin : begin + BATCH]
                append_again_and_again(log, b"".join(batch), begin + len(batch))
        finally:
            log.close()


def open_again_and_again(path: Path) -> AuditLog:
    """Open the log, and retry like a supervisor."""
    while True:
        with contextlib.suppress(Unavailable):
            return AuditLog.open(path, rotate_bytes=ROTATE_BYTES, source=SOURCE)


def append_again_and_again(log: AuditLog, batch: bytes, next_offset: int) -> None:
    """Append, and retry like the monitor."""
    while True:
        with contextlib.suppress(Unavailable):
            return log.append(batch, {0: next_offset})


def lines(path: Path) -> list[bytes]:
    """Return the content of all segments and the log."""
    parts = [*sorted(path.parent.glob(f"{path.name}.0*")), path]
    return b"".join(part.read_bytes() for part in parts).splitlines(keepends=True)


@contextlib.contextmanager
def new_log() -> Iterator[Path]:
    """Yield a path for a log in its own folder, in memory if possible."""
    memory = Path("/dev/shm")  # noqa: S108 - only ever a unique folder in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve() / "log.jsonl"


def calls_of_a_run() -> int:
    """Return the number of calls of an undisturbed run."""
    disk = Disk()
    with new_log() as path:
        stream(path, disk)
    return disk.calls


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize(("done", "torn_at"), [(False, None), (True, None), (True, 1), (True, 11)])
def test_a_crash_at_any_call_costs_nothing(loss: Loss, torn_at: int | None, *, done: bool) -> None:
    """After a death before, after or within any call, a restart leaves each line exactly once, in order."""
    total = calls_of_a_run()
    assert total > 60
    for step in range(1, total + 1):
        with new_log() as path:
            disk = Disk()
            with pytest.raises(ProcessDied):
                stream(path, disk, dies_at(step, done=done, torn_at=torn_at))
            disk.lose(loss, path.parent)
            stream(path, disk)
            assert lines(path) == RECORDS, f"died at call {step}"


deaths_anywhere = st.tuples(
    st.integers(1, 40), st.booleans(), st.none() | st.integers(0, 30), st.sampled_from(Loss)
)


@settings(max_examples=200)
@given(deaths=st.lists(deaths_anywhere, max_size=12))
@example(  # killed before the first checkpoint's name was durable, then lost power
    deaths=[(10, True, None, Loss.NOTHING), (7, False, None, Loss.CONTENTS_AND_NAMES)]
)
def test_crash_after_crash_costs_nothing(deaths: list[tuple[int, bool, int | None, Loss]]) -> None:
    """After any sequence of deaths, also during recovery, each line is there exactly once, in order."""
    with new_log() as path:
        disk = Disk()
        for step, done, torn_at, loss in deaths:
            with contextlib.suppress(ProcessDied):
                stream(path, disk, dies_at(step, done=done, torn_at=torn_at))
            disk.lose(loss, path.parent)
        stream(path, disk)
        assert lines(path) == RECORDS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refused_call_is_repaired_without_a_restart(code: int) -> None:
    """Whichever call the disk refuses, repeating the append makes it whole, even if power goes next.

    A refused fsync counts as in Linux: its data is lost although a later fsync succeeds.
    """
    for step in range(1, calls_of_a_run() + 1):
        with new_log() as path:
            disk = Disk()
            stream(path, disk, refuses_at(step, code))
            assert lines(path) == RECORDS, f"refused call {step}"
            disk.lose(Loss.CONTENTS_AND_NAMES, path.parent)
            stream(path, disk)
            assert lines(path) == RECORDS, f"refused call {step}, then lost power"


def test_without_fsync_power_loss_is_noticed() -> None:
    """A log without fsync does not survive the simulated power loss: these tests can fail."""
    with new_log() as path:
        disk = Disk(syncs=False)
        with pytest.raises(ProcessDied):
            stream(path, disk, dies_at(40))
        disk.lose(Loss.CONTENTS, path.parent)
        with pytest.raises(StartupError):
            stream(path, disk)
