"""Decide where to start a partition whose committed offset is missing or was not written by this scorer.

Kafka deletes the committed offsets of an idle group after some days, and an administrator can delete or
reset them. Starting such a partition at its beginning would publish every event again. But the outputs
say how far it was processed: every prediction and every dead letter names its source offset, and a batch
is one transaction, so the last committed outputs of a partition are exact. The scorer resumes behind them.

Every offset that a scorer commits carries an :class:`OffsetMarker`. An offset with the marker of the
current topic is used as it is, so that an ordinary start reads no outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from consumer.errors import StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.reader import Record, TopicReader
from consumer.kafka.starting_offsets import CommittedOffset
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from schemas.repository import purchase_prediction

if TYPE_CHECKING:
    from consumer.settings import ResumeFrom, Settings

log = structlog.get_logger(__name__)

_MARKER_PREFIX: Final = "purchase-stream"
_FIRST_WINDOW: Final = 2_000
_MAX_WINDOW: Final = 50_000
_STABLE_WITHIN_S: Final = 60.0
"""How long to wait for transactions that are open in an output topic: several times their timeout."""

_STABLE_POLL_S: Final = 0.2


_CHOICES: Final = (
    "choose with --resume-from: outputs (behind the last prediction or dead letter), beginning (every event"
    " again: use other output topics), end (skip every event that is there) or committed (the group's offset)"
)


@dataclass(frozen=True, slots=True)
class OffsetMarker:
    """The metadata of an offset that a scorer commits.

    Attributes:
        topic_id: The id of the events topic. It changes when the topic is deleted and created again.
        partitions: The number of partitions that the topic had.
    """

    topic_id: str
    partitions: int

    def __str__(self) -> str:
        return f"{_MARKER_PREFIX} {self.topic_id} {self.partitions}"

    @classmethod
    def parse(cls, metadata: str | None) -> OffsetMarker | None:
        """Return the marker, or ``None`` if the metadata is not one: a scorer did not commit this offset."""
        words = (metadata or "").split(" ")
        if len(words) == 3 and words[0] == _MARKER_PREFIX and words[2].isdecimal():  # noqa: PLR2004 - as in __str__
            return cls(words[1], int(words[2]))
        return None


@dataclass(frozen=True, slots=True)
class LastOutput:
    """The last prediction or dead letter of a source partition.

    Attributes:
        source_offset: The offset of its event.
        key: The key of its event.
        texts: Texts that the value of its event contains; empty for a dead letter.
        value_sha256: The digest of its event's value; ``None`` for a tombstone and for a prediction.
        is_prediction: Whether it is a prediction.
    """

    source_offset: int
    key: bytes | None = field(repr=False)
    is_prediction: bool
    texts: Sequence[bytes] = field(default=(), repr=False)
    value_sha256: str | None = field(default=None, repr=False)

    def is_of(self, key: bytes | None, value: bytes | None) -> bool:
        """Return whether this output can come from an event with this key and value."""
        if not self.is_prediction:
            return self.value_sha256 == (None if value is None else sha256(value).hexdigest())
        # A prediction copies the key and the ids, and Avro stores a text as its UTF-8 bytes.
        return key == self.key and all(text in (value or b"") for text in self.texts)


@dataclass(frozen=True, slots=True)
class LastOutputs:
    """What the output topics say about source partitions.

    Attributes:
        by_partition: The last output of each source partition that has outputs.
        complete: Whether the topics still have all their records. If not, a source partition without
            outputs may have had some.
    """

    by_partition: Mapping[int, LastOutput]
    complete: bool


class EventSource:
    """Answers the questions about the events topic that the decision needs.

    Args:
        client_config: The configuration of every client.
        topic: The events topic.
        group: The consumer group.
    """

    def __init__(self, client_config: Mapping[str, Any], topic: str, group: str) -> None:
        self._client_config = client_config
        self._group = group
        self.topic = topic

    def ranges(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Return the first offset and the end of each partition."""
        numbers = sorted(partitions)
        admin = ClusterAdmin(self._client_config)
        ends = admin.end_offsets(self.topic, numbers)
        return {p: (first, ends[p]) for p, first in admin.first_offsets(self.topic, numbers).items()}

    def event(self, partition: int, offset: int) -> Record | None:
        """Return the event at an offset, or ``None`` if there is none (removed by compaction)."""
        reader = TopicReader(self._client_config, self.topic, fetch_ahead=1)
        try:
            return next(reader.read_range(partition, offset, offset + 1), None)
        finally:
            reader.close()

    def markers(self, n_partitions: int) -> list[OffsetMarker]:
        """Return the markers of all offsets that the group has committed for the topic."""
        admin = ClusterAdmin(self._client_config)
        committed = admin.committed_offsets(self._group, self.topic, range(n_partitions))
        markers = [OffsetMarker.parse(metadata) for _, metadata in committed.values()]
        return [marker for marker in markers if marker is not None]


