"""Erase a student: from the audit log and the monitor's state, and from compacted topics.

The monitor is stopped meanwhile: erasing takes its lock. The order makes an interrupted erasure harmless::

    1. note the erasure, without a count      from now on no prediction of the student is logged or shown
    2. close the log as a segment             a rotation, as the monitor does it
    3. rewrite each segment with their lines  a new file replaces the old one
    4. rewrite the saved state
    5. write tombstones to compacted topics
    6. note the counts                        the erasure is finished

Running it again finishes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import orjson

from consumer import timestamps
from consumer.columnar.text import hash_strings
from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, Ranges, TopicSetup
from consumer.kafka.consumer import headers_of
from consumer.kafka.producer import write_tombstones
from consumer.kafka.reader import Record, TopicReader
from consumer.monitor.audit.hashed_ids import IdHasher, id_hasher
from consumer.monitor.audit.log import AuditLog, read_checkpoint, segment_paths
from consumer.monitor.audit.removals import Erasure, read_removals, write_removals
from consumer.monitor.state import erase_from_state
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.settings import Settings
from model_store.files import replace_file
from schemas.repository import engagement_event, purchase_outcome, purchase_prediction

_MS_PER_DAY: Final = 86_400_000
_READ_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class TopicTrace:
    """What a topic has about a student.

    Attributes:
        topic: The topic.
        setup: Its configuration.
        records: The number of records.
        newest_ms: The timestamp of the newest of them, ms since the epoch.
        keys: Partition and key of the records.
    """

    topic: str
    setup: TopicSetup
    records: int = 0
    newest_ms: int = 0
    keys: set[tuple[int, bytes]] = field(default_factory=set)

    @property
    def is_compacted(self) -> bool:
        """Whether a tombstone deletes a key's records."""
        return "compact" in self.setup.cleanup_policy

    def outlook(self, *, erasable: bool) -> str:
        """Say what happens to the records.

        Args:
            erasable: Whether this service writes the topic, so that it may write tombstones to it.
        """
        if self.is_compacted and erasable:
            return "deleted by compaction, after the tombstones that are written for it"
        if "delete" not in self.setup.cleanup_policy:
            return "compacted: kept until the topic's producer writes a tombstone for the key"
        if self.setup.retention_ms < 0:
            return "KEPT FOREVER: retention.ms is -1; set it, or delete the records with kafka-delete-records"
        days = self.setup.retention_ms / _MS_PER_DAY
        until = timestamps.format_ms(self.newest_ms + self.setup.retention_ms)
        return (
            f"kept until {until} at least: retention.ms is {days:g} days; the broker deletes whole segments,"
            " so it may take a segment.ms longer"
        )


@dataclass(slots=True)
class Footprint:
    """Where a student is found.

    Attributes:
        files: The number of lines by name of the file: the log and its segments.
        foreign_keys: The number of lines whose ids are hashed with another key than the configured one.
        state: The number of places in the monitor's saved state.
        topics: The topics by their role: ``events``, ``predictions``, ``dead_letters``, ``outcomes``.
    """

    files: dict[str, int]
    foreign_keys: int
    state: int
    topics: dict[str, TopicTrace]

    @property
    def lines(self) -> int:
        """The number of lines in the audit log."""
        return sum(self.files.values())


ERASABLE: Final = ("predictions", "dead_letters")
"""The topics that this service writes. The platform writes the others."""


