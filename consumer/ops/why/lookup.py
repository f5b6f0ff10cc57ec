"""Finds where something lies among records that are sorted by it, without reading them all. Pure.

Finds the prediction or the dead letter of an event, by halving: outputs keep the order of their events.

Finds the line of a prediction in the audit log, by halving: lines keep the order of their predictions.

Finds events by their id, in what the events topic was given since a time.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from consumer.errors import StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.reader import Record, TopicReader
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import segment_paths
from consumer.ops.dlq.topic import letter_of
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from schemas.repository import engagement_event

if TYPE_CHECKING:
    from consumer.settings import Settings

Probe = Callable[[int, int], tuple[int, int] | None]
"""Given a begin and an end, return where in between the first record that matters is, and its number."""

READ_THROUGH: Final = 500
"""A range of so many positions is read through rather than cut in halves again."""


def narrowed(probe: Probe, begin: int, end: int, wanted: int, enough: int = READ_THROUGH) -> tuple[int, int]:
    """Return the part of a range in which the record with a number is, if it is anywhere.

    The numbers rise. Where they fall back and rise through the same numbers again, as they do when an
    at-least-once writer repeats itself, one of the records with the number is in the part.

    Args:
        probe: looks at a part of the range.
        begin: of the range.
        end: of the range, exclusive.
        wanted: the number.
        enough: a part of so many positions is small enough.
    """
    while end - begin > enough:
        middle = (begin + end) // 2
        seen = probe(middle, end)
        if seen is None or seen[1] > wanted:
            end = middle
        else:
            begin = seen[0]
    return begin, end


def lookup_reader(client_config: Mapping[str, Any], topic: str) -> TopicReader:
    """Return a reader for a few records at each of many offsets."""
    return TopicReader(client_config, topic, fetch_ahead=READ_THROUGH, silence_limit_s=20)


SourceOf = Callable[[Record], tuple[int, int] | None]
"""Tells partition and offset of the event that a record is of; ``None`` for a foreign record."""


def find_output(
    client_config: Mapping[str, Any], topic: str, source: tuple[int, int], source_of: SourceOf
) -> list[Record]:
    """Return the records of an event in an output topic: one, or none, or several where there may be.

    A record is in the partition that its event's maps to, among those of other partitions' events.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker is away.
    """
    ranges = ClusterAdmin(client_config).committed_ranges(topic)
    event_partition, event_offset = source
    partition = event_partition % len(ranges)
    with contextlib.closing(lookup_reader(client_config, topic)) as reader:

        def probe(begin: int, end: int) -> tuple[int, int] | None:
            for record in reader.read_range(partition, begin, end):
                of = source_of(record)
                if of is not None and of[0] == event_partition:
                    return record.offset(), of[1]
            return None

        begin, end = narrowed(probe, *ranges[partition], event_offset)
        return [record for record in reader.read_range(partition, begin, end) if source_of(record) == source]


def prediction_source(decoder: Decoder) -> SourceOf:
    """Return what tells the event of a prediction.

    Args:
        decoder: reads predictions.
    """

    def source_of(record: Record) -> tuple[int, int] | None:
        decoded, _ = decoder.decode([record.value()])
        if not len(decoded):
            return None
        return int(decoded.numbers["source_partition"][0]), int(decoded.numbers["source_offset"][0])

    return source_of


def letter_source(events_topic: str) -> SourceOf:
    """Return what tells the event of a dead letter."""

    def source_of(record: Record) -> tuple[int, int] | None:
        body = letter_of(record).body
        if body is None or body["source"]["topic"] != events_topic:
            return None
        return body["source"]["partition"], body["source"]["offset"]

    return source_of


def prediction_fields(decoder: Decoder, record: Record, events_topic: str) -> dict[str, Any]:
    """Return a prediction as its line in the audit log says it."""
    decoded, _ = decoder.decode([record.value()])
    line = audit_lines(
        decoded,
        source_topic=events_topic,
        output_topic=record.topic(),
        partitions=[record.partition()],
        offsets=[record.offset()],
    )
    fields: dict[str, Any] = orjson.loads(line)
    return fields


_READ_THROUGH_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line of the audit log.

    Attributes:
        path: the log, or the segment of it.
        at_byte: where in the file the line begins.
        fields: what it says.
    """

    path: Path
    at_byte: int
    fields: dict[str, Any]


