"""Finds the line of a prediction in the audit log, by halving: lines keep the order of their predictions."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from consumer.audit.log_reader import segment_paths
from consumer.errors import StartupError
from consumer.explain.bisect import narrowed

_READ_THROUGH_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line of the audit log.

    Attributes:
        path: the log, or the segment of it.
        at_byte: where in the file the line begins.
        fields: what it says.
    """

    path: Path
    at_byte: int
    fields: dict[str, Any]


def find_line(log: Path, topic: str, partition: int, offset: int) -> FoundLine | None:
    """Return the line of the prediction at an offset of the predictions topic, or ``None``.

    Raises:
        StartupError: there is no audit log, or it cannot be read.
    """
    paths = [*segment_paths(log), log]
    try:
        for path in reversed(paths):
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    lines = _Lines(data, topic, partition)
                    found = lines.find(offset)
                    if found is not None:
                        return FoundLine(path, *found)
                    if lines.begin_at_or_before(offset):
                        return None
    except OSError as error:
        raise StartupError(f"the audit log {log} cannot be read: {error.strerror}; see audit.path") from error
    return None


class _Lines:
    """The lines of one file that are of one partition."""

    def __init__(self, data: mmap.mmap, topic: str, partition: int) -> None:
        self._data = data
        self._topic = topic
        self._partition = partition
        self._end = data.rfind(b"\n") + 1
        """What is behind it is a line that is being written."""

    def begin_at_or_before(self, offset: int) -> bool:
        """Tell whether the first line is of this offset or of an earlier one."""
        first = self._probe(0, self._end)
        return first is not None and first[1] <= offset

    def find(self, offset: int) -> tuple[int, dict[str, Any]] | None:
        begin, end = narrowed(self._probe, 0, self._end, offset, _READ_THROUGH_BYTES)
        while (seen := self._first(begin, end)) is not None:
            at, fields, begin = seen
            if fields["output"]["offset"] == offset:
                return at, fields
        return None

    def _probe(self, begin: int, end: int) -> tuple[int, int] | None:
        seen = self._first(begin, end)
        return None if seen is None else (seen[0], seen[1]["output"]["offset"])

    def _first(self, begin: int, end: int) -> tuple[int, dict[str, Any], int] | None:
        """Return the first of our lines that begins in a part: where, what it says, where the next begins."""
        at = 0 if begin == 0 else self._data.find(b"\n", begin - 1) + 1
        while begin <= at < end:
            line_end = self._data.find(b"\n", at) + 1
            try:
                fields = orjson.loads(self._data[at:line_end])
                output = fields["output"]
                if (output["topic"], output["partition"]) == (self._topic, self._partition):
                    return at, fields, line_end
            except (ValueError, KeyError, TypeError):
                pass  # `audit verify` tells of lines that are none
            at = line_end
        return None
