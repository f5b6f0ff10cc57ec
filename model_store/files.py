"""Write files durably: as a whole or not at all, and append without torn lines.

A file's content is durable after its own fsync, its name after the fsync of its folder. Errors are plain
:class:`OSError`; the caller knows the meaning of the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; one system call may write only a part.

    Raises:
        OSError: The disk is full or failing. Some of the bytes may have been written.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Create a file with this content and mode. Call :func:`sync_folder` to make its name durable.

    Raises:
        FileExistsError: The file exists.
        OSError: The disk is full or failing.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    _fill(descriptor, content, mode)


def replace_file(path: Path, content: bytes | Iterable[bytes], mode: int) -> None:
    """Replace a file atomically and durably: readers see the old content or the new, never a mixture.

    Only one process at a time may replace the file. The temporary file, ``.<name>.tmp``, always has the
    same name, so that a crash leaves at most one behind.

    Args:
        path: The file.
        content: The content, as a whole or in parts.
        mode: The file's mode.

    Raises:
        OSError: The disk is full or failing. The file may or may not have been replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    _fill(descriptor, content, mode)
    os.replace(temporary, path)  # noqa: PTH105 - tests replace this module's os
    sync_folder(path.parent)


def append_line(path: Path, line: bytes, mode: int) -> None:
    """Append a line durably. If a crash left the last line unfinished, end it first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)
    try:
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
        write_all(descriptor, (b"\n" if torn else b"") + line + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file once.

    Raises:
        OSError: The file is missing, a symbolic link, not a regular file, or larger than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"{path} has {status.st_size} bytes, more than {max_bytes}")
        return file.read(max_bytes + 1)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a lock file, across processes and threads; wait for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fill(descriptor: int, content: bytes | Iterable[bytes], mode: int) -> None:
    """Write an empty file durably and close it. On a full disk, give the space back."""
    try:
        try:
            for part in [content] if isinstance(content, bytes) else content:
                write_all(descriptor, part)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            raise
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
