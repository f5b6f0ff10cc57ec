"""Keep the audit log: one line per committed prediction, exactly once, even if the process is killed.

Files, all in one folder and owned by one process at a time::

    <path>              the log; lines beyond the checkpoint may be cut off again
    <path>.000001 …     closed segments, oldest first; they may be moved away
    <path>.checkpoint   how much of the log counts (see :class:`Checkpoint`)
    <path>.removals     what was removed on purpose (see :mod:`consumer.monitor.audit.removals`)
    <path>.lock         locked with flock while a process writes the log

To append, write the lines, fsync, replace the checkpoint. To rotate a full log before an append, rename
it, create an empty log, fsync the folder, replace the checkpoint. Recovery is the same at start and after
an error: trust the checkpoint, finish a rotation that it missed, truncate the log to the checkpointed
length, and read the remaining records from the topic again.

A line is in the log once the checkpoint covers it. The checkpoint is written after the lines that it
covers are durable, never before.

Closed segments change only when a student is erased or when their retention is over. The checkpoint says
nothing about their content, so replacing or deleting one is atomic by itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.errors import Condition, InvariantError, StartupError, Unavailable
from model_store.files import replace_file, sync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


FORMAT: Final = 1

FILE_MODE: Final = 0o640
"""Mode of the monitor's files: readable by the group, closed to others, because they hold personal data."""

_Count = Annotated[int, Field(ge=0)]


class Checkpoint(BaseModel):
    """A consistent state of the audit log.

    Attributes:
        format: Version of the file format.
        source: Identity of the topic that the log is a view of: cluster, topic, topic id.
        closed_segments: Number of closed segments; they are numbered from 1.
        length_bytes: Length of the log. Bytes beyond it are not part of the log.
        next_offsets: The next offset to append, by partition of the topic.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = FORMAT
    source: dict[str, str]
    closed_segments: _Count = 0
    length_bytes: _Count = 0
    next_offsets: dict[_Count, _Count] = Field(default_factory=dict)

    def after(self, n_bytes: int, next_offsets: dict[int, int]) -> Checkpoint:
        """Return the state after an append."""
        return self.model_copy(
            update={
                "length_bytes": self.length_bytes + n_bytes,
                "next_offsets": {**self.next_offsets, **next_offsets},
            }
        )

    def with_log_closed(self) -> Checkpoint:
        """Return the state after a rotation."""
        return self.model_copy(update={"closed_segments": self.closed_segments + 1, "length_bytes": 0})


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read the checkpoint; return ``None`` if there is none.

    Raises:
        StartupError: The file is not a valid checkpoint.
        OSError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Checkpoint.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise StartupError(
            f"{path} is not a valid checkpoint ({where}: {problem['msg']}); restore it, or move it away"
            " together with the audit log and its segments to start a new log"
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint durably.

    Raises:
        OSError: It is unknown whether the checkpoint was replaced; read it again before you continue.
    """
    replace_file(path, checkpoint.model_dump_json(indent=1).encode() + b"\n", FILE_MODE)


_TRANSIENT_ERRNOS: Final = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
)
"""Errors of the disk or the machine, as opposed to a wrong path or a missing permission."""

_LINES_PER_BATCH: Final = 10_000
_OPEN_ATTEMPTS: Final = 100


