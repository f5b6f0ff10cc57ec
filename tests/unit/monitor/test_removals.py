"""What was removed from the log on purpose: erased students, and segments whose retention is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from consumer.errors import StartupError
from consumer.monitor.audit.log import AuditLog, segment_paths
from consumer.monitor.audit.removals import (
    Erasure,
    Removals,
    read_removals,
    removal_lines,
    removals_path,
    write_removals,
)
from consumer.monitor.audit.retention import CHECK_EVERY_S, Retention
from consumer.settings import AuditSettings
from tests.unit.monitor.conftest import Predict

DAY_S = 86_400.0
NOW_S = 1_800_000_000.0


def erasure(removals: Removals, student: str, before: dict[int, int], lines: int | None = 1) -> Erasure:
    """Return the erasure of a student."""
    return Erasure(
        student=removals.hashed(student.encode()),
        erased_at="2026-01-31T12:00:00.000Z",
        before=before,
        lines=lines,
    )


def test_predictions_of_an_erased_student_before_the_erasure_have_no_line(predict: Predict) -> None:
    """Later ones have: the student has come back. Other students and partitions are not affected."""
    removals = Removals()
    removals = removals.with_erasure(erasure(removals, "student-2", {0: 4}))
    batch = predict(range(6))
    offsets, partitions = np.arange(6), np.zeros(6, np.int64)
    kept = removals.without_erased(batch, partitions, offsets)
    assert [kept.text("student_id", i) for i in range(len(kept))] == [f"student-{i}" for i in (0, 1, 3, 4, 5)]
    assert len(removals.without_erased(batch, partitions, offsets + 2)) == 6
    assert len(removals.without_erased(batch, partitions + 1, offsets)) == 6


def test_a_second_erasure_extends_the_first() -> None:
    """A student who came back and is erased again has no line from both times."""
    removals = Removals()
    for end in (2, 5):
        removals = removals.with_erasure(erasure(removals, "a", {0: end}))
    assert removals.is_erased(b"a", 0, 4)
    assert not removals.is_erased(b"a", 0, 5)
    assert not removals.is_erased(b"b", 0, 1)
    assert removals.erased_lines == 2


def test_records_with_an_earlier_timestamp_are_hidden() -> None:
    """The page and `why` go by the time of the record."""
    removals = Removals()
    removals = removals.with_erasure(erasure(removals, "a", {}))
    erased_at_ms = removals.erased_at_ms(b"a")
    assert erased_at_ms is not None
    assert removals.hides(b"a", erased_at_ms)
    assert not removals.hides(b"a", erased_at_ms + 1)
    assert not removals.hides(b"b", 0)


def test_the_file_survives_a_restart_and_names_nobody(tmp_path: Path) -> None:
    """It holds a hash with a key of its own; an unfinished erasure is replaced by the finished one."""
    log = tmp_path / "log.jsonl"
    removals = read_removals(log)
    removals = removals.with_erasure(erasure(removals, "student-2", {0: 4}, lines=None))
    write_removals(log, removals)
    assert b"student-2" not in removals_path(log).read_bytes()
    assert len(read_removals(log).unfinished) == 1
    write_removals(log, removals.with_erasure(erasure(removals, "student-2", {0: 5})))
    found = read_removals(log)
    assert (len(found.erasures), found.unfinished) == (1, [])
    assert found.is_erased(b"student-2", 0, 4)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Without it an erased student would come back."""
    removals_path(tmp_path / "log").write_text("{}x")
    with pytest.raises(StartupError, match="erased students would come back"):
        read_removals(tmp_path / "log")


def line(offset: int, at_s: float, partition: int = 0) -> bytes:
    """Return an audit line of a time."""
    output = {"topic": "p", "partition": partition, "offset": offset}
    return orjson.dumps({"timestamp_utc": int(at_s * 1000), "student_id": "s", "output": output}) + b"\n"


class Kept:
    """A log whose retention is enforced at chosen times."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.path = folder / "log.jsonl"
        self.log = AuditLog.open(self.path, rotate_bytes=1, source={})
        self.now_s, self.clock_s = NOW_S, 0.0
        self.retention = Retention(
            AuditSettings.model_validate({"path": self.path, **settings}),
            lambda: self.now_s,
            lambda: self.clock_s,
        )

    def append(self, offset: int, at_s: float) -> None:
        """Append a line; the line before becomes a segment."""
        self.log.append(line(offset, at_s), {0: offset + 1})

    def enforce(self) -> None:
        """Enforce the retention a minute later."""
        self.clock_s += CHECK_EVERY_S
        self.retention.enforce(self.log)

    def names(self) -> list[str]:
        """Return the numbers of the segments."""
        return [path.suffix for path in segment_paths(self.path)]


def test_segments_are_removed_by_age_and_it_is_written_down(tmp_path: Path) -> None:
    """The oldest go first, and the removals say which lines are gone."""
    kept = Kept(tmp_path, retention_days=10)
    for offset, age_days in enumerate([12, 11, 9, 0.5]):
        kept.append(offset, NOW_S - age_days * DAY_S)
    kept.enforce()
    assert kept.names() == [".000003"]
    removals = read_removals(kept.path)
    assert (removals.expired.segments, removals.expired.lines, removals.expired.before) == (2, 2, {0: 2})
    assert removals.is_expired(0, 1)
    assert not removals.is_expired(0, 2)
    assert "removed by retention: 2 segments with 2 lines" in "\n".join(removal_lines(removals))
    kept.append(4, NOW_S)  # the log goes on


def test_a_log_that_is_never_full_is_rotated_daily(tmp_path: Path) -> None:
    """Otherwise a line of a quiet stream would stay forever."""
    kept = Kept(tmp_path, retention_days=10)
    kept.append(0, NOW_S)
    kept.enforce()
    assert kept.names() == []
    kept.now_s += DAY_S
    kept.enforce()
    assert (kept.names(), kept.path.stat().st_size) == ([".000001"], 0)
    kept.now_s += 10 * DAY_S
    kept.enforce()
    assert kept.names() == []
    kept.append(1, kept.now_s)


def test_segments_are_removed_by_total_size(tmp_path: Path) -> None:
    """The log and what is left of its segments fit; the log itself is never removed."""
    kept = Kept(tmp_path, retention_bytes=1024)
    size = len(line(100, NOW_S))
    for offset in range(100, 200):
        kept.append(offset, NOW_S)
    kept.enforce()
    assert len(kept.names()) + 1 == 1024 // size


def test_it_looks_once_a_minute_and_without_settings_never(tmp_path: Path) -> None:
    """A check lists the folder, which must not happen for every batch."""
    kept = Kept(tmp_path, retention_bytes=1024)
    kept.enforce()
    for offset in range(100, 200):
        kept.append(offset, NOW_S)
    kept.retention.enforce(kept.log)
    assert len(kept.names()) == 99
    (tmp_path / "other").mkdir()
    forever = Kept(tmp_path / "other")
    for offset in range(3):
        forever.append(offset, 0)
    forever.enforce()
    assert len(forever.names()) == 2


def test_an_interrupted_removal_is_finished_and_counted_once(tmp_path: Path) -> None:
    """The record was written, and the process died before the file was deleted."""
    kept = Kept(tmp_path, retention_days=10)
    for offset, age_days in enumerate([12, 0]):
        kept.append(offset, NOW_S - age_days * DAY_S)
    (segment,) = segment_paths(kept.path)
    content = segment.read_bytes()
    kept.enforce()
    segment.write_bytes(content)
    kept.enforce()
    assert kept.names() == []
    assert read_removals(kept.path).expired.lines == 1