class Outputs:
    """Finds the last outputs of source partitions in the predictions and dead-letter topics.

    Args:
        client_config: The configuration of every client.
        events: The events topic.
        predictions: The predictions topic.
        dead_letters: The dead-letter topic.
        writers: Finds the schemas of the predictions.
        heartbeat: Called while outputs are read.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        *,
        events: str,
        predictions: str,
        dead_letters: str,
        writers: WriterSchemas,
        heartbeat: Callable[[], None],
    ) -> None:
        self._client_config = client_config
        self._events = events
        self._parsers = {predictions: self._parse_predictions, dead_letters: self._parse_dead_letters}
        self._decoder = Decoder(purchase_prediction(), writers)
        self._heartbeat = heartbeat

    def last(self, partitions: AbstractSet[int]) -> LastOutputs:
        """Return the last committed outputs of source partitions.

        Raises:
            Unavailable: The broker is away, or a transaction stays open.
        """
        last: dict[int, LastOutput] = {}
        complete = True
        for topic, parse in self._parsers.items():
            ranges = self._stable_ranges(topic)
            complete = complete and all(start == 0 for start, _ in ranges.values())
            reader = TopicReader(self._client_config, topic)
            try:
                for partition, output in self._scan(reader, parse, ranges, partitions).items():
                    if partition not in last or last[partition].source_offset < output.source_offset:
                        last[partition] = output
            finally:
                reader.close()
        return LastOutputs(last, complete)

    def _stable_ranges(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return the first offset and the end of each partition, once no transaction is open before it."""
        admin = ClusterAdmin(self._client_config)
        ends = admin.end_offsets(topic, range(admin.describe_topic(topic).partitions))
        deadline_s = time.monotonic() + _STABLE_WITHIN_S
        while True:
            ranges = admin.committed_ranges(topic)
            if all(ranges[partition][1] >= end for partition, end in ends.items()):
                return {partition: (ranges[partition][0], end) for partition, end in ends.items()}
            if time.monotonic() > deadline_s:
                raise Unavailable(f"a transaction stays open in {topic}; its last outputs are unknown")
            self._heartbeat()
            time.sleep(_STABLE_POLL_S)

    def _scan(
        self,
        reader: TopicReader,
        parse: Callable[[Sequence[Record]], Iterable[tuple[int, LastOutput]]],
        ranges: Mapping[int, tuple[int, int]],
        partitions: AbstractSet[int],
    ) -> dict[int, LastOutput]:
        """Read an output topic backwards until every source partition is found.

        The outputs of a source partition are in one output partition, in order. It is the source
        partition modulo the number of output partitions, unless that number was changed.
        """
        last: dict[int, LastOutput] = {}
        for output_partition, (start, end) in ranges.items():
            own = {p for p in partitions if p % len(ranges) == output_partition}
            last |= self._read_backwards(reader, parse, output_partition, start, end, own)
        for output_partition, (start, end) in ranges.items():
            elsewhere = {p for p in partitions - last.keys() if p % len(ranges) != output_partition}
            last |= self._read_backwards(reader, parse, output_partition, start, end, elsewhere)
        return last

    def _read_backwards(
        self,
        reader: TopicReader,
        parse: Callable[[Sequence[Record]], Iterable[tuple[int, LastOutput]]],
        output_partition: int,
        start: int,
        end: int,
        wanted: AbstractSet[int],
    ) -> dict[int, LastOutput]:
        """Return the last output of each wanted source partition in one output partition."""
        last: dict[int, LastOutput] = {}
        window = _FIRST_WINDOW
        while wanted - last.keys() and start < end:
            self._heartbeat()
            window_start = max(start, end - window)
            records = list(reader.read_range(output_partition, window_start, end))
            outputs = dict(parse(records))  # The last output of each source partition wins.
            last |= {p: output for p, output in outputs.items() if p in wanted and p not in last}
            end, window = window_start, min(4 * window, _MAX_WINDOW)
        return last

    def _parse_predictions(self, records: Sequence[Record]) -> Iterable[tuple[int, LastOutput]]:
        batch, _ = self._decoder.decode([record.value() for record in records])
        partitions = batch.numbers["source_partition"].tolist()
        offsets = batch.numbers["source_offset"].tolist()
        for i, (partition, offset) in enumerate(zip(partitions, offsets, strict=True)):
            key = records[int(batch.rows[i])].key()
            texts = [batch.text(name, i).encode() for name in ("event_id", "student_id")]
            yield partition, LastOutput(offset, key, is_prediction=True, texts=texts)

    def _parse_dead_letters(self, records: Sequence[Record]) -> Iterable[tuple[int, LastOutput]]:
        for record in records:
            try:
                letter = orjson.loads(record.value() or b"")
                source = letter["source"]
                partition, offset = int(source["partition"]), int(source["offset"])
                digest = letter["raw_sha256"]
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # Another program's record.
            if source["topic"] == self._events:
                yield partition, LastOutput(offset, None, is_prediction=False, value_sha256=digest)


