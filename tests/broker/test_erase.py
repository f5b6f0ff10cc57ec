"""An erased student is found nowhere, and everybody else is untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from consumer.cli import main
from consumer.errors import BadInputError, StartupError
from consumer.ops.audit_rebuild import rebuild_audit_log
from consumer.ops.erase import StudentErasure
from consumer.ops.verify.verifier import verify
from consumer.ops.why.trace import EventTracer
from consumer.settings import AuditSettings, KafkaSettings, Settings, TopicSettings
from schemas.repository import BundledSchemas
from tests.broker.test_verify import letter
from tests.support.events import good, prediction
from tests.support.monitor import n_logged, running, until

pytestmark = pytest.mark.broker

STUDENT = 'student-\u00e4"1'
"""Escaped in JSON, and more than ASCII."""

OTHERS = ("student-2", 'student-\u00e4"12', "student")
REJECTED = 5
"""The number of the event that is a dead letter."""

N_EVENTS = 40


def student_of(n: int) -> str:
    """Every fourth event is about the student who is erased."""
    return STUDENT if n % 4 == 1 else OTHERS[n % 3]


@pytest.fixture
def settings(kafka: str, topics: Callable[..., str], tmp_path: Path) -> Settings:
    """Topics with one partition each, for a log with small segments."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka),
        topics=TopicSettings(
            events=topics("events"),
            predictions=topics("predictions", cleanup_policy="compact,delete"),
            dead_letters=topics("letters"),
            outcomes=topics("outcomes"),
        ),
        audit=AuditSettings(path=tmp_path / "log.jsonl", rotate_bytes=2048),
    )


def publish_and_log(settings: Settings) -> None:
    """Publish the events with their outputs in four parts, and log each part in a segment of its own."""
    topics = settings.topics
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "enable.idempotence": True})
    for start in range(0, N_EVENTS, 10):
        for n in range(start, start + 10):
            student = student_of(n)
            key = student.encode()
            producer.produce(topics.events, good(event_id=f"e-{n}", student_id=student), key)
            if n == REJECTED:
                value, headers = letter(topics.events, n)
                producer.produce(topics.dead_letters, value, key, headers=[*headers])
            else:
                value = prediction(event_id=f"e-{n}", student_id=student, source_offset=n)
                producer.produce(topics.predictions, value, key)
        assert producer.flush(20) == 0
        log_until(settings, start + 9)
    assert len(list(settings.audit.path.parent.glob("log.jsonl.0*"))) == 3


def log_until(settings: Settings, n_lines: int) -> None:
    """Run a monitor until the log has this many lines."""
    with running(settings) as watched:
        until(lambda: n_logged(settings.audit.path) >= n_lines or watched.error is not None)
    assert watched.error is None


def lines_of(path: Path) -> list[bytes]:
    """Return all lines of the log."""
    files = [*sorted(path.parent.glob(f"{path.name}.0*")), path]
    return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]


