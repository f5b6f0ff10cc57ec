"""Trace one event through the topics, the audit log and the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from consumer.errors import BadInputError, StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.consumer import headers_of
from consumer.kafka.reader import Record
from consumer.monitor.audit.hashed_ids import id_hasher
from consumer.monitor.audit.removals import read_removals
from consumer.ops.dlq.dead_letter import DeadLetterRecord
from consumer.ops.dlq.plan import ReplayPosition
from consumer.ops.dlq.replay import group_of
from consumer.ops.dlq.topic import to_dead_letter
from consumer.ops.why.lookup import (
    FoundLine,
    dead_letter_source,
    find_line,
    find_outputs,
    position_reader,
    prediction_fields,
    prediction_source,
)
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.rejections import Rejection
from consumer.pipeline.validate import validate
from consumer.settings import Settings
from model_store.errors import ModelStoreError
from model_store.reasons import Reasons, explain
from model_store.store import ModelStore
from schemas.repository import engagement_event, purchase_prediction

_RETRY_AFTER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Scoring:
    """A prediction's inputs, scored again by the version that the prediction names.

    Attributes:
        problem: Why the version cannot be loaded, or ``None``.
        reasons: The probability and its reasons; ``None`` if there is a problem.
    """

    problem: str | None = None
    reasons: Reasons | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        reasons = self.reasons
        if reasons is None:
            return {"problem": self.problem, "probability_now": None, "contributions": []}
        return {"problem": None, "probability_now": reasons.probability, **reasons.as_json()}


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event as it is in the topic.

    Attributes:
        timestamp_ms: The record's timestamp, in milliseconds since the epoch.
        key: The record's key.
        n_bytes: The length of the record's value; ``None`` for a tombstone.
        fields: The decoded fields, or ``None``.
        rejection: The rejection that the event would get now, or ``None``.
    """

    timestamp_ms: int
    key: bytes | None
    n_bytes: int | None
    fields: dict[str, Any] | None
    rejection: Rejection | None


@dataclass(slots=True)
class EventTrace:
    """Everything that is known about one event.

    Attributes:
        topic: The events topic.
        partition: The event's partition.
        offset: The event's offset.
        event: The event; ``None`` if its retention is over.
        predictions: The fields of the audit line of each prediction; normally one or none.
        dead_letters: The dead letters; normally one or none.
        replayed: For each dead letter, whether `dlq replay` has handled it.
        scoring: The first prediction's inputs, scored again.
        audit_line: The first prediction's audit line.
        audit_line_agrees: Whether that line has the prediction's fields, its ids plain or hashed.
        audit_line_problem: The reason why there is no audit line.
        events_before: For an undecided event, the number of undecided offsets before it.
        outputs_expired: Whether the retention of some outputs is over.
    """

    topic: str
    partition: int
    offset: int
    event: FoundEvent | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[DeadLetterRecord] = field(default_factory=list)
    replayed: list[bool] = field(default_factory=list)
    scoring: Scoring | None = None
    audit_line: FoundLine | None = None
    audit_line_agrees: bool = True
    audit_line_problem: str | None = None
    events_before: int | None = None
    outputs_expired: bool = False

    @property
    def outcome(self) -> str:
        """One of ``scored``, ``rejected``, ``both``, ``waiting``, ``expired`` and ``missing``."""
        match bool(self.predictions), bool(self.dead_letters):
            case True, True:
                return "both"
            case True, False:
                return "scored"
            case False, True:
                return "rejected"
        if self.events_before is not None:
            return "waiting"
        return "expired" if self.outputs_expired else "missing"

    @property
    def problem(self) -> str | None:
        """The broken guarantee, or ``None``."""
        n = len(self.predictions) + len(self.dead_letters)
        if n > 1:
            return f"{n} outputs of one event; see: purchase-stream audit verify"
        if self.outcome == "missing":
            return "the event has neither a prediction nor a dead letter; see: purchase-stream audit verify"
        return None


