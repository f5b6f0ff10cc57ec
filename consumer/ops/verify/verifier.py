"""Compares events, predictions, dead letters and the audit log: nothing lost, doubled or out of order.

Read one after the other: first the ends of the events, then those of the outputs, then the log. So what
is decided while we read is newer than what we look at, and left out; nothing that should be there by
now is excused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.kafka.admin import ClusterAdmin, Ranges
from consumer.kafka.client_config import common
from consumer.kafka.reader import Record, TopicReader
from consumer.monitor.audit.log import audit_log_lines, log_bytes
from consumer.ops.verify.ledger import OffsetLedger
from consumer.ops.verify.observations import (
    Observed,
    observe_dead_letters,
    observe_events,
    observe_lines,
    observe_predictions,
)
from consumer.ops.verify.report import VerifyReport
from consumer.settings import Settings

_STILL_S: Final = 2.0
"""Nothing may change for so long before a look is worth its while."""
_LOOK_EVERY_S: Final = 0.5

_State = tuple[list[Ranges], int]
"""What the topics hold, and the size of the log in bytes."""


def verify(settings: Settings, *, with_log: bool = True, examples: int = 10) -> VerifyReport:
    """Verify everything that is committed now.

    Args:
        settings: where Kafka and the audit log are.
        with_log: look at the audit log, too.
        examples: how many places to keep of each kind of finding.

    Raises:
        StartupError: a topic or the log is missing.
        Unavailable: the broker is away.
    """
    return _Verification(settings, examples).run(with_log=with_log)


def verify_until_idle(
    settings: Settings, *, with_log: bool = True, examples: int = 10, idle_s: float = 10.0
) -> VerifyReport:
    """Verify once the stream stands still: when all holds, or nothing has changed for ``idle_s``.

    Raises:
        StartupError: a topic or the log is missing.
        Unavailable: the broker is away.
    """
    while True:
        state = _await_standstill(settings)
        verdict = verify(settings, with_log=with_log, examples=examples)
        if verdict.holds or not _changes(settings, state, idle_s):
            return verdict


def _await_standstill(settings: Settings) -> _State:
    """Return the state once it has not changed for a moment."""
    state = _state(settings)
    while _changes(settings, state, _STILL_S):
        state = _state(settings)
    return state


def _changes(settings: Settings, state: _State, limit_s: float) -> bool:
    """Wait until the state is another one, up to a limit; tell whether it is."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        time.sleep(_LOOK_EVERY_S)
        if _state(settings) != state:
            return True
    return False


def _state(settings: Settings) -> _State:
    admin, topics = ClusterAdmin(common(settings.kafka)), settings.topics
    names = (topics.events, topics.predictions, topics.dead_letters)
    return [admin.committed_ranges(name) for name in names], log_bytes(settings.audit.path)


