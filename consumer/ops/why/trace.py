"""What became of one event: looks it up wherever it can be."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from consumer.errors import BadInputError, StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.ops.dlq.plan import ReplayPosition
from consumer.ops.dlq.replay import group_of
from consumer.ops.dlq.topic import letter_of
from consumer.ops.why.lookup import (
    FoundLine,
    find_line,
    find_output,
    letter_source,
    lookup_reader,
    prediction_fields,
    prediction_source,
)
from consumer.ops.why.scoring import Scoring, scoring
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.rejections import Rejection
from consumer.pipeline.validate import validate
from model_store.store import ModelStore
from schemas.repository import engagement_event, purchase_prediction

if TYPE_CHECKING:
    from consumer.kafka.reader import Record
    from consumer.ops.dlq.dead_letter import DeadLetterRecord
    from consumer.settings import Settings

_LOOK_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event as it is in the topic.

    Attributes:
        timestamp_ms: of the record.
        key: of the record.
        n_bytes: of its value; ``None`` is a tombstone.
        fields: what was decoded, or ``None``.
        rejection: what would be wrong with it now, or ``None``.
    """

    timestamp_ms: int
    key: bytes | None
    n_bytes: int | None
    fields: dict[str, Any] | None
    rejection: Rejection | None


@dataclass(slots=True)
class EventTrace:
    """What became of an event.

    Attributes:
        topic: the events topic.
        partition: of the event.
        offset: of the event.
        event: ``None`` if the topic does not have it any more.
        predictions: as the audit log says them; one, unless something is wrong.
        letters: dead letters; likewise.
        replayed: for each of these, whether `dlq replay` has sent the event again.
        scoring: how the first prediction came about.
        line: of the first prediction, in the audit log.
        line_missing: why there is none.
        waiting: how many events before it the group has still to decide, where it is not decided yet.
        expired: whether outputs so old are gone.
    """

    topic: str
    partition: int
    offset: int
    event: FoundEvent | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)
    letters: list[DeadLetterRecord] = field(default_factory=list)
    replayed: list[bool] = field(default_factory=list)
    scoring: Scoring | None = None
    line: FoundLine | None = None
    line_missing: str | None = None
    waiting: int | None = None
    expired: bool = False

    @property
    def outcome(self) -> str:
        """One of ``scored``, ``rejected``, ``both``, ``waiting``, ``expired`` and ``missing``."""
        if self.predictions or self.letters:
            return (
                "both" if self.predictions and self.letters else "scored" if self.predictions else "rejected"
            )
        if self.waiting is not None:
            return "waiting"
        return "expired" if self.expired else "missing"

    @property
    def problem(self) -> str | None:
        """What must not be, or ``None``."""
        n = len(self.predictions) + len(self.letters)
        if n > 1:
            return f"{n} outputs of one event; see: purchase-stream audit verify"
        if self.outcome == "missing":
            return "the event has neither a prediction nor a dead letter; see: purchase-stream audit verify"
        return None


class EventTracer:
    """Looks events up.

    Args:
        settings: where everything is.
        writers: where writer schemas come from.
    """

    def __init__(self, settings: Settings, writers: WriterSchemas) -> None:
        self._settings = settings
        self._client = client_config.common(settings.kafka)
        self._admin = ClusterAdmin(self._client)
        self._events_decoder = Decoder(engagement_event(), writers)
        self._predictions_decoder = Decoder(purchase_prediction(), writers)

    def tell(self, partition: int, offset: int) -> EventTrace:
        """Return what became of an event.

        Raises:
            BadInputError: there is no such event, and never was.
            StartupError: a topic is missing.
            Unavailable: the broker is away.
        """
        event = self._event(partition, offset)
        story = self._look(EventTrace(self._settings.topics.events, partition, offset, event))
        if story.outcome == "missing":
            # Committed a moment ago, it may still be hidden behind somebody else's open transaction.
            time.sleep(_LOOK_AGAIN_S)
            story = self._look(EventTrace(self._settings.topics.events, partition, offset, event))
        return story

    def _look(self, story: EventTrace) -> EventTrace:
        topics, partition, offset = self._settings.topics, story.partition, story.offset
        # Before the outputs: what is decided while we look must not seem to be lost.
        progress = self._admin.lag(self._settings.kafka.group_id, topics.events)
        for message in find_output(
            self._client,
            topics.predictions,
            (partition, offset),
            prediction_source(self._predictions_decoder),
        ):
            story.predictions.append(prediction_fields(self._predictions_decoder, message, topics.events))
        for message in find_output(
            self._client, topics.dead_letters, (partition, offset), letter_source(topics.events)
        ):
            story.letters.append(letter_of(message))
        story.replayed = [self._was_replayed(letter) for letter in story.letters]
        if story.predictions:
            self._explain(story, story.predictions[0])
        elif not story.letters:
            next_offset = progress.next_offsets.get(partition, 0)
            story.waiting = offset - next_offset if offset >= next_offset else None
            story.expired = self._outputs_expired()
        return story

    def _event(self, partition: int, offset: int) -> FoundEvent | None:
        topic = self._settings.topics.events
        ranges = self._admin.committed_ranges(topic)
        if partition not in ranges:
            raise BadInputError(f"{topic} has no partition {partition}; it has 0 to {max(ranges)}")
        begin, end = ranges[partition]
        if offset >= end:
            raise BadInputError(
                f"{topic} has no event {partition}:{offset}; partition {partition} ends at {end}"
            )
        if offset < begin:
            return None
        with contextlib.closing(lookup_reader(self._client, topic)) as reader:
            for record in reader.read_range(partition, offset, offset + 1):
                return self._found(record)
        raise BadInputError(
            f"{topic} has no event at {partition}:{offset}: it is a mark of Kafka's own, or undone"
        )

    def _found(self, record: Record) -> FoundEvent:
        value = record.value()
        decoded, rejections = self._events_decoder.decode([value])
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

    def _was_replayed(self, letter: DeadLetterRecord) -> bool:
        topic = self._settings.topics.dead_letters
        committed = self._admin.committed_offsets(group_of(self._settings), topic, [letter.partition])
        if letter.partition not in committed:
            return False
        return not ReplayPosition.read(*committed[letter.partition]).is_due(letter.code, letter.offset)

    def _explain(self, story: EventTrace, prediction: dict[str, Any]) -> None:
        where = self._settings.model_store
        story.scoring = scoring(
            ModelStore(where.path, where.model), prediction["model_version"], prediction["features"]
        )
        output = prediction["output"]
        try:
            story.line = find_line(
                self._settings.audit.path, output["topic"], output["partition"], output["offset"]
            )
        except StartupError as error:
            story.line_missing = str(error)
        else:
            if story.line is None:
                story.line_missing = (
                    "not in the audit log: the monitor is not there yet, or its log began later"
                )

    def _outputs_expired(self) -> bool:
        topics = self._settings.topics
        return any(
            begin > 0
            for topic in (topics.predictions, topics.dead_letters)
            for begin, _ in self._admin.committed_ranges(topic).values()
        )