class AuditLog:
    """An open audit log. Create one with :meth:`open`."""

    def __init__(self, path: Path, rotate_bytes: int, source: dict[str, str], lock: int) -> None:
        self._path = path
        self._checkpoint_path = path.with_name(path.name + ".checkpoint")
        self._rotate_bytes = rotate_bytes
        self._lock = lock
        self._log: int | None = None
        self._checkpoint = Checkpoint(source=source)

    @classmethod
    def open(cls, path: Path, *, rotate_bytes: int, source: Mapping[str, str]) -> Self:
        """Lock the log and return it to its last checkpoint, or create it.

        Args:
            path: The log; missing parent folders are created.
            rotate_bytes: Size at which the log is rotated before the next append.
            source: Identity of the topic that the log is a view of. A log is never continued from
                another topic.

        Raises:
            StartupError: Another process writes this log, it belongs to another topic, someone else
                changed it, or the path is unusable.
            Unavailable: The disk is full or failing.
        """
        lock: int | None = None
        try:
            path = path.resolve()  # one lock and one folder, even for a symbolic link
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = _lock(path)
            log = cls(path, rotate_bytes, dict(source), lock)
            log._recover()
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if not isinstance(error, OSError):
                raise
            if error.errno in _TRANSIENT_ERRNOS:
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
        """The next offset to append, by partition; empty for a new log."""
        return dict(self._checkpoint.next_offsets)

    @property
    def path(self) -> Path:
        """The log."""
        return self._path

    @property
    def source(self) -> dict[str, str]:
        """The identity of the topic that the log is a view of."""
        return dict(self._checkpoint.source)

    def append(self, lines: bytes, next_offsets: Mapping[int, int]) -> None:
        """Append lines and advance the checkpoint. Durable on return, undone on error.

        After an error, call again with the same arguments. If the failed call did write the
        checkpoint, the log already has these offsets, and the second call appends nothing.

        Args:
            lines: Whole lines for the records from :attr:`next_offsets` up to the new next offsets.
            next_offsets: The next offset after these lines, by partition.

        Raises:
            Unavailable: The disk is full or failing.
            StartupError: Someone else changed the files.
            InvariantError: An offset would move back.
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
            # Remove torn lines now, for readers. The next call would remove them in any case.
            with contextlib.suppress(OSError):
                self._recover()
            raise Unavailable(
                f"audit log {self._path} cannot be written: {error.strerror}; retrying until it can",
                Condition.AUDIT_LOG,
            ) from error

    def close_segment(self) -> None:
        """Close the log as a segment and continue with an empty one, unless it is empty.

        Raises:
            OSError: The disk is full or failing; the next open finishes the rotation.
        """
        if self._log is None or not self._is_as_left(self._log):
            self._recover()
        if self._checkpoint.length_bytes:
            self._rotate()

    def close(self) -> None:
        """Release the files and the lock. All appended lines are durable already."""
        self._close_log()
        os.close(self._lock)

    def _recover(self) -> None:
        """Return to the checkpoint.

        After a failed fsync, the kernel may drop pages that a later fsync reports as written. So
        everything beyond the checkpoint is truncated and written again, never only fsynced again.
        """
        self._close_log()
        checkpoint = read_checkpoint(self._checkpoint_path)
        # A killed process may have left names that are not durable yet; make them durable first.
        sync_folder(self._path.parent)
        if checkpoint is None:
            self._create()
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

    def _create(self) -> None:
        """Create a new log."""
        if self._checkpoint != Checkpoint(source=self._checkpoint.source):
            self._refuse("lost its checkpoint while it was written; restore the checkpoint")
        if (self._path.exists() and self._path.stat().st_size > 0) or self._segment(1).exists():
            self._refuse(
                "or a segment of it has lines, but the checkpoint is missing; restore the checkpoint"
            )
        self._start_file(self._checkpoint)

    def _rotate(self) -> None:
        """Close the log as a segment and create an empty one."""
        segment = self._segment(self._checkpoint.closed_segments + 1)
        if segment.exists():
            self._refuse(f"would become the segment {segment.name}, which exists already")
        self._close_log()
        os.rename(self._path, segment)  # noqa: PTH104 - tests replace this module's os
        self._start_file(self._checkpoint.with_log_closed())

    def _finish_rotation(self) -> None:
        """Finish a rotation whose rename happened, but which the checkpoint does not include yet."""
        segment = self._segment(self._checkpoint.closed_segments + 1)
        was_the_log = segment.stat().st_size == self._checkpoint.length_bytes
        if not was_the_log or (self._path.exists() and self._path.stat().st_size > 0):
            self._refuse(f"does not match the segment {segment.name}, which is not in the checkpoint")
        self._start_file(self._checkpoint.with_log_closed())

    def _start_file(self, checkpoint: Checkpoint) -> None:
        """Create an empty log and write its checkpoint."""
        self._log = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
        sync_folder(self._path.parent)
        self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self._checkpoint_path, checkpoint)
        self._checkpoint = checkpoint

    def _has_reached(self, next_offsets: Mapping[int, int]) -> bool:
        """Return whether the log already has these offsets; refuse offsets that move back."""
        known = self._checkpoint.next_offsets
        for partition, offset in next_offsets.items():
            if offset < known.get(partition, 0):
                raise InvariantError(
                    f"audit log {self._path}: partition {partition} would go back from offset"
                    f" {known[partition]} to {offset}; please report this"
                )
        return all(known.get(partition) == offset for partition, offset in next_offsets.items())

    def _is_as_left(self, log: int) -> bool:
        """Return whether the path still names the open file, and its length is the checkpointed one."""
        own = os.fstat(log)
        try:
            current = self._path.stat()
        except FileNotFoundError:
            return False
        same_file = (own.st_dev, own.st_ino) == (current.st_dev, current.st_ino)
        return same_file and own.st_size == self._checkpoint.length_bytes

    def _refuse_other_source(self, checkpoint: Checkpoint) -> None:
        current, written = self._checkpoint.source, checkpoint.source
        if current != written:
            different = "; ".join(
                f"{name} {written.get(name, 'unknown')}, now {current.get(name, 'unknown')}"
                for name in sorted(current.keys() | written.keys())
                if current.get(name) != written.get(name)
            )
            self._refuse(f"was written from another source ({different})")

    def _refuse(self, reason: str) -> NoReturn:
        raise StartupError(
            f"audit log {self._path} {reason}; or start a new log: move this one away with its segments"
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
    """Take the lock of a log and write our process id into it.

    Raises:
        StartupError: Another process holds the lock; the message names it.
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