class StartResolver:
    """Chooses the starting offsets of partitions.

    Args:
        marker: The marker of the current events topic.
        source: The events topic.
        outputs: Finds the last outputs.
        resume_from: The operator's choice, if any. It applies only to a partition whose
            committed offset is missing or was not written by a scorer, so it can stay on a command line.
    """

    def __init__(
        self,
        marker: OffsetMarker,
        source: EventSource,
        outputs: Outputs,
        resume_from: ResumeFrom | None = None,
    ) -> None:
        self._marker = marker
        self._source = source
        self._outputs = outputs
        self._resume_from = resume_from

    def __call__(self, committed: Mapping[int, CommittedOffset | None]) -> dict[int, int]:
        """Return where to start each partition.

        Raises:
            StartupError: The outputs do not show where, or contradict the committed offset.
            Unavailable: The broker is away.
        """
        starts: dict[int, int] = {}
        unsure: dict[int, int | None] = {}
        for partition, offset in committed.items():
            marker = None if offset is None else OffsetMarker.parse(offset.metadata)
            if offset is None or (marker is not None and marker.topic_id != self._marker.topic_id):
                unsure[partition] = None
            elif marker is None:
                unsure[partition] = offset.offset
            else:
                starts[partition] = offset.offset
        return starts | self._resolve(unsure) if unsure else starts

    def _resolve(self, committed: Mapping[int, int | None]) -> dict[int, int]:
        """Return where to start partitions whose committed offset was not written for this topic."""
        ranges = self._source.ranges(committed)
        starts = {
            partition: ranges[partition][0]
            for partition, offset in committed.items()
            # A partition without events has nothing to publish a second time.
            if offset is None and (ranges[partition] == (0, 0) or self._is_new(partition))
        }
        partitions = committed.keys() - starts.keys()
        if not partitions:
            return starts
        log.info("reading the outputs to find where to resume", partitions=sorted(partitions))
        last = self._outputs.last(partitions)
        resumed: dict[int, int] = {}
        for partition in sorted(partitions):
            offset, output = committed[partition], last.by_partition.get(partition)
            start = self._start(partition, offset, output, ranges[partition], complete=last.complete)
            starts[partition] = start
            if start != offset and output is not None:
                resumed[partition] = start
        if resumed:
            log.warning(
                "resuming as chosen" if self._resume_from else "resuming behind the last outputs",
                reason="the group has no offset that a scorer has committed for this topic",
                topic=self._source.topic,
                offsets=resumed,
                resume_from=self._resume_from or "outputs",
            )
        return starts

    def _start(
        self,
        partition: int,
        committed: int | None,
        output: LastOutput | None,
        range_: tuple[int, int],
        *,
        complete: bool,
    ) -> int:
        first, end = range_
        if self._resume_from == "beginning":
            return first
        if self._resume_from == "end":
            return end
        if self._resume_from == "committed":
            return first if committed is None else committed
        if output is None:
            if committed is not None:
                return committed  # Nothing contradicts it.
            if complete or self._resume_from == "outputs":
                return first
            raise self._refusal(
                partition, "the group has no committed offset, and the output topics have lost records"
            )
        self._check_event(partition, output, range_)
        next_offset = output.source_offset + 1
        if committed is None or committed == next_offset or self._resume_from == "outputs":
            return next_offset
        direction = "back behind" if committed < next_offset else "ahead of"
        raise self._refusal(
            partition,
            f"the group's offset {committed} was set by another program, {direction} the outputs,"
            f" which end with offset {output.source_offset}",
        )

    def _check_event(self, partition: int, output: LastOutput, range_: tuple[int, int]) -> None:
        """Check that the last output comes from an event of this topic.

        Raises:
            StartupError: It does not: the topic was created again, or these are the outputs of another topic.
        """
        first, end = range_
        offset = output.source_offset
        if offset >= end:
            raise self._refusal(
                partition,
                f"the outputs end with offset {offset}, but the topic only has {first} to {end}:"
                " it was deleted and created again, or these are the outputs of another topic",
            )
        if offset < first:
            return  # Retention has removed the event. All remaining events come after it.
        event = self._source.event(partition, offset)
        if event is None:
            if self._resume_from == "outputs":
                return
            raise self._refusal(
                partition, f"the outputs end with offset {offset}, which is not there any more"
            )
        if not output.is_of(event.key(), event.value()):
            raise self._refusal(
                partition,
                f"the event at offset {offset} is not the event of the last output:"
                " the topic was deleted and created again, or these are the outputs of another topic",
            )

    def _is_new(self, partition: int) -> bool:
        """Return whether the partition was added to the topic after the group had committed offsets."""
        return any(
            marker.topic_id == self._marker.topic_id and marker.partitions <= partition
            for marker in self._source.markers(self._marker.partitions)
        )

    def _refusal(self, partition: int, finding: str) -> StartupError:
        return StartupError(
            f"cannot tell where to resume {self._source.topic}[{partition}]: {finding}; {_CHOICES}"
        )


def start_resolver(
    settings: Settings,
    client_config: Mapping[str, Any],
    marker: OffsetMarker,
    writers: WriterSchemas,
    heartbeat: Callable[[], None],
    resume_from: ResumeFrom | None,
) -> StartResolver:
    """Return the resolver for the topics of the settings."""
    topics = settings.topics
    outputs = Outputs(
        client_config,
        events=topics.events,
        predictions=topics.predictions,
        dead_letters=topics.dead_letters,
        writers=writers,
        heartbeat=heartbeat,
    )
    source = EventSource(client_config, topics.events, settings.kafka.group_id)
    return StartResolver(marker, source, outputs, resume_from)
