"""Past predictions with their outcomes, from the audit log or from the topics.

Predictions that name no student, and those of erased students, are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from consumer import timestamps
from consumer.columnar.arrays import IntArray
from consumer.columnar.text import hash_strings
from consumer.errors import BadInputError
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.client_config import common
from consumer.kafka.reader import TopicReader
from consumer.monitor.audit.hashed_ids import IdHasher, id_hasher, is_hashed
from consumer.monitor.audit.log import audit_log_lines
from consumer.monitor.audit.removals import read_removals
from consumer.monitor.audit.topic import ranges_since, read_predictions
from consumer.monitor.drift.window import naming_a_student, student_hashes
from consumer.pipeline.batch import INPUT_FIELDS, NUMERIC_INPUT_FIELDS, RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.settings import Settings
from schemas.repository import purchase_outcome

_FEATURES: Final = "features."
_TEXTS: Final = ("model_version", "student_country")
_HASH_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class PastPredictions:
    """m predictions.

    Attributes:
        events: The inputs, with the field names of an event, and ``model_version``.
        students: Hashes of the student ids, as the outcomes have them, uint64 (m,).
        scored_at_ms: Milliseconds since the epoch, int64 (m,).
        probabilities: The predicted probabilities, float64 (m,).
        decisions: Whether a purchase is predicted, bool (m,).
    """

    events: RecordBatch = field(repr=False)
    students: NDArray[np.uint64] = field(repr=False)
    scored_at_ms: IntArray = field(repr=False)
    probabilities: NDArray[np.float64] = field(repr=False)
    decisions: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.students)

    def select_rows(self, rows: IntArray) -> PastPredictions:
        """Return the predictions in these rows."""
        return PastPredictions(
            self.events.select_rows(rows),
            self.students[rows],
            self.scored_at_ms[rows],
            self.probabilities[rows],
            self.decisions[rows],
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """k outcomes.

    Attributes:
        students: Hashes of the student ids, uint64 (k,).
        purchased: 0 or 1, int8 (k,).
        observed_at_ms: Milliseconds since the epoch, int64 (k,).
    """

    students: NDArray[np.uint64] = field(repr=False)
    purchased: NDArray[np.int8] = field(repr=False)
    observed_at_ms: IntArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.students)


NO_OUTCOMES: Final = Outcomes(np.empty(0, np.uint64), np.empty(0, np.int8), np.empty(0, np.int64))


class Past:
    """A span of the past.

    Args:
        settings: The broker, the topics and the audit log.
        writers: Resolves writer schemas.
        since: Only predictions made at or after this time.
        until: Only predictions made before this time.
        log: The audit log to read; ``None`` reads the predictions topic.

    Raises:
        StartupError: The key of the hashed ids, or the file of the removals, cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        writers: WriterSchemas,
        since: datetime | None,
        until: datetime | None,
        log: Path | None,
    ) -> None:
        self._settings = settings
        self._writers = writers
        self._since = since
        self._start_ms = int(since.timestamp() * 1000) if since else -(2**63)
        self._stop_ms = int(until.timestamp() * 1000) if until else 2**63 - 1
        self._log = log
        self._hasher = id_hasher(settings.audit)
        self.damaged = 0
        """The number of damaged lines that were skipped."""

    @property
    def needs_kafka(self) -> bool:
        """Whether the predictions come from Kafka."""
        return self._log is None

    @property
    def source(self) -> str:
        """A description of the source."""
        return f"the topic {self._settings.topics.predictions}" if self._log is None else f"{self._log}"

    def predictions(self) -> Iterator[PastPredictions]:
        """Yield the predictions, in the order of the source.

        Raises:
            BadInputError: No line is a line of an audit log.
            StartupError: The source is missing.
            Unavailable: The broker does not answer.
        """
        for batch in self._from_topic() if self._log is None else self._from_log(self._log):
            inside = (batch.scored_at_ms >= self._start_ms) & (batch.scored_at_ms < self._stop_ms)
            if inside.all():
                yield batch
            elif inside.any():
                yield batch.select_rows(np.flatnonzero(inside))

    def outcomes(self) -> Outcomes:
        """Return all outcomes that their topic has; none if there is no such topic.

        Raises:
            Unavailable: The broker does not answer.
        """
        topic, client = self._settings.topics.outcomes, common(self._settings.kafka)
        admin = ClusterAdmin(client)
        parts = [NO_OUTCOMES]
        if topic in admin.describe_topics([topic]):
            decoder = Decoder(purchase_outcome(), self._writers)
            with contextlib.closing(TopicReader(client, topic)) as reader:
                for records in reader.read_ranges(admin.committed_ranges(topic)):
                    found, _ = decoder.decode([record.value() for record in records])
                    if len(found):
                        purchased = found.numbers["purchased"].astype(np.int8)
                        students = student_hashes(found, self._hasher)
                        parts.append(Outcomes(students, purchased, found.numbers["observed_at"]))
        return Outcomes(
            np.concatenate([part.students for part in parts]),
            np.concatenate([part.purchased for part in parts]),
            np.concatenate([part.observed_at_ms for part in parts]),
        )

    def _from_topic(self) -> Iterator[PastPredictions]:
        removals = read_removals(self._settings.audit.path)
        ranges = ranges_since(self._settings, self._since)
        for batch in read_predictions(self._settings, self._writers, ranges, removals):
            predictions = naming_a_student(batch.predictions)
            if len(predictions):
                yield past_predictions(predictions, self._hasher)

    def _from_log(self, log: Path) -> Iterator[PastPredictions]:
        read, first_damaged = 0, ""
        for name, first, texts in audit_log_lines(log):
            lines = []
            for n, text in enumerate(texts, first):
                try:
                    line = _Line.of(orjson.loads(text))
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.damaged += 1
                    first_damaged = first_damaged or f"{name}, line {n}"
                    continue
                read += 1
                if line is not None:
                    lines.append(line)
            if lines:
                yield _logged_predictions(lines, self._hasher)
        if self.damaged and not read:
            raise BadInputError(f"{first_damaged}: not a line of an audit log; check the path")


