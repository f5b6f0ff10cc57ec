"""Files that are whole or not there, whatever is killed when, and read without being led astray.

Errors are plain OSErrors; the caller knows what the file meant.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist yet, durably but for its name (see :func:`sync_folder`)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Give a file new content in one step: readers see the old content or the new, never a mixture.

    The caller holds a lock; the temporary name is always the same, so that a crash leaves at most one.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    write_new(temporary, content, mode)
    temporary.replace(path)
    sync_folder(path.parent)


def append_line(path: Path, line: bytes, mode: int) -> None:
    """Append a line durably; one that a crash left unfinished is closed off first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
        file.write((b"\n" if torn else b"") + line + b"\n")
        os.fsync(descriptor)
    sync_folder(path.parent)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file once.

    Raises:
        OSError: it is missing, a symbolic link or anything but a regular file, or too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"{path} has {status.st_size} bytes, more than {max_bytes}")
        return file.read(max_bytes + 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a lock file, across processes and threads; waits for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