class StudentErasure:
    """Finds a student, and erases them.

    Args:
        settings: The Kafka cluster, the topics and the audit log.
        writers: Resolves writer schemas.
        student_id: The student.
        on_progress: Called with the name of what is being read.

    Raises:
        StartupError: The key of the hashed ids cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        writers: WriterSchemas,
        student_id: str,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._writers = writers
        self._id = student_id.encode()
        self._log = settings.audit.path
        self._state = self._log.with_name(self._log.name + ".drift")
        self._hasher = id_hasher(settings.audit)
        self._lines = _StudentLines(student_id, self._hasher)
        self._client = client_config.common(settings.kafka)
        self._admin = ClusterAdmin(self._client)
        self._on_progress = on_progress

    @contextlib.contextmanager
    def locked(self) -> Iterator[AuditLog]:
        """Keep the monitor away.

        Raises:
            StartupError: The monitor runs.
            Unavailable: The disk is full or failing.
        """
        checkpoint = read_checkpoint(self._log.with_name(self._log.name + ".checkpoint"))
        source = (
            checkpoint.source if checkpoint else self._admin.topic_identity(self._settings.topics.predictions)
        )
        log = AuditLog.open(self._log, rotate_bytes=self._settings.audit.rotate_bytes, source=source)
        with contextlib.closing(log):
            yield log

    def find(self) -> Footprint:
        """Return where the student is found now; reads the log and the topics.

        Raises:
            StartupError: A file cannot be read.
            Unavailable: The broker does not answer.
        """
        files: dict[str, int] = {}
        foreign = 0
        for path in [*segment_paths(self._log), self._log]:
            if not path.exists():
                continue
            self._on_progress(path.name)
            lines, other_keys = self._lines.count(path)
            foreign += other_keys
            if lines:
                files[path.name] = lines
        state = erase_from_state(self._state, self._state_hashes(), dry_run=True)
        topics = {}
        for role in ("events", "predictions", "dead_letters", "outcomes"):
            topic = getattr(self._settings.topics, role)
            setups = self._admin.topic_setups([topic])
            if topic in setups:
                self._on_progress(topic)
                topics[role] = self._trace(role, TopicTrace(topic, setups[topic]))
        return Footprint(files, foreign, state, topics)

    def erase(self, log: AuditLog, footprint: Footprint) -> Erasure:
        """Erase the student; return the record of it.

        Args:
            log: The log, locked.
            footprint: Where the student is found.

        Raises:
            Unavailable: The disk or the broker failed; run it again to finish.
        """
        try:
            return self._erase(log, footprint)
        except OSError as error:
            raise Unavailable(
                f"the erasure did not finish: {error.filename or self._log}: {error.strerror};"
                " run it again to finish it"
            ) from error

    def _erase(self, log: AuditLog, footprint: Footprint) -> Erasure:
        removals = read_removals(self._log)
        topic = self._settings.topics.predictions
        ends = self._admin.end_offsets(topic, range(self._admin.describe_topic(topic).partitions))
        started = Erasure(
            student=removals.hashed(self._id),
            erased_at=timestamps.now(),
            before=ends,
        )
        write_removals(self._log, removals.with_erasure(started))
        if footprint.files.get(self._log.name):
            log.close_segment()
        lines = sum(self._rewrite(path) for path in segment_paths(self._log))
        erase_from_state(self._state, self._state_hashes(), dry_run=False)
        tombstones = 0
        for role in ERASABLE:
            trace = footprint.topics.get(role)
            if trace is not None and trace.is_compacted and trace.keys:
                producer = self._client | client_config.producer(self._settings.kafka)
                tombstones += write_tombstones(producer, trace.topic, sorted(trace.keys))
        finished = started.model_copy(update={"lines": lines, "tombstones": tombstones})
        write_removals(self._log, removals.with_erasure(finished))
        return finished

    def _rewrite(self, segment: Path) -> int:
        """Replace a segment by one without the student's lines; return how many there were."""
        lines, _ = self._lines.count(segment)
        if lines:
            replace_file(segment, self._lines.others(segment), segment.stat().st_mode & 0o777)
        return lines

    def _state_hashes(self) -> Sequence[np.uint64]:
        """Return the hashes that stand for the student in the saved state, with and without the key."""
        span = self._id, np.array([0]), np.array([len(self._id)])
        hashes = [hash_strings(*span)[0]]
        if self._hasher is not None:
            hashes.append(self._hasher.numbers(*span)[0])
        return hashes

    def _trace(self, role: str, trace: TopicTrace) -> TopicTrace:
        is_about = self._matcher(role)
        ranges: Ranges = self._admin.committed_ranges(trace.topic)
        with contextlib.closing(TopicReader(self._client, trace.topic)) as reader:
            for records in reader.read_ranges(ranges):
                # Every framing holds the id as plain bytes, in JSON perhaps escaped.
                for record in is_about(records):
                    key = record.key()
                    trace.records += 1
                    trace.newest_ms = max(trace.newest_ms, record.timestamp()[1])
                    if key is not None:
                        trace.keys.add((record.partition(), key))
        return trace

    def _matcher(self, role: str) -> Callable[[Sequence[Record]], Iterator[Record]]:
        """Return a function that keeps the records about the student: by their key or by their content."""
        if role == "dead_letters":
            return lambda records: (record for record in records if self._is_dead_letter(record))
        schema = {
            "events": engagement_event,
            "predictions": purchase_prediction,
            "outcomes": purchase_outcome,
        }[role]()
        decoder = Decoder(schema, self._writers, keep_nulls=role == "events")

        def matching(records: Sequence[Record]) -> Iterator[Record]:
            likely = [
                record
                for record in records
                if record.value() is not None
                and (record.key() == self._id or self._id in (record.value() or b""))
            ]
            decoded, _ = decoder.decode(
                [record.value() for record in likely],
                lambda rows: [headers_of(likely[row]) for row in rows],
            )
            students = {int(row): decoded.text("student_id", i) for i, row in enumerate(decoded.rows)}
            for row, record in enumerate(likely):
                if record.key() == self._id or students.get(row, "").encode() == self._id:
                    yield record

        return matching

    def _is_dead_letter(self, record: Record) -> bool:
        if record.value() is None:
            return False
        if record.key() == self._id:
            return True
        try:
            event = orjson.loads(record.value() or b"").get("event")
            return isinstance(event, dict) and str(event.get("student_id")).encode() == self._id
        except (ValueError, AttributeError):
            return False


class _StudentLines:
    """Tells a student's lines of the audit log from the others.

    Args:
        student_id: The student.
        hasher: Hashes ids as the log does. Older lines may have the plain id.
    """

    def __init__(self, student_id: str, hasher: IdHasher | None) -> None:
        self._ids = {student_id}
        self._own_prefix = hasher.prefix if hasher else None
        if hasher is not None:
            self._ids.add(hasher.hashed(student_id.encode()))
        escaped = [orjson.dumps(id_) for id_ in self._ids]
        self._damaged = [b'"student_id":' + id_ for id_ in escaped]

    def count(self, path: Path) -> tuple[int, int]:
        """Return how many lines are about the student, and how many are hashed with another key.

        Raises:
            StartupError: The file cannot be read.
        """
        own = foreign = 0
        try:
            for line in _lines(path):
                student = _student_of(line)
                own += self._is_own(line, student)
                foreign += self._is_foreign(student)
        except OSError as error:
            raise StartupError(f"{path} cannot be read: {error.strerror}; see audit.path") from error
        return own, foreign

    def others(self, path: Path) -> Iterator[bytes]:
        """Yield the lines that are not about the student, byte for byte, in parts of some megabytes."""
        with path.open("rb") as file:
            for lines in iter(lambda: file.readlines(_READ_BYTES), []):
                yield b"".join(line for line in lines if not self._is_own(line, _student_of(line)))

    def _is_own(self, line: bytes, student: str | None) -> bool:
        if student is not None:
            return student in self._ids
        return any(id_ in line for id_ in self._damaged)

    def _is_foreign(self, student: str | None) -> bool:
        return (
            student is not None
            and student.startswith("hmac-")
            and not (self._own_prefix and student.startswith(self._own_prefix))
        )


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _student_of(line: bytes) -> str | None:
    """Return the student id of a line; ``None`` if the line is damaged."""
    try:
        student = orjson.loads(line)["student_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return student if isinstance(student, str) else None
