"""Find an event's outputs, its audit line, or the event itself by its id.

Outputs keep the order of their events, and audit lines the order of their predictions. So a binary search
finds them without reading everything.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from consumer.errors import StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.consumer import headers_of
from consumer.kafka.reader import Record, TopicReader
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import segment_paths
from consumer.ops.dlq.topic import to_dead_letter
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.settings import Settings
from schemas.repository import engagement_event

_SCAN_RECORDS: Final = 500
"""A range of this many offsets is read, not halved again."""

_SCAN_BYTES: Final = 64 * 1024
"""A range of this many bytes of the audit log is read, not halved again."""

Probe = Callable[[int, int], tuple[int, int] | None]
"""Returns position and number of the first relevant record in a range of positions (start, stop)."""

SourceOf = Callable[[Record], tuple[int, int] | None]
"""Returns partition and offset of a record's event; ``None`` if the record is not ours."""


def narrow(
    probe: Probe, start: int, stop: int, wanted: int, scan_limit: int = _SCAN_RECORDS
) -> tuple[int, int]:
    """Halve a range until it is small; the record with the wanted number is in the result, if it exists.

    Numbers rise with positions. At-least-once delivery may repeat a run of numbers; then the result holds
    one of the records with the number. For example, with a record per position and the numbers 0 2 4 6 8,
    ``narrow(probe, 0, 5, wanted=6, scan_limit=1)`` returns ``(3, 4)``.

    Args:
        probe: Reads the first record of a range.
        start: The first position of the range.
        stop: The end of the range, exclusive.
        wanted: The number to find.
        scan_limit: The largest size of the result.
    """
    while stop - start > scan_limit:
        middle = (start + stop) // 2
        found = probe(middle, stop)
        if found is None or found[1] > wanted:
            stop = middle
        else:
            start = found[0]
    return start, stop


def position_reader(config: Mapping[str, Any], topic: str) -> TopicReader:
    """Return a reader for a few records at many positions."""
    return TopicReader(config, topic, fetch_ahead=_SCAN_RECORDS, silence_limit_s=20)


def find_outputs(
    config: Mapping[str, Any], topic: str, source: tuple[int, int], source_of: SourceOf
) -> list[Record]:
    """Return an event's records in an output topic: normally one or none.

    Args:
        config: The configuration of every client.
        topic: The output topic. It holds an event's outputs in the event's partition modulo the number of
            partitions.
        source: The partition and offset of the event.
        source_of: Returns the event of a record.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker is down.
    """
    ranges = ClusterAdmin(config).committed_ranges(topic)
    event_partition, event_offset = source
    partition = event_partition % len(ranges)
    with contextlib.closing(position_reader(config, topic)) as reader:

        def probe(start: int, stop: int) -> tuple[int, int] | None:
            for record in reader.read_range(partition, start, stop):
                event = source_of(record)
                if event is not None and event[0] == event_partition:
                    return record.offset(), event[1]
            return None

        start, stop = narrow(probe, *ranges[partition], event_offset)
        return [record for record in reader.read_range(partition, start, stop) if source_of(record) == source]


def prediction_source(decoder: Decoder) -> SourceOf:
    """Return a function that reads the event's position from a prediction.

    Args:
        decoder: Decodes predictions.
    """

    def source_of(record: Record) -> tuple[int, int] | None:
        decoded, _ = decoder.decode([record.value()])
        if not len(decoded):
            return None
        return int(decoded.numbers["source_partition"][0]), int(decoded.numbers["source_offset"][0])

    return source_of


def dead_letter_source(events_topic: str) -> SourceOf:
    """Return a function that reads the event's position from a dead letter."""

    def source_of(record: Record) -> tuple[int, int] | None:
        body = to_dead_letter(record).body
        if body is None or body["source"]["topic"] != events_topic:
            return None
        return body["source"]["partition"], body["source"]["offset"]

    return source_of


