"""Parse dead letters, restore the events that they carry, and group them by signature. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from consumer import timestamps
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import DROPPED_HEADER, summarize_detail
from consumer.pipeline.rejections import Code
from schemas.repository import SCHEMA_ID_HEADER, name_schema

OTHER: Final = "other"
"""The code of a record that is not a dead letter of this service, or whose code is unknown."""

CODES: Final = (*(code.value for code in Code), OTHER)
"""The codes under which dead letters are counted and replayed."""

_OWN_HEADERS: Final = ("__dlq.", "dlq.")
"""Prefixes of the headers that the scorer adds."""

_UNREADABLE_HEADERS: Final = "dlq.error.headers"
"""Replaces original headers that the client could not read."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A record of the dead-letter topic.

    Attributes:
        partition: The partition of the dead-letter topic.
        offset: The offset in the dead-letter topic.
        timestamp_ms: The record's timestamp, in milliseconds since the epoch.
        key: The record's key, which is the event's key.
        value: The record's value.
        headers: The record's headers: the event's, then the scorer's.
        body: The parsed value; ``None`` if it is not a dead letter of this service.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)
    body: dict[str, Any] | None = field(repr=False)

    @property
    def position(self) -> str:
        """The position in the dead-letter topic, as ``PARTITION:OFFSET``."""
        return f"{self.partition}:{self.offset}"

    @property
    def code(self) -> str:
        """The reason code, one of :data:`CODES`."""
        code = self.body["code"] if self.body else OTHER
        return code if code in CODES else OTHER

    @property
    def reason(self) -> str:
        """The reason in one line."""
        if self.body is None:
            return "not a dead letter of Purchase Stream"
        detail = self.body["detail"]
        try:
            return summarize_detail(detail)
        except (TypeError, KeyError, IndexError):
            return str(detail)

    @property
    def source(self) -> str:
        """The event's position in the events topic, as ``PARTITION:OFFSET``, or ``?``."""
        if self.body is None:
            return "?"
        source = self.body["source"]
        return f"{source['partition']}:{source['offset']}"

    @property
    def written_at(self) -> str:
        """The record's timestamp, RFC 3339."""
        return timestamps.format_ms(self.timestamp_ms)

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values; ``letter`` is the body that the contract describes."""
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp_ms,
            "key": _text(self.key),
            "headers": [[name, _text(value)] for name, value in self.headers],
            "letter": self.body,
        }


@dataclass(frozen=True, slots=True)
class OriginalEvent:
    """The original event of a dead letter, as a record of the events topic.

    Attributes:
        partition: The partition of the events topic.
        key: The key.
        value: The value; ``None`` is a tombstone.
        headers: The headers.
    """

    partition: int
    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)


class NotReplayable(Exception):  # noqa: N818 - a property of a dead letter, not an error
    """The dead letter does not carry the whole event; the message says why."""


def parse_body(value: bytes | None) -> dict[str, Any] | None:
    """Parse the JSON of a dead letter; return ``None`` if it is not one of this service."""
    try:
        body = orjson.loads(value or b"")
        source = body["source"]
        is_dead_letter = (
            isinstance(body["code"], str)
            and "detail" in body
            and isinstance(source["topic"], str)
            and type(source["partition"]) is int
            and type(source["offset"]) is int
        )
    except (ValueError, KeyError, TypeError):
        return None
    return body if is_dead_letter else None


def original_event(dead_letter: DeadLetterRecord, events_topic: str) -> OriginalEvent:
    """Restore the event of a dead letter, byte for byte.

    Args:
        dead_letter: The dead letter.
        events_topic: The topic that the event must come from.

    Raises:
        NotReplayable: The dead letter does not carry the whole event, or the event belongs to another topic.
    """
    body = dead_letter.body
    if body is None:
        raise NotReplayable("it is not a dead letter of Purchase Stream")
    source = body["source"]
    if source["topic"] != events_topic:
        raise NotReplayable(f"its event is of topic {source['topic']}")
    event = f"the event was {dead_letter.source} of {events_topic}"
    if body.get("raw_truncated") is not False:
        raise NotReplayable(f"its raw bytes are truncated; {event}")
    for name, value in dead_letter.headers:
        if name == DROPPED_HEADER:
            raise NotReplayable(f"it had no room for the event's {(value or b'').decode()}; {event}")
        if name == _UNREADABLE_HEADERS:
            raise NotReplayable(f"the event's headers could not be read; {event}")
    return OriginalEvent(
        partition=source["partition"],
        key=dead_letter.key,
        value=_original_value(body, event),
        headers=[pair for pair in dead_letter.headers if not pair[0].startswith(_OWN_HEADERS)],
    )


def _original_value(body: dict[str, Any], event: str) -> bytes | None:
    """Return the event's value.

    Raises:
        NotReplayable: The value does not match its digest.
    """
    raw, digest = body.get("raw"), body.get("raw_sha256")
    if raw is None and digest is None and "raw" in body:
        return None
    try:
        value = b64decode(raw or "", validate=True)
    except (ValueError, TypeError):
        value = None
    if raw is None or value is None or sha256(value).hexdigest() != digest:
        raise NotReplayable(f"its raw bytes are not those of its raw_sha256; {event}")
    return value


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


_NONE: Final = "-"
_PRODUCER_HEADERS: Final = ("ce_source", "producer")
"""Headers that name the producer, in order of preference."""

_FIELD: Final = re.compile(r"(\w+)(?:: | cannot exceed )")
_RAW_PREFIX: Final = 16
"""The number of Base64 characters that hold the longest frame header."""


class Signature(NamedTuple):
    """The common traits of dead letters that probably have one cause.

    Attributes:
        code: The reason code.
        field: The fields at fault, joined by ``+``, or ``-``.
        schema: The writer schema in the event's frame, or ``-``.
        producer: The producer that the event's headers name, or ``-``.
    """

    code: str
    field: str
    schema: str
    producer: str


@dataclass(slots=True)
class SignatureStats:
    """The dead letters of one signature.

    Attributes:
        count: The number of dead letters.
        first: The position of the oldest dead letter, as ``PARTITION:OFFSET``.
        first_at: The timestamp of the oldest dead letter, RFC 3339.
        last: The position of the newest dead letter.
        last_at: The timestamp of the newest dead letter.
    """

    count: int
    first: str
    first_at: str
    last: str
    last_at: str


def signature_of(dead_letter: DeadLetterRecord) -> Signature:
    """Return the signature of a dead letter."""
    body = dead_letter.body
    if body is None:
        return Signature(dead_letter.code, _NONE, _NONE, _NONE)
    headers = dict(reversed(dead_letter.headers))  # if a name repeats, the first header counts
    return Signature(
        dead_letter.code, _fields(body["detail"]), _schema(body.get("raw"), headers), _producer(headers)
    )


def collect_signatures(dead_letters: Iterable[DeadLetterRecord]) -> dict[Signature, SignatureStats]:
    """Group dead letters by signature, the most frequent first."""
    found: dict[Signature, SignatureStats] = {}
    times_ms: dict[Signature, tuple[int, int]] = {}
    for dead_letter in dead_letters:
        signature = signature_of(dead_letter)
        position, at, at_ms = dead_letter.position, dead_letter.written_at, dead_letter.timestamp_ms
        stats = found.get(signature)
        if stats is None:
            found[signature] = SignatureStats(1, position, at, position, at)
            times_ms[signature] = (at_ms, at_ms)
            continue
        stats.count += 1
        oldest_ms, newest_ms = times_ms[signature]
        if at_ms < oldest_ms:
            stats.first, stats.first_at = position, at
        if at_ms >= newest_ms:
            stats.last, stats.last_at = position, at
        times_ms[signature] = (min(oldest_ms, at_ms), max(newest_ms, at_ms))
    return dict(sorted(found.items(), key=lambda entry: (-entry[1].count, entry[0])))


def _fields(detail: Any) -> str:
    """Return the fields that a detail names."""
    if isinstance(detail, list):
        locations = [item.get("loc") for item in detail if isinstance(item, dict)]
        names = {str(loc[-1]) for loc in locations if isinstance(loc, list) and loc}
        return "+".join(sorted(names)) or _NONE
    named = _FIELD.match(str(detail))
    return named[1] if named else _NONE


def _schema(raw: Any, headers: dict[str, bytes | None]) -> str:
    """Return the schema that the event names."""
    try:
        start = b64decode(str(raw or "")[:_RAW_PREFIX])
    except ValueError:
        start = b""
    return name_schema(start, headers.get(SCHEMA_ID_HEADER))


def _producer(headers: dict[str, bytes | None]) -> str:
    for name in _PRODUCER_HEADERS:
        if value := headers.get(name):
            return value.decode(errors="backslashreplace")
    return _NONE
