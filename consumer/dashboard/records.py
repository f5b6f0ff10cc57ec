"""Show a single dead letter or prediction, and search for predictions.

A record is read from Kafka by partition and offset. The search reads the latest lines of the audit log.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import mmap
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from consumer import timestamps
from consumer.dashboard.charts import amount
from consumer.dashboard.rendering import number, title
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.consumer import headers_of
from consumer.kafka.reader import TopicReader
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.log import segment_paths
from consumer.monitor.audit.removals import Removals
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code
from consumer.printable import hex_lines
from consumer.settings import TopicSettings
from model_store.errors import ModelStoreError
from model_store.reasons import Reasons

RAW_SHOWN_BYTES: Final = 4096
"""The number of bytes of a value that a page shows. ``dlq show`` shows all of them."""

TEXT_SHOWN_CHARACTERS: Final = 1000
"""The number of characters of a text that a page shows."""

_READ_TIMEOUT_S: Final = 10.0
_CODES: Final = frozenset(Code)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A committed record.

    Attributes:
        topic: The topic.
        partition: The partition.
        offset: The offset.
        timestamp_ms: The timestamp, milliseconds since the epoch.
        key: The key.
        value: The value; ``None`` is a tombstone.
        headers: The headers, in order.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Sequence[tuple[str, bytes | None]] = field(repr=False)


ReadRecord = Callable[[str, int, int], StoredRecord | None]
"""Returns the committed record of a topic, partition and offset, ``None`` if there is none."""

Explain = Callable[[str, Mapping[str, Any]], Reasons]
"""Returns the reasons for the probability of a student by a model version, or raises ModelStoreError."""


class RecordReader:
    """Reads single records. Safe to use from several threads; serves one at a time.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
    """

    def __init__(self, client_config: Mapping[str, Any]) -> None:
        self._client_config = client_config
        self._lock = threading.Lock()

    def __call__(self, topic: str, partition: int, offset: int) -> StoredRecord | None:
        """Return a committed record, ``None`` if there is none at this offset.

        Raises:
            StartupError: The topic does not exist.
            Unavailable: No broker answered in time.
        """
        with self._lock:
            ranges = ClusterAdmin(self._client_config).committed_ranges(topic)
            start, stop = ranges.get(partition, (0, 0))
            if not start <= offset < stop:
                return None
            reader = TopicReader(self._client_config, topic, fetch_ahead=1, silence_limit_s=_READ_TIMEOUT_S)
            with contextlib.closing(reader):
                for record in reader.read_range(partition, offset, offset + 1):
                    return StoredRecord(
                        topic=topic,
                        partition=partition,
                        offset=offset,
                        timestamp_ms=record.timestamp()[1],
                        key=record.key(),
                        value=record.value(),
                        headers=headers_of(record),
                    )
            return None


def rejection_view(record: StoredRecord) -> dict[str, Any]:
    """Return the content of a dead letter's page, even if the record is not a dead letter."""
    body = _mapping(_json(record.value))
    source, detail = _mapping(body.get("source")), body.get("detail")
    code = body.get("code")
    code = code if isinstance(code, str) and code in _CODES else None
    event = body.get("event")
    commands = [f"purchase-stream dlq show {record.partition}:{record.offset}"]
    if _is_position(source):
        commands.append(f"purchase-stream why {source['partition']}:{source['offset']}")
    if code:
        commands.append(f"purchase-stream dlq replay --code {code} --dry-run")
    return {
        **_record_view(record),
        "code": code,
        "status": _text_or_none(body.get("status")),
        "problems": [_problem(item) for item in detail] if isinstance(detail, list) else None,
        "detail": None if detail is None or isinstance(detail, list) else _shown(detail),
        "rejected_at": _text_or_none(body.get("rejected_at")),
        "source": {name: _shown(value) for name, value in source.items()},
        "event": {_cut(name): _shown(value) for name, value in event.items()}
        if isinstance(event, dict)
        else None,
        "raw": _raw_view(body) if code else _bytes_view(record.value),
        "commands": commands,
    }