class _Verification:
    """One run; the methods are called in the order they stand in."""

    def __init__(self, settings: Settings, examples: int) -> None:
        self._client = common(settings.kafka)
        self._topics = topics = settings.topics
        self._log_path = settings.audit.path
        self._verdict = VerifyReport(examples=examples)
        admin = ClusterAdmin(self._client)
        self._ranges = {
            topic: admin.committed_ranges(topic)
            for topic in (topics.events, topics.predictions, topics.dead_letters)
        }
        self._events = OffsetLedger(self._ranges[topics.events])
        self._predictions = OffsetLedger(self._ranges[topics.predictions])

    def run(self, *, with_log: bool) -> VerifyReport:
        """Read everything and return the verdict."""
        self._read_events()
        self._read_predictions()
        self._read_dead_letters()
        self._conclude_events()
        if with_log:
            self._read_log()
            self._conclude_log()
        return self._verdict

    def _records(self, topic: str) -> Iterator[Sequence[Record]]:
        with contextlib.closing(TopicReader(self._client, topic)) as reader:
            yield from reader.read_ranges(self._ranges[topic])

    def _read_events(self) -> None:
        for records in self._records(self._topics.events):
            observed = observe_events(records)
            self._verdict.events += len(records)
            _expect(self._events, observed.partitions, observed.offsets, observed.digests)

    def _read_predictions(self) -> None:
        topic, verdict = self._topics.predictions, self._verdict
        for records in self._records(topic):
            observed = observe_predictions(records)
            verdict.prediction_records += len(observed.rows)
            verdict.http_predictions += int((observed.partitions < 0).sum())
            verdict.predictions += len(self._sight(topic, records, observed))
            assert observed.contents is not None  # noqa: S101 - predictions have them
            own = observe_events([records[row] for row in observed.rows.tolist()])
            _expect(self._predictions, own.partitions, own.offsets, observed.contents)

    def _read_dead_letters(self) -> None:
        topic, verdict = self._topics.dead_letters, self._verdict
        for records in self._records(topic):
            observed = observe_dead_letters(records, self._topics.events)
            for row in self._sight(topic, records, observed):
                code = observed.codes[row]
                verdict.dead_letters[code] = verdict.dead_letters.get(code, 0) + 1

    def _sight(self, topic: str, records: Sequence[Record], observed: Observed) -> list[int]:
        """Hold outputs against the events; return which of ``observed`` are of events that are there."""
        verdict, known = self._verdict, []
        for row, reason in observed.unreadable:
            verdict.add("unreadable", 1, [f"{_place(records[row])} ({reason})"])
        own = np.array([records[row].partition() for row in observed.rows.tolist()], np.int64)
        for partition in np.unique(own).tolist():
            rows = np.flatnonzero((own == partition) & (observed.partitions >= 0))
            found = self._events.record_seen(
                (topic, partition),
                observed.partitions[rows],
                observed.offsets[rows],
                observed.digests[rows],
                None if observed.keyed is None else observed.keyed[rows],
            )
            known += rows[found.known].tolist()
            for name, which in (
                ("out_of_order", found.out_of_order),
                ("wrong_key", found.altered),
                ("unknown_source", found.unknown),
            ):
                first = rows[which[: verdict.examples]].tolist()
                places = [
                    f"{_place(records[observed.rows[i]])} "
                    f"of event {observed.partitions[i]}@{observed.offsets[i]}"
                    for i in first
                ]
                verdict.add(name, len(which), places)
        return known

    def _conclude_events(self) -> None:
        verdict, topic = self._verdict, self._topics.events
        for name, select in (("missing", self._events.missing), ("doubled", self._events.doubled)):
            count, places = select(verdict.examples)
            verdict.add(name, count, [f"{topic} {partition}@{offset}" for partition, offset in places])
        if at_end := self._events.missing_at_end():
            verdict.notes.append(
                f"{at_end} of the missing are the last events of their partitions: not decided yet, or lost"
            )
        for output in (self._topics.predictions, self._topics.dead_letters):
            if any(begin > 0 for begin, _ in self._ranges[output].values()):
                verdict.notes.append(
                    f"{output} has lost its oldest records to retention; their events miss them"
                )

    def _read_log(self) -> None:
        verdict, topic, verdict.log_lines = self._verdict, self._topics.predictions, 0
        for name, number, lines in audit_log_lines(self._log_path):
            observed = observe_lines(lines, topic)
            for row, reason in observed.unreadable:
                verdict.add("log_unreadable", 1, [f"{name}:{number + row} ({reason})"])
            found = self._predictions.record_seen(
                "log", observed.partitions, observed.offsets, observed.digests
            )
            verdict.log_lines += len(found.known)
            for kind, which in (
                ("log_out_of_order", found.out_of_order),
                ("log_altered", found.altered),
                ("log_foreign", found.unknown),
            ):
                first = observed.rows[which[: verdict.examples]].tolist()
                verdict.add(kind, len(which), [f"{name}:{number + row}" for row in first])

    def _conclude_log(self) -> None:
        verdict, topic = self._verdict, self._topics.predictions
        for name, select in (
            ("log_missing", self._predictions.missing),
            ("log_doubled", self._predictions.doubled),
        ):
            count, places = select(verdict.examples)
            verdict.add(name, count, [f"{topic} {partition}@{offset}" for partition, offset in places])
        if at_end := self._predictions.missing_at_end():
            verdict.notes.append(
                f"{at_end} of the predictions without a line are the last of their partitions: "
                f"not logged yet, or lost"
            )


def _place(record: Record) -> str:
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
