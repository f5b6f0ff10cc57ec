"""The reader returns every line of the log and its segments, in order, while it is being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.errors import StartupError
from consumer.monitor.audit.log import audit_log_lines, log_bytes, segment_paths


def test_segments_come_before_the_log_by_number(tmp_path: Path) -> None:
    """Segments are read in numeric order, and other files beside the log are not read."""
    path = tmp_path / "log.jsonl"
    for suffix in (".1000000", ".000002", ".000010", "", ".checkpoint", ".lock", ".000001.bak"):
        (tmp_path / f"log.jsonl{suffix}").write_text(f"in{suffix}\n")
    read = [line for _, _, lines in audit_log_lines(path) for line in lines]
    assert read == [b"in.000002", b"in.000010", b"in.1000000", b"in"]
    assert [segment.suffix for segment in segment_paths(path)] == [".000002", ".000010", ".1000000"]
    assert log_bytes(path) == sum(map(len, read)) + len(read)


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    """The unfinished last line of the log is left out."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"one\ntw")
    assert list(audit_log_lines(path)) == [("log.jsonl", 1, [b"one"])]


def test_a_torn_line_in_a_closed_segment_is_not_left_out(tmp_path: Path) -> None:
    """The unfinished last line of a segment is returned."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"")
    path.with_name("log.jsonl.000001").write_bytes(b"one\ntw")
    assert list(audit_log_lines(path)) == [("log.jsonl.000001", 1, [b"one", b"tw"])]


def test_batches_know_the_numbers_of_their_lines(tmp_path: Path) -> None:
    """20,001 lines come in three batches."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x\n" * 20_001)
    assert [(number, len(lines)) for _, number, lines in audit_log_lines(path)] == [
        (1, 10_000),
        (10_001, 10_000),
        (20_001, 1),
    ]


def test_a_missing_log_is_one_clear_line(tmp_path: Path) -> None:
    """The message names the file and the setting."""
    with pytest.raises(StartupError, match=r"log\.jsonl cannot be read: .*audit\.path"):
        list(audit_log_lines(tmp_path / "log.jsonl"))