def past_predictions(predictions: RecordBatch, hasher: IdHasher | None) -> PastPredictions:
    """Return decoded predictions of the topic as past predictions."""
    numbers = predictions.numbers
    return PastPredictions(
        events=_as_events(predictions),
        students=student_hashes(predictions, hasher),
        scored_at_ms=numbers["scored_at"],
        probabilities=numbers["predicted_purchase_probability"],
        decisions=numbers["predicted_purchase"] != 0,
    )


def _as_events(predictions: RecordBatch) -> RecordBatch:
    """Return predictions under the field names of an event: ``features.x`` becomes ``x``."""
    return RecordBatch(
        rows=np.arange(len(predictions)),
        data=predictions.data,
        fields=tuple(name.removeprefix(_FEATURES) for name in predictions.fields),
        starts=predictions.starts,
        numbers={name.removeprefix(_FEATURES): column for name, column in predictions.numbers.items()},
        texts={name.removeprefix(_FEATURES): column for name, column in predictions.texts.items()},
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """The parts of an audit line that are needed here."""

    student: str
    scored_at_ms: int
    probability: float
    decision: bool
    texts: tuple[bytes, ...]
    inputs: tuple[float, ...]

    @classmethod
    def of(cls, line: dict[str, Any]) -> _Line | None:
        """Return a parsed line; ``None`` if it names no student."""
        student, features = line["student_id"], line["features"]
        if line["source"]["offset"] < 0 and student == line["event_id"]:
            return None
        return cls(
            student=student,
            scored_at_ms=round(timestamps.seconds(line["timestamp_utc"]) * 1000),
            probability=float(line["predicted_purchase_probability"]),
            decision=line["predicted_purchase"] != 0,
            texts=(line["model_version"].encode(), features[INPUT_FIELDS[0]].encode()),
            inputs=tuple(float(features[name]) for name in NUMERIC_INPUT_FIELDS),
        )


def _logged_predictions(lines: Sequence[_Line], hasher: IdHasher | None) -> PastPredictions:
    """Return audit lines as past predictions.

    The texts are laid out as the decoder does: those of a row one after the other, without gaps.
    """
    m = len(lines)
    lengths = np.array([[len(text) for text in line.texts] for line in lines], np.int64)
    stops = np.cumsum(lengths.ravel()).reshape(m, len(_TEXTS))
    starts = np.column_stack([stops[:, 0] - lengths[:, 0], stops])
    columns = np.array([line.inputs for line in lines], np.float64)
    return PastPredictions(
        events=RecordBatch(
            rows=np.arange(m),
            data=b"".join(text for line in lines for text in line.texts),
            fields=_TEXTS,
            starts=starts,
            numbers={name: columns[:, j] for j, name in enumerate(NUMERIC_INPUT_FIELDS)},
            texts={name: starts[:, j] for j, name in enumerate(_TEXTS)},
        ),
        students=_hashes([line.student for line in lines], hasher),
        scored_at_ms=np.array([line.scored_at_ms for line in lines], np.int64),
        probabilities=np.array([line.probability for line in lines], np.float64),
        decisions=np.array([line.decision for line in lines], np.bool_),
    )


def _hashes(students: Sequence[str], hasher: IdHasher | None) -> NDArray[np.uint64]:
    """Return the hashes of a log's student ids as :func:`student_hashes` makes them of the plain ids."""
    encoded = [student.encode() for student in students]
    stops = np.cumsum([len(text) for text in encoded])
    starts = stops - np.array([len(text) for text in encoded])
    data = b"".join(encoded)
    if hasher is None:
        return hash_strings(data, starts, stops)
    hashes = hasher.numbers(data, starts, stops)
    for row, student in enumerate(students):
        if is_hashed(student):
            digits = student.rsplit("-", 1)[1][:_HASH_DIGITS]
            hashes[row] = int.from_bytes(bytes.fromhex(digits), "little")
    return hashes


def join_outcomes(
    students: NDArray[np.uint64], scored_at_ms: IntArray, outcomes: Outcomes
) -> tuple[IntArray, IntArray]:
    """Join each outcome to the last prediction of its student that was made before it.

    An outcome is never joined to a prediction of the same millisecond or later: the features must have been
    known before. Of several outcomes after the same prediction, the first one counts::

        student A   prediction 0   prediction 1             outcome 0    outcome 1
        time        10             20                       30           40
        joined                     prediction 1 ─ outcome 0

    Args:
        students: The student of each prediction, uint64 (m,).
        scored_at_ms: The time of each prediction, int64 (m,).
        outcomes: The outcomes.

    Returns:
        Row numbers of the joined predictions, and of their outcomes; int64 (j,) each.
    """
    m = len(students)
    all_students = np.concatenate([students, outcomes.students])
    times_ms = np.concatenate([scored_at_ms, outcomes.observed_at_ms])
    is_prediction = np.arange(len(all_students)) < m
    # At the same time outcomes come first, so that only earlier predictions stand before them.
    order = np.lexsort((np.arange(len(all_students)), is_prediction, times_ms, all_students))
    positions = np.arange(len(order))
    last = np.maximum.accumulate(np.where(is_prediction[order], positions, -1))
    found = ~is_prediction[order] & (last >= 0)
    predictions, own = order[last[found]], order[positions[found]] - m
    same = students[predictions] == outcomes.students[own]
    predictions, own = predictions[same], own[same]
    rows, first = np.unique(predictions, return_index=True)  # in the order of time: the first outcome
    return rows, own[first]
