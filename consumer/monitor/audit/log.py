"""The audit log: one line per committed prediction, exactly once, whatever is killed.

Files, all in one folder and owned by one process at a time::

    <path>              the log; readers may follow it, lines beyond the checkpoint may be cut again
    <path>.000001 …     closed segments, oldest first; never touched again, free to be moved away
    <path>.checkpoint   what counts (see :mod:`consumer.monitor.audit.checkpoint`)
    <path>.lock         held with flock while a process writes the log

An append is: write the lines, fsync, replace the checkpoint. A log that is full is set aside before
an append: rename, begin an empty log, fsync the folder, replace the checkpoint. There is one way
back from every interruption, at start and after an error alike: believe the checkpoint, finish the
renaming it missed, cut the log to its length, and let the topic deliver the rest again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, NoReturn, Self

from consumer.errors import Condition, InvariantError, StartupError, Unavailable
from consumer.monitor.audit.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from consumer.monitor.durable import FILE_MODE, sync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE)
"""Errors of a disk or a machine, as opposed to a wrong path or a missing right."""


class AuditLog:
    """An open audit log; get one from :meth:`open`."""

    def __init__(self, path: Path, rotate_bytes: int, source: dict[str, str], lock: int) -> None:
        self._path = path
        self._checkpoint_path = path.with_name(path.name + ".checkpoint")
        self._rotate_bytes = rotate_bytes
        self._lock = lock
        self._log: int | None = None
        self._checkpoint = Checkpoint(source=source)

    @classmethod
    def open(cls, path: Path, *, rotate_bytes: int, source: Mapping[str, str]) -> Self:
        """Lock the log and bring it back to its last checkpoint; begin one where there is none.

        Args:
            path: the log; folders above it are created.
            rotate_bytes: a log that has grown to this size is set aside before the next append.
            source: what the log is a view of. A log is never continued from something else.

        Raises:
            StartupError: another process writes this log, it is not ours, it was changed by someone
                else, or the path cannot be used.
            Unavailable: the disk is full or failing.
        """
        lock: int | None = None
        try:
            path = path.resolve()  # one lock and one folder, by whatever name the log is reached
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = _lock(path)
            log = cls(path, rotate_bytes, dict(source), lock)
            log._recover()
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if not isinstance(error, OSError):
                raise
            if error.errno in _PASSING:
                raise Unavailable(
                    f"audit log {path} cannot be opened: {error.strerror}; try again"
                ) from error
            raise StartupError(
                f"audit log {path} cannot be opened: {error.strerror}; make it and its folder writable, or"
                " set PURCHASE_STREAM_AUDIT__PATH"
            ) from error
        return log

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where to read on, by partition; empty for a new log."""
        return dict(self._checkpoint.next_offsets)

    def append(self, lines: bytes, next_offsets: Mapping[int, int]) -> None:
        """Add lines and remember how far they reach; durable on return, undone on error.

        After an error, call again with the same arguments. Offsets that the log has already
        reached mean that the failed call went through but for its last step: nothing is added.

        Args:
            lines: whole lines, of the records from :attr:`next_offsets` up to the new ones.
            next_offsets: where to read on after these lines, by partition.

        Raises:
            Unavailable: the disk is full or failing.
            StartupError: someone else changed the files.
            InvariantError: the offsets go back.
        """
        try:
            if self._log is None or not self._is_as_left(self._log):
                self._recover()
            if self._has_reached(next_offsets):
                return
            if self._checkpoint.length_bytes >= self._rotate_bytes:
                self._rotate()
            write_all(self._descriptor(), lines)
            os.fsync(self._descriptor())
            self._write(self._checkpoint.after(len(lines), dict(next_offsets)))
        except OSError as error:
            self._close_log()
            # Take the torn lines out of readers' sight at once; the next call does it again anyhow.
            with contextlib.suppress(OSError):
                self._recover()
            raise Unavailable(
                f"audit log {self._path} cannot be written: {error.strerror}; goes on by itself once it can",
                Condition.AUDIT_LOG,
            ) from error

    def close(self) -> None:
        """Release the files and the lock. What was appended is durable already."""
        self._close_log()
        os.close(self._lock)

    def _recover(self) -> None:
        """Return to the checkpoint.

        A failed fsync may have dropped pages that a later one reports as written, so what the
        checkpoint does not cover is cut and written anew, never fsynced again.
        """
        self._close_log()
        checkpoint = read_checkpoint(self._checkpoint_path)
        # A killed process may have left names that are there but not durable; what follows builds on them.
        sync_folder(self._path.parent)
        if checkpoint is None:
            self._begin()
            return
        self._refuse_other_source(checkpoint)
        self._checkpoint = checkpoint
        if self._segment(checkpoint.closed_segments + 1).exists():
            self._finish_rotation()
        length_bytes = self._path.stat().st_size if self._path.exists() else None
        if length_bytes is None or length_bytes < self._checkpoint.length_bytes:
            found = "is missing" if length_bytes is None else f"has {length_bytes} bytes"
            self._refuse(
                f"{found}, but {self._checkpoint.length_bytes} bytes were written; restore it (only"
                " closed segments may be moved away)"
            )
        self._log = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        if length_bytes > self._checkpoint.length_bytes:
            os.ftruncate(self._log, self._checkpoint.length_bytes)
            os.fsync(self._log)

    def _begin(self) -> None:
        """Begin a log where there is none."""
        if self._checkpoint != Checkpoint(source=self._checkpoint.source):
            self._refuse("has lost its checkpoint while it was written; restore that")
        if (self._path.exists() and self._path.stat().st_size > 0) or self._segment(1).exists():
            self._refuse("or a segment of it has lines, but no checkpoint says how far it got; restore that")
        self._begin_file(self._checkpoint)

    def _rotate(self) -> None:
        """Set the log aside and begin an empty one."""
        segment = self._segment(self._checkpoint.closed_segments + 1)
        if segment.exists():
            self._refuse(f"would be set aside as {segment.name}, which exists")
        self._close_log()
        os.rename(self._path, segment)  # noqa: PTH104 - beside the other calls whose order is the point
        self._begin_file(self._checkpoint.with_log_closed())

    def _finish_rotation(self) -> None:
        """Go on after the rename, which happened although the checkpoint does not know it yet."""
        segment = self._segment(self._checkpoint.closed_segments + 1)
        was_the_log = segment.stat().st_size == self._checkpoint.length_bytes
        if not was_the_log or (self._path.exists() and self._path.stat().st_size > 0):
            self._refuse(f"does not fit the segment {segment.name}, which the checkpoint does not know")
        self._begin_file(self._checkpoint.with_log_closed())

    def _begin_file(self, checkpoint: Checkpoint) -> None:
        """Create the log, empty, and let the checkpoint know it."""
        self._log = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
        sync_folder(self._path.parent)
        self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self._checkpoint_path, checkpoint)
        self._checkpoint = checkpoint

    def _has_reached(self, next_offsets: Mapping[int, int]) -> bool:
        """Tell whether the log is already there; refuse to go back."""
        known = self._checkpoint.next_offsets
        for partition, offset in next_offsets.items():
            if offset < known.get(partition, 0):
                raise InvariantError(
                    f"audit log {self._path}: partition {partition} would go back from offset"
                    f" {known[partition]} to {offset}; please report this"
                )
        return all(known.get(partition) == offset for partition, offset in next_offsets.items())

    def _is_as_left(self, log: int) -> bool:
        """Tell whether the path still leads to our file, at the length we left it."""
        ours = os.fstat(log)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        same_file = (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
        return same_file and ours.st_size == self._checkpoint.length_bytes

    def _refuse_other_source(self, checkpoint: Checkpoint) -> None:
        ours, its = self._checkpoint.source, checkpoint.source
        if ours != its:
            different = "; ".join(
                f"{name} {its.get(name, 'unknown')}, now {ours.get(name, 'unknown')}"
                for name in sorted(ours.keys() | its.keys())
                if ours.get(name) != its.get(name)
            )
            self._refuse(f"was written from another source ({different})")

    def _refuse(self, reason: str) -> NoReturn:
        raise StartupError(
            f"audit log {self._path} {reason}; or begin a new log: set this one aside with its segments"
            " and checkpoint, or set PURCHASE_STREAM_AUDIT__PATH"
        )

    def _segment(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:06d}")

    def _descriptor(self) -> int:
        if self._log is None:
            raise InvariantError(f"audit log {self._path} is not open; please report this")
        return self._log

    def _close_log(self) -> None:
        if self._log is not None:
            log, self._log = self._log, None
            os.close(log)


def _lock(path: Path) -> int:
    """Take the lock of a log and leave our process id in it.

    Raises:
        StartupError: another process has it; the message names it.
    """
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        write_all(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StartupError(
            f"audit log {path} is already written by process {owner}; stop that monitor, or set"
            " PURCHASE_STREAM_AUDIT__PATH"
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock
