"""Compare events, predictions, dead letters and the audit log: nothing lost, doubled or out of order.

The ends of the topics and of the log are read in this order: events, outputs, log. An event that is decided
during the verification lies after the end of the events and is ignored; every event before that end must be
decided by then.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.client_config import common
from consumer.kafka.reader import Record, TopicReader
from consumer.monitor.audit.hashed_ids import id_hasher
from consumer.monitor.audit.log import audit_log_lines, log_bytes
from consumer.monitor.audit.removals import read_removals, removal_lines
from consumer.ops.verify.ledger import OffsetLedger
from consumer.ops.verify.observations import (
    Observed,
    observe_dead_letters,
    observe_events,
    observe_lines,
    observe_predictions,
)
from consumer.settings import Settings

MEANINGS: Final = {
    "missing": "events in neither predictions nor dead letters",
    "doubled": "events decided more than once",
    "out_of_order": "predictions or dead letters after one of a later event of their partition",
    "wrong_key": "predictions or dead letters whose key is not the event's",
    "unknown_source": "predictions or dead letters of events that do not exist",
    "unreadable": "records that are not a valid prediction or dead letter",
    "log_missing": "predictions without a line in the audit log",
    "log_doubled": "predictions with more than one line",
    "log_out_of_order": "lines after one of a later prediction of their partition",
    "log_altered": "lines that differ from their prediction",
    "log_foreign": "lines of predictions that the topic does not have",
    "log_unreadable": "lines that are not a valid audit line",
    "unfinished_erasure": "erasures that were interrupted; run erase for these students again",
}
"""The violations of the guarantees."""


@dataclass(slots=True)
class Finding:
    """The violations of one kind.

    Attributes:
        count: The number of violations.
        examples: The positions of the first violations.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        examples: The number of positions to keep for each kind of violation.
        events: The number of committed events in the topic.
        predictions: The number of predictions of these events.
        dead_letters: The number of dead letters of these events, by code.
        prediction_records: The number of all predictions in the topic, including those of the HTTP API.
        http_predictions: The number of predictions of the HTTP API.
        log_lines: The number of audit lines of these predictions; ``None`` if the log was not read.
        findings: The violations by name, see :data:`MEANINGS`.
        notes: Remarks for the reader.
    """

    examples: int = 10
    events: int = 0
    predictions: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    prediction_records: int = 0
    http_predictions: int = 0
    log_lines: int | None = None
    findings: dict[str, Finding] = field(default_factory=lambda: {name: Finding() for name in MEANINGS})
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, count: int, positions: Sequence[str]) -> None:
        """Add violations.

        Args:
            name: The kind of violation.
            count: The number of violations to add.
            positions: The positions of the first violations.
        """
        finding = self.findings[name]
        finding.count += count
        finding.examples += positions[: max(self.examples - len(finding.examples), 0)]

    def count(self, name: str) -> int:
        """Return the number of violations of a kind."""
        return self.findings[name].count

    @property
    def n_dead_letters(self) -> int:
        """The number of dead letters, over all codes."""
        return sum(self.dead_letters.values())

    @property
    def missing(self) -> int:
        """The number of lost events, and of predictions that the log lacks."""
        return self.count("missing") + self.count("log_missing")

    @property
    def doubled(self) -> int:
        """The number of events that were decided, and of predictions that were logged, more than once."""
        return self.count("doubled") + self.count("log_doubled")

    @property
    def out_of_order(self) -> int:
        """The number of records and lines in the wrong order."""
        return self.count("out_of_order") + self.count("log_out_of_order")

    @property
    def holds(self) -> bool:
        """Whether there is no violation."""
        return not any(finding.count for finding in self.findings.values())

    def problem(self) -> str:
        """Summarize the violations in one line."""
        found = [f"{name} {finding.count}" for name, finding in self.findings.items() if finding.count]
        return f"the guarantees do not hold: {', '.join(found)}; the positions are listed above"

    def lines(self) -> list[str]:
        """Format the result, one fact per line."""
        decided = self.predictions + self.n_dead_letters
        sign = "=" if decided == self.events else "but"
        text = [
            f"events {self.events} {sign} predictions {self.predictions} + dead letters {self.n_dead_letters}"
        ]
        if self.dead_letters:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(self.dead_letters.items()))
            text.append(f"dead letters: {codes}")
        if self.log_lines is not None:
            text.append(f"audit log: {self.log_lines} lines for {self.prediction_records} prediction records")
        if self.http_predictions:
            text.append(f"asked for over HTTP: {self.http_predictions} of the prediction records")
        for name, finding in self.findings.items():
            if finding.count:
                more = ", …" if finding.count > len(finding.examples) else ""
                text.append(f"{name} {finding.count}: {MEANINGS[name]}: {', '.join(finding.examples)}{more}")
        text += self.notes
        if self.holds:
            log = "; every prediction is in the log once" if self.log_lines is not None else ""
            text.append(f"it holds: every event is in exactly one place, in order{log}")
        return text


_QUIET_S: Final = 2.0
"""The stream is verified once it has not changed for this long."""

_POLL_S: Final = 0.5

_State = tuple[list[Ranges], int]
"""The committed ranges of the topics, and the size of the log in bytes."""


def verify(settings: Settings, *, with_log: bool = True, examples: int = 10) -> VerifyReport:
    """Verify everything that is committed now.

    Args:
        settings: The Kafka cluster, the topics and the audit log.
        with_log: Verify the audit log too.
        examples: The number of positions to keep for each kind of violation.

    Raises:
        StartupError: A topic or the log is missing.
        Unavailable: The broker is down.
    """
    return _Verification(settings, examples).run(with_log=with_log)


def verify_until_idle(
    settings: Settings, *, with_log: bool = True, examples: int = 10, idle_s: float = 10.0
) -> VerifyReport:
    """Verify repeatedly, until the guarantees hold or nothing has changed for ``idle_s`` seconds.

    Raises:
        StartupError: A topic or the log is missing.
        Unavailable: The broker is down.
    """
    while True:
        state = _await_quiet(settings)
        report = verify(settings, with_log=with_log, examples=examples)
        if report.holds or not _changes_within(settings, state, idle_s):
            return report


def _await_quiet(settings: Settings) -> _State:
    """Return the state after it has not changed for a moment."""
    state = _read_state(settings)
    while _changes_within(settings, state, _QUIET_S):
        state = _read_state(settings)
    return state


def _changes_within(settings: Settings, state: _State, limit_s: float) -> bool:
    """Wait for a change of state, up to a limit; return whether there was one."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
        if _read_state(settings) != state:
            return True
    return False


def _read_state(settings: Settings) -> _State:
    admin, topics = ClusterAdmin(common(settings.kafka)), settings.topics
    names = (topics.events, topics.predictions, topics.dead_letters)
    return [admin.committed_ranges(name) for name in names], log_bytes(settings.audit.path)


class _Verification:
    """One verification."""

    def __init__(self, settings: Settings, examples: int) -> None:
        self._client = common(settings.kafka)
        self._topics = topics = settings.topics
        self._log_path = settings.audit.path
        self._removals = read_removals(settings.audit.path)
        self._hasher = id_hasher(settings.audit)
        self._tombstones = 0
        self._report = VerifyReport(examples=examples)
        admin = ClusterAdmin(self._client)
        self._ranges = {
            topic: admin.committed_ranges(topic)
            for topic in (topics.events, topics.predictions, topics.dead_letters)
        }
        self._events = OffsetLedger(self._ranges[topics.events])
        self._predictions = OffsetLedger(self._ranges[topics.predictions])

    def run(self, *, with_log: bool) -> VerifyReport:
        """Read everything, originals before their views, and return the result."""
        self._read_events()
        self._read_predictions()
        self._read_dead_letters()
        self._report_events()
        if with_log:
            self._read_log()
            self._report_log()
        return self._report

    def _records(self, topic: str) -> Iterator[Sequence[Record]]:
        with contextlib.closing(TopicReader(self._client, topic)) as reader:
            yield from reader.read_ranges(self._ranges[topic])

    def _read_events(self) -> None:
        for records in self._records(self._topics.events):
            observed = observe_events(records)
            self._report.events += len(records)
            _expect(self._events, observed.partitions, observed.offsets, observed.digests)
            self._excuse_erased_events(records)

    def _excuse_erased_events(self, records: Sequence[Record]) -> None:
        """Tombstones in compacted topics have deleted the outputs of erased students."""
        if not self._removals.erasures:
            return
        for record in records:
            if self._removals.hides(record.key() or b"", record.timestamp()[1]):
                self._events.excuse(record.partition(), np.array([record.offset()]))

    def _without_tombstones(self, records: Sequence[Record]) -> Sequence[Record]:
        """Leave out the tombstones of erased students."""
        if not self._removals.erasures:
            return records
        kept = [
            record
            for record in records
            if record.value() is not None or self._removals.erased_at_ms(record.key() or b"") is None
        ]
        self._tombstones += len(records) - len(kept)
        return kept

    def _excuse_removed_lines(self, own: Observed, students: Sequence[bytes]) -> None:
        """Excuse predictions of erased students, and those whose line retention has removed."""
        removals = self._removals
        if not removals.erasures and not removals.expired.segments:
            return
        for student, partition, offset in zip(
            students, own.partitions.tolist(), own.offsets.tolist(), strict=True
        ):
            if removals.is_expired(partition, offset) or removals.is_erased(student, partition, offset):
                self._predictions.excuse(partition, np.array([offset]))

    def _read_predictions(self) -> None:
        topic, report = self._topics.predictions, self._report
        for found in self._records(topic):
            records = self._without_tombstones(found)
            observed = observe_predictions(records, self._hasher)
            report.prediction_records += len(observed.rows)
            report.http_predictions += int((observed.partitions < 0).sum())
            report.predictions += len(self._record_outputs(topic, records, observed))
            assert observed.contents is not None  # noqa: S101 - predictions have them
            own = observe_events([records[row] for row in observed.rows.tolist()])
            _expect(self._predictions, own.partitions, own.offsets, observed.contents)
            self._excuse_removed_lines(own, observed.students)

    def _read_dead_letters(self) -> None:
        topic, report = self._topics.dead_letters, self._report
        for found in self._records(topic):
            records = self._without_tombstones(found)
            observed = observe_dead_letters(records, self._topics.events)
            for index in self._record_outputs(topic, records, observed):
                code = observed.codes[index]
                report.dead_letters[code] = report.dead_letters.get(code, 0) + 1

    def _record_outputs(self, topic: str, records: Sequence[Record], observed: Observed) -> list[int]:
        """Add outputs to the ledger of events; return the indices in ``observed`` of known events."""
        report, known = self._report, []
        for row, reason in observed.unreadable:
            report.add("unreadable", 1, [f"{_position(records[row])} ({reason})"])
        output_partitions = np.array([records[row].partition() for row in observed.rows.tolist()], np.int64)
        for partition in np.unique(output_partitions).tolist():
            indices = np.flatnonzero((output_partitions == partition) & (observed.partitions >= 0))
            seen = self._events.record_seen(
                (topic, partition),
                observed.partitions[indices],
                observed.offsets[indices],
                observed.digests[indices],
                None if observed.keyed is None else observed.keyed[indices],
            )
            known += indices[seen.known].tolist()
            violations = {
                "out_of_order": seen.out_of_order,
                "wrong_key": seen.altered,
                "unknown_source": seen.unknown,
            }
            for name, rows in violations.items():
                positions = [
                    f"{_position(records[observed.rows[i]])} "
                    f"of event {observed.partitions[i]}@{observed.offsets[i]}"
                    for i in indices[rows[: report.examples]].tolist()
                ]
                report.add(name, len(rows), positions)
        return known

    def _report_events(self) -> None:
        self._report_ledger(self._events, self._topics.events, missing="missing", doubled="doubled")
        if self._tombstones:
            self._report.notes.append(f"{self._tombstones} tombstones of erased students")
        if excused := self._events.excused_missing():
            self._report.notes.append(
                f"{excused} events of erased students are without an output: a tombstone has deleted it"
            )
        if at_end := self._events.missing_at_end():
            self._report.notes.append(
                f"{at_end} of the missing are the last events of their partitions: not decided yet, or lost"
            )
        for topic in (self._topics.predictions, self._topics.dead_letters):
            if any(start > 0 for start, _ in self._ranges[topic].values()):
                self._report.notes.append(
                    f"{topic} has lost its oldest records to retention; their events count as missing"
                )

    def _read_log(self) -> None:
        report, topic, report.log_lines = self._report, self._topics.predictions, 0
        incomparable = 0
        for name, number, lines in audit_log_lines(self._log_path):
            observed = observe_lines(lines, topic, self._hasher)
            assert observed.comparable is not None  # noqa: S101 - lines have it
            incomparable += int((~observed.comparable).sum())
            for row, reason in observed.unreadable:
                report.add("log_unreadable", 1, [f"{name}:{number + row} ({reason})"])
            seen = self._predictions.record_seen(
                "log", observed.partitions, observed.offsets, observed.digests, observed.comparable
            )
            report.log_lines += len(seen.known)
            violations: Mapping[str, list[int]] = {
                "log_out_of_order": seen.out_of_order,
                "log_altered": seen.altered,
                "log_foreign": seen.unknown,
            }
            for kind, rows in violations.items():
                first = observed.rows[rows[: report.examples]].tolist()
                report.add(kind, len(rows), [f"{name}:{number + row}" for row in first])
        if incomparable:
            report.notes.append(
                f"{incomparable} lines have ids hashed with another key; their content was not compared"
            )

    def _report_log(self) -> None:
        topic = self._topics.predictions
        self._report_ledger(self._predictions, topic, missing="log_missing", doubled="log_doubled")
        self._report.notes += removal_lines(self._removals)
        if excused := self._predictions.excused_missing():
            self._report.notes.append(
                f"{excused} predictions that the topic still has are without a line for it"
            )
        for erasure in self._removals.unfinished:
            self._report.add("unfinished_erasure", 1, [erasure.erased_at])
        if at_end := self._predictions.missing_at_end():
            self._report.notes.append(
                f"{at_end} of the predictions without a line are the last of their partitions: "
                f"not logged yet, or lost"
            )

    def _report_ledger(self, ledger: OffsetLedger, topic: str, *, missing: str, doubled: str) -> None:
        for name, select in ((missing, ledger.missing), (doubled, ledger.doubled)):
            count, positions = select(self._report.examples)
            self._report.add(
                name, count, [f"{topic} {partition}@{offset}" for partition, offset in positions]
            )


def _position(record: Record) -> str:
    return f"{record.topic()} {record.partition()}@{record.offset()}"


def _expect(
    ledger: OffsetLedger,
    partitions: NDArray[np.int64],
    offsets: NDArray[np.int64],
    digests: NDArray[np.uint32],
) -> None:
    for partition in np.unique(partitions).tolist():
        rows = partitions == partition
        ledger.expect(partition, offsets[rows], digests[rows])