def find_line(log: Path, topic: str, partition: int, offset: int) -> FoundLine | None:
    """Return the line of the prediction at an offset of the predictions topic, or ``None``.

    Raises:
        StartupError: there is no audit log, or it cannot be read.
    """
    paths = [*segment_paths(log), log]
    try:
        for path in reversed(paths):
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    lines = _Lines(data, topic, partition)
                    found = lines.find(offset)
                    if found is not None:
                        return FoundLine(path, *found)
                    if lines.begin_at_or_before(offset):
                        return None
    except OSError as error:
        raise StartupError(f"the audit log {log} cannot be read: {error.strerror}; see audit.path") from error
    return None


class _Lines:
    """The lines of one file that are of one partition."""

    def __init__(self, data: mmap.mmap, topic: str, partition: int) -> None:
        self._data = data
        self._topic = topic
        self._partition = partition
        self._end = data.rfind(b"\n") + 1
        """What is behind it is a line that is being written."""

    def begin_at_or_before(self, offset: int) -> bool:
        """Tell whether the first line is of this offset or of an earlier one."""
        first = self._probe(0, self._end)
        return first is not None and first[1] <= offset

    def find(self, offset: int) -> tuple[int, dict[str, Any]] | None:
        begin, end = narrowed(self._probe, 0, self._end, offset, _READ_THROUGH_BYTES)
        while (seen := self._first(begin, end)) is not None:
            at, fields, begin = seen
            if fields["output"]["offset"] == offset:
                return at, fields
        return None

    def _probe(self, begin: int, end: int) -> tuple[int, int] | None:
        seen = self._first(begin, end)
        return None if seen is None else (seen[0], seen[1]["output"]["offset"])

    def _first(self, begin: int, end: int) -> tuple[int, dict[str, Any], int] | None:
        """Return the first of our lines that begins in a part: where, what it says, where the next begins."""
        at = 0 if begin == 0 else self._data.find(b"\n", begin - 1) + 1
        while begin <= at < end:
            line_end = self._data.find(b"\n", at) + 1
            try:
                fields = orjson.loads(self._data[at:line_end])
                output = fields["output"]
                if (output["topic"], output["partition"]) == (self._topic, self._partition):
                    return at, fields, line_end
            except (ValueError, KeyError, TypeError):
                pass  # `audit verify` tells of lines that are none
            at = line_end
        return None


def places_of(
    settings: Settings, writers: WriterSchemas, event_id: str, since_ms: int
) -> list[tuple[int, int]]:
    """Return partition and offset of each event with an id, in their order.

    Args:
        settings: where Kafka is, and the topic.
        writers: where writer schemas come from.
        event_id: the id.
        since_ms: look at what was written at or after this time only, milliseconds since the epoch.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker is away.
    """
    client, topic = client_config.common(settings.kafka), settings.topics.events
    admin = ClusterAdmin(client)
    ranges = admin.committed_ranges(topic)
    begins = admin.offsets_since(topic, ranges, since_ms)
    parts = {p: (max(begin, begins.get(p, end)), end) for p, (begin, end) in ranges.items()}
    decoder, wanted = Decoder(engagement_event(), writers), event_id.encode()
    found: list[tuple[int, int]] = []
    with contextlib.closing(TopicReader(client, topic)) as reader:
        for records in reader.read_ranges(parts):
            # In every framing the id stands in the bytes as it is: only these few are worth decoding.
            likely = [record for record in records if wanted in (record.value() or b"")]
            decoded, _ = decoder.decode([record.value() for record in likely])
            for i, row in enumerate(decoded.rows.tolist()):
                if decoded.record(i)["event_id"] == event_id:
                    found.append((likely[row].partition(), likely[row].offset()))
    return sorted(found)
