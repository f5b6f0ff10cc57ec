"""Searching the end of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.dashboard import records
from consumer.dashboard.records import find_predictions
from consumer.monitor.audit.lines import audit_lines
from consumer.pipeline.decode import Decoder
from schemas.repository import BundledSchemas, purchase_prediction
from tests.support.events import prediction


def lines(*ids: tuple[str, str]) -> bytes:
    """Return audit lines of events and their students."""
    decoder = Decoder(purchase_prediction(), BundledSchemas())
    batch, _ = decoder.decode([prediction(event_id=event, student_id=student) for event, student in ids])
    n = range(len(ids))
    return audit_lines(batch, source_topic="e", output_topic="p", partitions=[0 for _ in n], offsets=list(n))


def found(log: Path, text: str) -> list[Any]:
    """Return the event ids that a search finds."""
    return [line["event_id"] for line in find_predictions(log, text)]


def test_events_and_students_are_found_newest_first(tmp_path: Path) -> None:
    """The whole id has to match; closed segments are searched after the log."""
    log = tmp_path / "log.jsonl"
    (tmp_path / "log.jsonl.000001").write_bytes(lines(("e-1", "s-1"), ("e-2", "s-2")))
    (tmp_path / "log.jsonl.000002").write_bytes(lines(("e-3", "s-1")))
    log.write_bytes(lines(("e-4", "s-11"), ("e-5", "s-1"), ("e-6", "e-1")))
    assert found(log, "s-1") == ["e-5", "e-3", "e-1"]
    assert found(log, "e-1") == ["e-6", "e-1"]
    assert found(log, "s-") == []
    assert found(log, "scored") == []


def test_a_torn_or_foreign_line_is_skipped(tmp_path: Path) -> None:
    """A line that is being written, or is no object, does not stop the search."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'["e-1"]\ne-1\n' + lines(("e-1", "s-1")) + b'{"event_id":"e-1","stu')
    assert found(log, "e-1") == ["e-1"]


def test_a_missing_or_empty_log_has_nothing(tmp_path: Path) -> None:
    """Before the first prediction nothing is found."""
    assert found(tmp_path / "log.jsonl", "e-1") == []
    (tmp_path / "log.jsonl").touch()
    assert found(tmp_path / "log.jsonl", "e-1") == []


def test_the_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of the log is searched, and only this many lines are returned."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(*[(f"e-{i}", "s-1") for i in range(100)]))
    assert found(log, "s-1") == [f"e-{i}" for i in range(99, 49, -1)]
    monkeypatch.setattr(records, "SEARCHED_BYTES", len(lines(("e-99", "s-1"))) * 3)
    assert found(log, "s-1") == ["e-99", "e-98", "e-97"]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_id_is_found(tmp_path: Path, text: str) -> None:
    """An id with quotes, control characters or any other text is found as it is."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(("e-1", "s-1"), ("e-2", text)))
    assert "e-2" in found(log, text)
