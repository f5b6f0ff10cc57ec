"""What it takes to be sure that bytes are on the disk: three functions over POSIX calls.

A file's content is safe after its own fsync, its name only after its folder's fsync.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FILE_MODE: Final = 0o640
"""Readable by the group, closed to others: the files hold personal data."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; the system may take only a part at a time.

    Raises:
        OSError: the disk is full or failing. Some of the bytes may have been written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place as a whole: after a crash it holds the old content or the new, never a mix."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)  # noqa: PTH105 - beside the other calls whose order is the point
    sync_folder(path.parent)