class EventTracer:
    """Traces events.

    Args:
        settings: The Kafka cluster, the topics, the audit log and the model store.
        writers: Resolves writer schemas.
    """

    def __init__(self, settings: Settings, writers: WriterSchemas) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._client = client_config.common(settings.kafka)
        self._admin = ClusterAdmin(self._client)
        self._store = settings.model_store.open()
        self._event_decoder = Decoder(engagement_event(), writers, keep_nulls=True)
        self._prediction_decoder = Decoder(purchase_prediction(), writers)
        self._removals = read_removals(settings.audit.path)
        self._hasher = id_hasher(settings.audit)

    def trace(self, partition: int, offset: int) -> EventTrace:
        """Return the trace of an event.

        Raises:
            BadInputError: There is no event at this offset, or its student was erased.
            StartupError: A topic is missing.
            Unavailable: The broker is down.
        """
        event = self._find_event(partition, offset)
        self._refuse_erased(event)
        trace = self._find_outputs(EventTrace(self._topics.events, partition, offset, event))
        if trace.outcome == "missing":
            # An open transaction of another producer may hide an output that was committed just before.
            time.sleep(_RETRY_AFTER_S)
            trace = self._find_outputs(EventTrace(self._topics.events, partition, offset, event))
        return trace

    def _refuse_erased(self, event: FoundEvent | None) -> None:
        if event is None:
            return
        student = (event.fields or {}).get("student_id")
        ids = {event.key or b"", b"" if student is None else str(student).encode()}
        if any(self._removals.hides(id_, event.timestamp_ms) for id_ in ids):
            raise BadInputError("this event's student was erased; nothing about it is shown")

    def _is_erased(self, prediction: Mapping[str, Any]) -> bool:
        output, student = prediction["output"], prediction["student_id"].encode()
        return self._removals.is_erased(student, output["partition"], output["offset"])

    def _find_event(self, partition: int, offset: int) -> FoundEvent | None:
        topic = self._topics.events
        ranges = self._admin.committed_ranges(topic)
        if partition not in ranges:
            raise BadInputError(f"{topic} has no partition {partition}; it has 0 to {max(ranges)}")
        start, stop = ranges[partition]
        if offset >= stop:
            raise BadInputError(
                f"{topic} has no event {partition}:{offset}; partition {partition} ends at {stop}"
            )
        if offset < start:
            return None
        with contextlib.closing(position_reader(self._client, topic)) as reader:
            for record in reader.read_range(partition, offset, offset + 1):
                return self._decode_event(record)
        raise BadInputError(
            f"{topic} has no event at {partition}:{offset}: it is a transaction marker or was aborted"
        )

    def _decode_event(self, record: Record) -> FoundEvent:
        value = record.value()
        decoded, rejections = self._event_decoder.decode(
            [value], lambda rows: [headers_of(record) for _ in rows]
        )
        fields = decoded.record(0) if len(decoded) else None
        if fields is not None:
            rejections = validate(decoded)[1]
        return FoundEvent(
            timestamp_ms=record.timestamp()[1],
            key=record.key(),
            n_bytes=None if value is None else len(value),
            fields=fields,
            rejection=next(iter(rejections), None),
        )

    def _find_outputs(self, trace: EventTrace) -> EventTrace:
        """Complete a trace of an event."""
        topics, source = self._topics, (trace.partition, trace.offset)
        # Ask for the lag before reading outputs: an event that is decided meanwhile must not seem lost.
        lag = self._admin.lag(self._settings.kafka.group_id, topics.events)
        predictions = find_outputs(
            self._client, topics.predictions, source, prediction_source(self._prediction_decoder)
        )
        trace.predictions = [
            prediction_fields(self._prediction_decoder, record, topics.events) for record in predictions
        ]
        if any(self._is_erased(prediction) for prediction in trace.predictions):
            raise BadInputError("this event's student was erased; nothing about it is shown")
        dead_letters = find_outputs(
            self._client, topics.dead_letters, source, dead_letter_source(topics.events)
        )
        trace.dead_letters = [to_dead_letter(record) for record in dead_letters]
        trace.replayed = [self._was_replayed(dead_letter) for dead_letter in trace.dead_letters]
        if trace.predictions:
            prediction = trace.predictions[0]
            trace.scoring = rescore(self._store, prediction["model_version"], prediction["features"])
            self._find_audit_line(trace, prediction)
        elif not trace.dead_letters:
            next_offset = lag.next_offsets.get(trace.partition, 0)
            trace.events_before = trace.offset - next_offset if trace.offset >= next_offset else None
            trace.outputs_expired = self._outputs_expired()
        return trace

    def _was_replayed(self, dead_letter: DeadLetterRecord) -> bool:
        partition = dead_letter.partition
        committed = self._admin.committed_offsets(
            group_of(self._settings), self._topics.dead_letters, [partition]
        )
        if partition not in committed:
            return False
        position = ReplayPosition.parse(*committed[partition])
        return not position.is_due(dead_letter.code, dead_letter.offset)

    def _find_audit_line(self, trace: EventTrace, prediction: Mapping[str, Any]) -> None:
        output = prediction["output"]
        try:
            trace.audit_line = find_line(
                self._settings.audit.path, output["topic"], output["partition"], output["offset"]
            )
        except StartupError as error:
            trace.audit_line_problem = str(error)
            return
        if trace.audit_line is not None:
            trace.audit_line_agrees = trace.audit_line.fields in (prediction, self._hashed(prediction))
        elif self._removals.is_expired(output["partition"], output["offset"]):
            trace.audit_line_problem = "the retention of its line is over (audit.retention_days or _bytes)"
        else:
            trace.audit_line_problem = (
                "the audit log does not have it: the monitor is behind, or its log started later"
            )

    def _hashed(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return a prediction as the log has it if ids are hashed."""
        if self._hasher is None:
            return dict(prediction)
        ids = {name: self._hasher.hashed(prediction[name].encode()) for name in ("event_id", "student_id")}
        return {**prediction, **ids}

    def _outputs_expired(self) -> bool:
        return any(
            start > 0
            for topic in (self._topics.predictions, self._topics.dead_letters)
            for start, _ in self._admin.committed_ranges(topic).values()
        )


def rescore(store: ModelStore, version: str, features: Mapping[str, Any]) -> Scoring:
    """Score a prediction's inputs again, and explain how much each of them adds to the score.

    Args:
        store: The model store.
        version: The model version of the prediction.
        features: The seven inputs as received.
    """
    try:
        return Scoring(reasons=explain(store.load(version), features))
    except ModelStoreError as error:
        return Scoring(problem=str(error))