def prediction_view(
    record: StoredRecord, decoder: Decoder, events_topic: str, explain: Explain
) -> dict[str, Any] | None:
    """Return the content of a prediction's page; ``None`` if the record is not a prediction.

    Args:
        record: The record.
        decoder: Decodes predictions.
        events_topic: The topic that the predictions are about.
        explain: Returns the reasons for a probability.
    """
    predictions, _ = decoder.decode([record.value])
    if not len(predictions):
        return None
    line = orjson.loads(
        audit_lines(
            predictions,
            source_topic=events_topic,
            output_topic=record.topic,
            partitions=[record.partition],
            offsets=[record.offset],
        )
    )
    commands = []
    if _is_position(line["source"]):
        commands.append(f"purchase-stream why {line['source']['partition']}:{line['source']['offset']}")
    reasons = reasons_view(line, explain)
    return {**_record_view(record), "line": line, "commands": commands, "reasons": reasons}


def reasons_view(line: Mapping[str, Any], explain: Explain) -> dict[str, Any]:
    """Return the reasons for the probability of an audit line, or the problem why there are none."""
    try:
        reasons = explain(line["model_version"], line["features"])
    except ModelStoreError as error:
        return {"problem": str(error)}
    largest = max((abs(item.amount) for item in reasons.contributions), default=0.0) or 1.0
    rows = [
        {
            "feature": item.feature,
            "value": item.value if isinstance(item.value, str) else number(item.value),
            "amount": item.amount,
            "chart": amount(item.amount, largest, f"{title(item.feature)} adds {item.amount:+.3f}"),
        }
        for item in sorted(reasons.contributions, key=lambda item: -abs(item.amount))
    ]
    return {
        "problem": None,
        "unit": reasons.unit.replace("_", "-"),
        "base": reasons.base,
        "rows": rows,
        "total": reasons.total,
        "probability": reasons.probability,
        "reference": {
            name: value if isinstance(value, str) else number(value)
            for name, value in reasons.reference.items()
        },
    }


@dataclass(frozen=True, slots=True)
class RecordPages:
    """Provides the content of the pages of single records.

    Attributes:
        read: Reads a record.
        topics: The names of the topics.
        predictions: Decodes predictions.
        explain: Returns the reasons for a probability.
        removals: Says which students were erased; their records have no page.
    """

    read: ReadRecord
    topics: TopicSettings
    predictions: Decoder
    explain: Explain
    removals: Removals = field(default_factory=Removals)

    def rejection(self, partition: int, offset: int) -> dict[str, Any] | None:
        """Return a dead letter by its position in the dead-letter topic, ``None`` if there is none."""
        record = self.read(self.topics.dead_letters, partition, offset)
        if record is None or self._is_erased(record, _event_student(record)):
            return None
        return rejection_view(record)

    def prediction(self, partition: int, offset: int) -> dict[str, Any] | None:
        """Return a prediction by its position in the predictions topic, ``None`` if there is none."""
        record = self.read(self.topics.predictions, partition, offset)
        if record is None or self._is_erased(record, ""):
            return None
        view = prediction_view(record, self.predictions, self.topics.events, self.explain)
        erased = view is not None and self._is_erased(record, view["line"]["student_id"])
        return None if erased else view

    def _is_erased(self, record: StoredRecord, student_id: str) -> bool:
        """Tell whether a record, by its key or by its content, is about an erased student."""
        ids = {record.key or b"", student_id.encode()}
        return any(self.removals.hides(id_, record.timestamp_ms) for id_ in ids)


def _event_student(dead_letter: StoredRecord) -> str:
    """Return the student id of a dead letter's event; empty if it has none."""
    event = _mapping(_mapping(_json(dead_letter.value)).get("event"))
    return str(event.get("student_id", ""))


