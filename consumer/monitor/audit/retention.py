"""Remove closed segments of the audit log whose retention is over."""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from consumer import timestamps
from consumer.errors import StartupError
from consumer.monitor.audit.log import AuditLog, log_bytes, segment_paths
from consumer.monitor.audit.removals import Expired, read_removals, write_removals
from model_store.files import sync_folder

if TYPE_CHECKING:
    from consumer.settings import AuditSettings

log = structlog.get_logger(__name__)

CHECK_EVERY_S: Final = 60.0
_S_PER_DAY: Final = 86_400.0

_OUTPUT: Final = re.compile(rb'"output":\{"topic":"[^"]*","partition":(\d+),"offset":(\d+)\}\}\n')
"""The end of every line that the monitor writes."""

_CHUNK_BYTES: Final = 16 * 1024 * 1024


class Retention:
    """Removes the oldest closed segments, by age or by total size.

    With a retention in days, the log is also rotated once its first line is a day old (or as old as the
    retention, if that is less). So a line is removed at most a day after its time.

    Args:
        settings: The retention.
        now_s: Wall clock, seconds since the epoch.
        clock_s: Monotonic clock, seconds.
    """

    def __init__(
        self,
        settings: AuditSettings,
        now_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s = None if settings.retention_days is None else settings.retention_days * _S_PER_DAY
        self._max_bytes = settings.retention_bytes
        self._now_s = now_s
        self._clock_s = clock_s
        self._check_at_s = clock_s()
        self._failing = False

    def enforce(self, audit_log: AuditLog) -> None:
        """Remove what is due, at most once a minute. A failure is logged once and tried again."""
        if (self._max_age_s is None and self._max_bytes is None) or self._clock_s() < self._check_at_s:
            return
        self._check_at_s = self._clock_s() + CHECK_EVERY_S
        try:
            self._rotate_by_age(audit_log)
            self._remove_segments(audit_log.path)
        except (OSError, StartupError) as error:
            if not self._failing:
                log.warning("cannot remove segments of the audit log; retrying", reason=str(error))
            self._failing = True
        else:
            self._failing = False

    def _rotate_by_age(self, audit_log: AuditLog) -> None:
        if self._max_age_s is None:
            return
        first_s = _time_of_line(audit_log.path, first=True)
        if first_s is not None and self._now_s() - first_s >= min(self._max_age_s, _S_PER_DAY):
            audit_log.close_segment()

    def _remove_segments(self, path: Path) -> None:
        removals = read_removals(path)
        for segment in segment_paths(path):
            if not self._is_due(path, segment):
                return
            lines, stops = _count(segment)
            expired = removals.expired
            # If a removal was interrupted before the file was deleted, its lines are counted already.
            if any(stop > expired.before.get(partition, 0) for partition, stop in stops.items()):
                removals = removals.with_expired(
                    Expired(
                        segments=expired.segments + 1,
                        lines=expired.lines + lines,
                        before={**expired.before, **stops},
                        last_at=timestamps.format_s(self._now_s()),
                    )
                )
                write_removals(path, removals)
            segment.unlink(missing_ok=True)
            sync_folder(segment.parent)
            log.info("removed a segment of the audit log", segment=segment.name, lines=lines)

    def _is_due(self, path: Path, segment: Path) -> bool:
        if self._max_bytes is not None and log_bytes(path) > self._max_bytes:
            return True
        if self._max_age_s is None:
            return False
        last_s = _time_of_line(segment, first=False)
        return last_s is None or self._now_s() - last_s > self._max_age_s


def _count(segment: Path) -> tuple[int, dict[int, int]]:
    """Return the number of lines, and by partition the offset after the last line."""
    lines, stops = 0, dict[int, int]()
    with segment.open("rb") as file:
        for chunk in iter(lambda: file.readlines(_CHUNK_BYTES), []):
            lines += len(chunk)
            found = dict(_OUTPUT.findall(b"".join(chunk)))  # of a partition's offsets, the last one stays
            stops |= {int(partition): int(offset) + 1 for partition, offset in found.items()}
    return lines, stops


def _time_of_line(path: Path, *, first: bool) -> float | None:
    """Return the time of a file's first or last line, seconds since the epoch; ``None`` if it has none.

    A damaged line has no time; the next one on the same side counts.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, stop = 0, data.rfind(b"\n") + 1
            while start < stop:
                line_start = start if first else data.rfind(b"\n", start, stop - 1) + 1
                line_stop = data.find(b"\n", line_start) + 1
                try:
                    return timestamps.seconds(orjson.loads(data[line_start:line_stop])["timestamp_utc"])
                except (ValueError, KeyError, TypeError):
                    start, stop = (line_stop, stop) if first else (start, line_start)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        pass
    return None