def test_an_erased_student_is_found_nowhere_and_the_others_are_untouched(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log, segments, verify, why, rebuild and a monitor that starts again: each tells the same."""
    path = settings.audit.path
    publish_and_log(settings)
    before = lines_of(path)
    others = [line for line in before if '"student-ä\\"1"' not in line.decode()]
    assert len(before) - len(others) == N_EVENTS // 4 - 1

    erasure = StudentErasure(settings, BundledSchemas(), STUDENT)
    footprint = erasure.find()
    assert lines_of(path) == before
    counts = {role: trace.records for role, trace in footprint.topics.items()}
    assert counts == {"events": 10, "predictions": 9, "dead_letters": 1, "outcomes": 0}
    with running(settings), pytest.raises(StartupError, match="stop that monitor"), erasure.locked():
        pass
    with erasure.locked() as log:
        finished = erasure.erase(log, footprint)
    assert (finished.lines, finished.tombstones) == (9, 1)

    assert lines_of(path) == others
    needle = STUDENT.encode(), STUDENT.replace('"', '\\"').encode() + b'"'
    for file in path.parent.iterdir():
        assert not any(text in file.read_bytes() for text in needle), file
    report = verify(settings)
    assert report.holds, report.lines()
    assert "erased from the audit log: 1 students, 9 lines" in "\n".join(report.lines())
    with pytest.raises(BadInputError, match="erased"):
        EventTracer(settings, BundledSchemas()).trace(0, 1)

    # The monitor reads the tombstone; the student comes back with a new event, which is logged.
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    producer.produce(settings.topics.events, good(event_id="e-41", student_id=STUDENT), STUDENT.encode())
    value = prediction(event_id="e-41", student_id=STUDENT, source_offset=N_EVENTS)
    producer.produce(settings.topics.predictions, value, STUDENT.encode())
    assert producer.flush(20) == 0
    log_until(settings, len(others) + 1)
    after = lines_of(path)
    assert after[:-1] == others
    assert verify(settings).holds

    for file in (*path.parent.glob("log.jsonl.0*"), path, path.with_name("log.jsonl.checkpoint")):
        file.unlink()
    rebuilt = rebuild_audit_log(settings, path, lambda _: None)
    assert (rebuilt.lines, rebuilt.erased) == (len(after), 9)
    assert lines_of(path) == after
    assert not capsys.readouterr().out


def test_an_interrupted_erasure_is_said_and_finished_by_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after the first segment: verify does not hold, and the second run removes the rest."""
    path = settings.audit.path
    publish_and_log(settings)
    erasure = StudentErasure(settings, BundledSchemas(), STUDENT)
    footprint = erasure.find()
    rewritten: list[Path] = []

    def die_later(segment: Path) -> int:
        if rewritten:
            raise KeyboardInterrupt
        rewritten.append(segment)
        return original(segment)

    original = erasure._rewrite
    monkeypatch.setattr(erasure, "_rewrite", die_later)
    with pytest.raises(KeyboardInterrupt), erasure.locked() as log:
        erasure.erase(log, footprint)
    report = verify(settings)
    assert report.count("unfinished_erasure") == 1
    assert [name for name, found in report.findings.items() if found.count] == ["unfinished_erasure"]

    again = StudentErasure(settings, BundledSchemas(), STUDENT)
    with again.locked() as log:
        again.erase(log, again.find())
    assert verify(settings).holds
    assert not any('"student-ä\\"1"' in line.decode() for line in lines_of(path))


def test_hashed_ids_name_nobody_and_are_erased_all_the_same(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command finds the student by the plain id; with another key it says that it cannot."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    hashed = settings.model_copy(
        update={"audit": settings.audit.model_copy(update={"hash_ids_key_file": key})}
    )
    publish_and_log(hashed)
    assert not any(b"student-2" in line or b'"e-' in line for line in lines_of(settings.audit.path))
    report = verify(hashed)
    assert report.holds, report.lines()
    assert "another key" in "\n".join(verify(settings).lines())
    assert EventTracer(hashed, BundledSchemas()).trace(0, 2).audit_line_agrees

    topics = settings.topics
    arguments = [
        *("--set", f"kafka.bootstrap_servers={settings.kafka.bootstrap_servers}"),
        *("--set", f"topics.events={topics.events}", "--set", f"topics.predictions={topics.predictions}"),
        *("--set", f"topics.dead_letters={topics.dead_letters}"),
        *("--set", f"topics.outcomes={topics.outcomes}", "--set", f"audit.path={settings.audit.path}"),
        *("erase", STUDENT),
    ]
    main([*arguments, "--dry-run"])
    assert f"{N_EVENTS - 1} lines are hashed with another key" in capsys.readouterr().out
    main(["--set", f"audit.hash_ids_key_file={key}", *arguments, "--yes"])
    said = capsys.readouterr().out
    assert "erased: 9 lines" in said
    assert f"topic {topics.predictions}: 9 records; deleted by compaction" in said
    assert f"topic {topics.events}: 10 records; kept until" in said
    assert verify(hashed).holds