def segment_paths(path: Path) -> list[Path]:
    """Return the closed segments, oldest first."""
    numbered = re.compile(re.escape(path.name) + r"\.(\d{6,})")
    found = ((numbered.fullmatch(other.name), other) for other in path.parent.glob(f"{path.name}.*"))
    return [other for match, other in sorted((int(m[1]), o) for m, o in found if m)]


def log_bytes(path: Path) -> int:
    """Return the total size of the log and its segments."""
    total = 0
    for file in (*segment_paths(path), path):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def audit_log_lines(path: Path) -> Iterator[tuple[str, int, list[bytes]]]:
    """Yield the lines of the closed segments and of the log, in batches.

    An unfinished last line is left out: it is being written, or will be repaired.

    Yields:
        File name, number of the first line in that file (from 1), and the lines without line feeds.

    Raises:
        StartupError: The log cannot be read.
    """
    try:
        files = _open_files(path)
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.enter_context(file)
            for name, file in zip((Path(file.name).name for file in files), files, strict=True):
                number = 1
                while lines := list(islice(file, _LINES_PER_BATCH)):
                    if file is files[-1] and not lines[-1].endswith(b"\n"):
                        del lines[-1]
                    yield name, number, [line.rstrip(b"\n") for line in lines]
                    number += len(lines)
    except OSError as error:
        raise StartupError(
            f"the audit log {path} cannot be read: {error.strerror}; see audit.path"
        ) from error


def _open_files(path: Path) -> list[IO[bytes]]:
    """Open a consistent set of files; start over if the log was rotated between listing and opening."""
    for _ in range(_OPEN_ATTEMPTS):
        paths = segment_paths(path)
        files: list[IO[bytes]] = []
        with contextlib.suppress(FileNotFoundError):
            for file in (*paths, path):
                files.append(file.open("rb"))  # noqa: PERF401 - close those opened before a failure
            if segment_paths(path) == paths:
                return files
        for opened in files:
            opened.close()
    raise FileNotFoundError(2, "no such file", str(path))