def _record_view(record: StoredRecord) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "written_at": timestamps.format_ms(record.timestamp_ms),
        "key": _bytes_as_text(record.key),
        "headers": [(name, _bytes_as_text(value)) for name, value in record.headers],
    }


def _raw_view(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the event's original value as the dead letter holds it, ``None`` for a tombstone."""
    try:
        raw = base64.b64decode(str(body.get("raw") or ""), validate=True)
    except binascii.Error:
        raw = b""
    if body.get("raw") is None:
        return None
    sha256 = _text_or_none(body.get("raw_sha256"))
    return {**_bytes_view(raw), "truncated": body.get("raw_truncated") is True, "sha256": sha256}


def _bytes_view(value: bytes | None) -> dict[str, Any]:
    shown = (value or b"")[:RAW_SHOWN_BYTES]
    return {
        "bytes": len(value or b""),
        "shown_bytes": len(shown),
        "hex": hex_lines(shown),
        "base64": base64.b64encode(shown).decode(),
        "truncated": False,
        "sha256": None,
    }


def _problem(item: Any) -> dict[str, str]:
    """Return one broken field rule: its location, message and type."""
    problem = _mapping(item)
    loc = problem.get("loc")
    where = ".".join(map(str, loc)) if isinstance(loc, list) else ""
    return {
        "where": where,
        "message": _shown(problem.get("msg", item)),
        "type": _shown(problem.get("type", "")),
    }


def _is_position(source: Mapping[str, Any]) -> bool:
    """Return whether a source names an event in Kafka; predictions of the API have the offset -1."""
    return all(type(source.get(name)) is int and source[name] >= 0 for name in ("partition", "offset"))


def _shown(value: Any) -> str:
    """Return a JSON value as text, cut if it is long. A text stays as it is."""
    return _cut(value if isinstance(value, str) else orjson.dumps(value).decode())


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _cut(str(value))


def _bytes_as_text(value: bytes | None) -> str | None:
    return None if value is None else _cut(value.decode(errors="backslashreplace"))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN_CHARACTERS else f"{text[:TEXT_SHOWN_CHARACTERS]}…"


def _json(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


SEARCHED_BYTES: Final = 64 * 1024 * 1024
"""The number of bytes at the end of the log, closed segments included, that are searched: about 100,000
lines."""

MAX_FOUND: Final = 50
_IDS: Final = ("event_id", "student_id")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9]+")


def find_predictions(log: Path, text: str, hasher: IdHasher | None = None) -> list[dict[str, Any]]:
    """Return the latest audit lines with this event id or student id, newest first.

    Args:
        log: The audit log.
        text: The whole id.
        hasher: Hashes the id as the log does; lines with the plain id are not found then.
    """
    found: list[dict[str, Any]] = []
    left = SEARCHED_BYTES
    if hasher is not None:
        text = hasher.hashed(text.encode(errors="replace"))
    for path in (log, *reversed(segment_paths(log))):
        for line in _candidates(path, left, text):
            if text in (line.get(name) for name in _IDS):
                found.append(line)
                if len(found) == MAX_FOUND:
                    return found
        left -= path.stat().st_size if path.exists() else 0
        if left <= 0:
            break
    return found


def _candidates(path: Path, size: int, text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines at the end of a file that may hold a text, last line first.

    An id may be escaped in the log, so the search is for its longest run of letters and digits.
    """
    needle = max(_PLAIN.findall(text.encode(errors="replace")), key=len, default=b"")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start, stop = max(0, len(data) - size), len(data)
            # The line feed before stop is left out, so that an empty needle is found once in every line.
            while stop > start and (at := data.rfind(needle, start, stop - 1)) >= 0:
                line_start, line_stop = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
                line = _parsed(data[line_start : line_stop if line_stop >= 0 else len(data)])
                if line is not None:
                    yield line
                stop = line_start
    except (FileNotFoundError, ValueError):
        return  # rotated just now, or empty


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's object; ``None`` for a line that is damaged, or being written."""
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
