"""Rejections → dead letters: JSON that explains, headers for tools, and the original bytes.

A dead letter must always fit: it is built complete, and if it is too large for its topic it gives
up, in this order, the decoded fields and the end of ``raw``, the original headers, the key, the end
of the detail and the headers that repeat the JSON.

A producer that goes wrong breaks every event, and mostly in the same few ways. So what rejections of
one code and detail share is made once per batch (:class:`_Told`), and the rest is joined to it.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson

from consumer.core.batch import Code, Detail, Headers, RawBatch, Rejection

_RECORD_OVERHEAD_BYTES: Final = 61 + 36
"""The record batch around a single record, and the record's own length, times, counts and lengths
at their longest (Kafka protocol, "Record Batch")."""

_HEADER_OVERHEAD_BYTES: Final = 2 * 5
"""The two lengths of a header at their longest."""

_SOURCE_AND_EVENT: Final = b'%b%d,"offset":%d,"timestamp":%b,"key":%b},"event":%b,'
_JSON: Final = _SOURCE_AND_EVENT + b'"raw":"%b","raw_truncated":%b,"raw_sha256":"%b"}'
_TOMBSTONE_JSON: Final = _SOURCE_AND_EVENT + b'"raw":null,"raw_truncated":false,"raw_sha256":null}'
"""A dead letter's JSON, after the part that those of one reason share."""

_DOUBLES: Final = ("minutes_watched", "minutes_spent_on_exams")
"""The fields that can hold what JSON cannot."""

_LONGEST_NUMBER: Final = 2**63 - 1
_SHORT_DETAIL_BYTES: Final = 100
_HEADERS_FOR_SORTING: Final = 2
"""The last of our own headers, code and status, by which tools sort dead letters."""

DROPPED_HEADER: Final = "dlq.error.dropped"
"""Names what of the original record, other than the end of its value, did not fit: such a dead letter
cannot be sent again as the event that it was."""


class DeadLetter(NamedTuple):
    """One record for the dead-letter topic."""

    row: int
    key: bytes | None
    value: bytes
    headers: Headers


def dead_letters(
    rejections: Sequence[Rejection], raw: RawBatch, *, group: str, rejected_at_ms: int, max_bytes: int
) -> list[DeadLetter]:
    """Build one dead letter per rejection.

    Args:
        rejections: the rejected rows of ``raw``.
        raw: the batch they came in.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
        max_bytes: the largest record that the dead-letter topic takes.
    """
    batch = _Batch(raw, group, rejected_at_ms)
    return [batch.letter(rejection, max_bytes) for rejection in rejections]


@dataclass(frozen=True, slots=True)
class _Told:
    """What the dead letters of one code and detail share.

    Attributes:
        begin: the JSON as far as the source's partition.
        headers: the last three of our own headers.
        headers_at_most_bytes: what all seven of our own take on the wire, whatever the offset.
    """

    begin: bytes
    headers: Headers
    headers_at_most_bytes: int


