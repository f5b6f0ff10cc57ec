"""Search the latest lines of the audit log for an event or a student."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from consumer.monitor.audit.log import segment_paths

SEARCHED_BYTES: Final = 64 * 1024 * 1024
"""The search reads this much of the log's end, its closed segments included: some 100,000 lines."""

MAX_FOUND: Final = 50
_IDS: Final = ("event_id", "student_id")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9]+")


def find_predictions(log: Path, text: str) -> list[dict[str, Any]]:
    """Return the latest audit lines whose event id or student id is a text, newest first.

    Args:
        log: the audit log.
        text: the whole id.
    """
    found: list[dict[str, Any]] = []
    left = SEARCHED_BYTES
    for path in (log, *reversed(segment_paths(log))):
        for line in _candidates(path, left, text):
            if text in (line.get(name) for name in _IDS):
                found.append(line)
                if len(found) == MAX_FOUND:
                    return found
        left -= path.stat().st_size if path.exists() else 0
        if left <= 0:
            break
    return found


def _candidates(path: Path, size: int, text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file's end that may hold a text, the last one first.

    An id may be escaped in the log, so only its longest run of letters and digits is looked for.
    """
    needle = max(_PLAIN.findall(text.encode(errors="replace")), key=len, default=b"")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, stop = max(0, len(data) - size), len(data)
            # The line feed before stop is left out, so that an empty needle is found once in every line.
            while stop > start and (at := data.rfind(needle, start, stop - 1)) >= 0:
                line_start, line_stop = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
                line = _parsed(data[line_start : line_stop if line_stop >= 0 else len(data)])
                if line is not None:
                    yield line
                stop = line_start
    except (FileNotFoundError, ValueError):
        return  # rotated at this moment, or empty


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's object; ``None`` for a line that is damaged, or being written."""
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