def prediction_fields(decoder: Decoder, record: Record, events_topic: str) -> dict[str, Any]:
    """Return a prediction as the fields of its audit line."""
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


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line of the audit log.

    Attributes:
        path: The file: the log, or one of its segments.
        at_byte: The line's position in the file.
        fields: The parsed line.
    """

    path: Path
    at_byte: int
    fields: dict[str, Any]


def find_line(log: Path, topic: str, partition: int, offset: int) -> FoundLine | None:
    """Return the audit line of the prediction at an offset of the predictions topic, or ``None``.

    Raises:
        StartupError: The audit log is missing or unreadable.
    """
    try:
        for path in (log, *reversed(segment_paths(log))):
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    lines = _PartitionLines(data, topic, partition)
                    found = lines.find(offset)
                    if found is not None:
                        return FoundLine(path, *found)
                    if lines.starts_at_or_before(offset):
                        return None
    except OSError as error:
        raise StartupError(f"the audit log {log} cannot be read: {error.strerror}; see audit.path") from error
    return None


class _PartitionLines:
    """The lines of one file about one partition of the predictions topic."""

    def __init__(self, data: mmap.mmap, topic: str, partition: int) -> None:
        self._data = data
        self._topic = topic
        self._partition = partition
        self._stop = data.rfind(b"\n") + 1
        """The end of the last complete line. The bytes after it are a line that is being written."""

    def starts_at_or_before(self, offset: int) -> bool:
        """Return whether the first line is at this offset or before it."""
        first = self._probe(0, self._stop)
        return first is not None and first[1] <= offset

    def find(self, offset: int) -> tuple[int, dict[str, Any]] | None:
        """Return position and fields of the line at an offset, or ``None``."""
        start, stop = narrow(self._probe, 0, self._stop, offset, _SCAN_BYTES)
        while (first := self._first(start, stop)) is not None:
            at_byte, fields, start = first
            if fields["output"]["offset"] == offset:
                return at_byte, fields
        return None

    def _probe(self, start: int, stop: int) -> tuple[int, int] | None:
        first = self._first(start, stop)
        return None if first is None else (first[0], first[1]["output"]["offset"])

    def _first(self, start: int, stop: int) -> tuple[int, dict[str, Any], int] | None:
        """Return position, fields and end of the first line that starts in a range."""
        at = 0 if start == 0 else self._data.find(b"\n", start - 1) + 1
        while start <= at < stop:
            line_stop = self._data.find(b"\n", at) + 1
            try:
                fields = orjson.loads(self._data[at:line_stop])
                output = fields["output"]
                if (output["topic"], output["partition"]) == (self._topic, self._partition):
                    return at, fields, line_stop
            except (ValueError, KeyError, TypeError):
                pass  # `audit verify` reports damaged lines
            at = line_stop
        return None


def find_events(
    settings: Settings, writers: WriterSchemas, event_id: str, since_ms: int
) -> list[tuple[int, int]]:
    """Return partition and offset of every event with this id, sorted.

    Args:
        settings: The Kafka cluster and the events topic.
        writers: Resolves writer schemas.
        event_id: The id.
        since_ms: The oldest record timestamp to search, in milliseconds since the epoch.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker is down.
    """
    config, topic = client_config.common(settings.kafka), settings.topics.events
    admin = ClusterAdmin(config)
    ranges = admin.committed_ranges(topic)
    starts = admin.offsets_since(topic, ranges, since_ms)
    recent = {p: (max(start, starts.get(p, stop)), stop) for p, (start, stop) in ranges.items()}
    decoder = Decoder(engagement_event(), writers, keep_nulls=True)
    found: list[tuple[int, int]] = []
    with contextlib.closing(TopicReader(config, topic)) as reader:
        for records in reader.read_ranges(recent):
            found += _positions_of(records, event_id, decoder)
    return sorted(found)


def _positions_of(records: Sequence[Record], event_id: str, decoder: Decoder) -> list[tuple[int, int]]:
    """Return partition and offset of the records with this event id."""
    # Every framing holds the id as plain bytes, so only records that contain these bytes are decoded.
    encoded_id = event_id.encode()
    likely = [record for record in records if encoded_id in (record.value() or b"")]
    decoded, _ = decoder.decode(
        [record.value() for record in likely], lambda rows: [headers_of(likely[row]) for row in rows]
    )
    return [
        (likely[row].partition(), likely[row].offset())
        for i, row in enumerate(decoded.rows.tolist())
        if decoded.record(i)["event_id"] == event_id
    ]