class _Batch:
    """Builds the dead letters of one batch.

    Args:
        raw: the batch.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
    """

    def __init__(self, raw: RawBatch, group: str, rejected_at_ms: int) -> None:
        self._raw = raw
        rejected_at = datetime.fromtimestamp(rejected_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        self._rejected_at = rejected_at.replace("+00:00", "Z")
        self._topic_header = ("__dlq.errors.topic", raw.topic.encode())
        self._group_header = ("__dlq.errors.group", group.encode())
        self._told: dict[tuple[Code, str | int], _Told] = {}

    def letter(self, rejection: Rejection, max_bytes: int) -> DeadLetter:
        """Build the complete dead letter, or the most complete one that fits."""
        row, code, detail, event = rejection
        raw = self._raw
        key, original = raw.keys[row], raw.headers(row)
        told = self._tell(code, detail)
        value = self._body(told, row, event, key, raw.values[row])
        size_at_most = _size_bytes(key, value, original) + told.headers_at_most_bytes
        if size_at_most <= max_bytes:
            return DeadLetter(row, key, value, original + self._own_headers(told, row))
        for letter in self._ever_smaller(rejection, max_bytes):
            if _size_bytes(letter.key, letter.value, letter.headers) <= max_bytes:
                break
        return letter

    def _ever_smaller(self, rejection: Rejection, max_bytes: int) -> Iterator[DeadLetter]:
        """Yield the complete dead letter, then ones that keep less, the last of which always fits."""
        row, code, detail, event = rejection
        value, key, original = self._raw.values[row], self._raw.keys[row], self._raw.headers(row)
        told = self._tell(code, detail)
        own = self._own_headers(told, row)
        yield DeadLetter(row, key, self._body(told, row, event, key, value), original + own)
        short = message(detail).encode()[:_SHORT_DETAIL_BYTES].decode(errors="ignore")
        without_headers = _dropped(headers=bool(original), key=False)
        without_key = _dropped(headers=bool(original), key=key is not None)
        for tells, kept_key, headers in (
            (told, key, original + own),
            (told, key, without_headers + own),
            (told, None, without_key + own),
            (self._tell(code, short), None, without_key + own[-_HEADERS_FOR_SORTING:]),
        ):
            smallest = self._body(tells, row, None, kept_key, b"")
            # Base64 takes four bytes for three, and "false" one more than the "true" of a truncated raw.
            room = (max_bytes - _size_bytes(kept_key, smallest, headers) - 1) // 4 * 3
            if value is not None and room > 0:
                smallest = self._body(tells, row, None, kept_key, value[:room])
            yield DeadLetter(row, kept_key, smallest, headers)

    def _body(
        self, told: _Told, row: int, event: dict[str, Any] | None, key: bytes | None, kept: bytes | None
    ) -> bytes:
        """Join the JSON, with what is kept of the key and the value."""
        raw = self._raw
        value, timestamp_ms = raw.values[row], raw.timestamp_ms(row)
        shown_key = b"null" if key is None else orjson.dumps(key.decode(errors="backslashreplace"))
        timestamp = b"%d" % timestamp_ms if timestamp_ms >= 0 else b"null"
        source = (told.begin, raw.partitions[row], raw.offsets[row], timestamp, shown_key)
        if value is None or kept is None:
            return _TOMBSTONE_JSON % (*source, _event_json(event))
        return _JSON % (
            *source,
            _event_json(event),
            b2a_base64(kept, newline=False),
            b"true" if len(kept) < len(value) else b"false",
            sha256(value).hexdigest().encode(),
        )

    def _own_headers(self, told: _Told, row: int) -> Headers:
        """Headers by which tools find the original: names of KIP-1191, values as text."""
        return [
            self._topic_header,
            ("__dlq.errors.partition", b"%d" % self._raw.partitions[row]),
            ("__dlq.errors.offset", b"%d" % self._raw.offsets[row]),
            self._group_header,
            *told.headers,
        ]

    def _tell(self, code: Code, detail: Detail) -> _Told:
        """Return what goes for every rejection of a code and a detail."""
        # A list is known by its identity: validation says the same of many events with one list, and
        # the rejections keep it alive for longer than this.
        which = code, detail if isinstance(detail, str) else id(detail)
        told = self._told.get(which)
        if told is None:
            told = self._told[which] = self._tell_anew(code, detail)
        return told

    def _tell_anew(self, code: Code, detail: Detail) -> _Told:
        begin = orjson.dumps(
            {
                "status": code.status,
                "code": code,
                "detail": detail,
                "rejected_at": self._rejected_at,
                "source": {"topic": self._raw.topic},
            }
        )
        headers: Headers = [
            ("__dlq.errors.message", message(detail).encode()),
            ("dlq.error.code", code.encode()),
            ("dlq.error.status", b"%d" % code.status),
        ]
        number = b"%d" % _LONGEST_NUMBER
        longest = [
            self._topic_header,
            ("__dlq.errors.partition", number),
            ("__dlq.errors.offset", number),
            self._group_header,
            *headers,
        ]
        return _Told(begin.removesuffix(b"}}") + b',"partition":', headers, _headers_bytes(longest))


def _dropped(*, headers: bool, key: bool) -> Headers:
    """Header that says what did not fit, if anything."""
    dropped = [name for name, gone in (("headers", headers), ("key", key)) if gone]
    return [(DROPPED_HEADER, ",".join(dropped).encode())] if dropped else []


def message(detail: Detail) -> str:
    """Say a detail in one line: ``minutes_watched: Input should be finite; …``."""
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in detail)


def _event_json(event: dict[str, Any] | None) -> bytes:
    """Return the fields as JSON can hold them: NaN and the infinities become text."""
    if event is None:
        return b"null"
    for name in _DOUBLES:
        if not isfinite(event[name]):
            event = event | {name: str(event[name])}
    return orjson.dumps(event)


def _size_bytes(key: bytes | None, value: bytes, headers: Headers) -> int:
    """Return an upper bound of what a record takes on the wire."""
    return len(key or b"") + len(value) + _headers_bytes(headers) + _RECORD_OVERHEAD_BYTES


def _headers_bytes(headers: Headers) -> int:
    """Return an upper bound of what headers take on the wire."""
    return sum([len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES for name, value in headers])
