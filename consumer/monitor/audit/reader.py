"""Reads the audit log: its closed segments, oldest first, then the log itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final

from consumer.errors import StartupError

_BATCH: Final = 10_000
_TRIES: Final = 100


def segment_paths(path: Path) -> list[Path]:
    """Return the closed segments, ``<path>.000001`` and on, oldest first."""
    numbered = re.compile(re.escape(path.name) + r"\.(\d{6,})")
    found = ((numbered.fullmatch(other.name), other) for other in path.parent.glob(f"{path.name}.*"))
    return [other for match, other in sorted((int(m[1]), o) for m, o in found if m)]


def log_bytes(path: Path) -> int:
    """Return the size of the log and its segments together."""
    total = 0
    for file in (*segment_paths(path), path):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def audit_log_lines(path: Path) -> Iterator[tuple[str, int, list[bytes]]]:
    """Yield the lines in batches: file name, number of the first line (from 1), lines without their ends.

    An unfinished last line of the log itself is being written, or will be repaired, and is left out.

    Raises:
        StartupError: the log cannot be read.
    """
    try:
        files = _open(path)
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.enter_context(file)
            for name, file in zip((Path(file.name).name for file in files), files, strict=True):
                number = 1
                while lines := list(islice(file, _BATCH)):
                    if file is files[-1] and not lines[-1].endswith(b"\n"):
                        del lines[-1]
                    yield name, number, [line.rstrip(b"\n") for line in lines]
                    number += len(lines)
    except OSError as error:
        raise StartupError(
            f"the audit log {path} cannot be read: {error.strerror}; see audit.path"
        ) from error


def _open(path: Path) -> list[IO[bytes]]:
    """Open all files of one moment: none is set aside between listing and opening them."""
    for _ in range(_TRIES):
        paths = segment_paths(path)
        files: list[IO[bytes]] = []
        with contextlib.suppress(FileNotFoundError):
            for file in (*paths, path):
                files.append(file.open("rb"))  # noqa: PERF401 - those opened before a failure are to be closed
            if segment_paths(path) == paths:
                return files
        for opened in files:
            opened.close()
    raise FileNotFoundError(2, "no such file", str(path))
