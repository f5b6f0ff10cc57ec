"""Build dead letters: JSON that explains the rejection, headers for tools, and the original bytes.

A dead letter must always fit. One that is too large for its topic drops, in this order, the decoded
fields and the end of ``raw``, the original headers, the key, the end of the detail and the headers that
repeat the JSON.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from consumer import timestamps
from consumer.columnar.arrays import select_rows
from consumer.columnar.json import json_escaped, needs_no_escape
from consumer.pipeline.batch import Headers, RawBatch
from consumer.pipeline.rejections import Detail, Reason, Rejections

_RECORD_OVERHEAD_BYTES: Final = 61 + 36
"""The longest record batch header around a single record, and the record's own length, timestamp, counts
and lengths at their largest (Kafka protocol, "Record Batch")."""

_HEADER_OVERHEAD_BYTES: Final = 2 * 5
"""The longest encoding of a header's two lengths."""

_SHORT_DETAIL_BYTES: Final = 100
_HEADERS_FOR_SORTING: Final = frozenset({"dlq.error.code", "dlq.error.status"})
"""The headers that tools sort dead letters by. They stay where there is room for no other."""

DROPPED_HEADER: Final = "dlq.error.dropped"
"""Names the parts of the original record that did not fit, apart from the end of its value. Such a dead
letter cannot be replayed as the event that it was."""


class DeadLetter(NamedTuple):
    """One record for the dead-letter topic."""

    row: int
    key: bytes | None
    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Records for the dead-letter topic, sorted by row; all columns have the same length."""

    rows: Sequence[int]
    keys: list[bytes | None] = field(repr=False)
    values: list[bytes] = field(repr=False)
    headers: list[Headers] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[DeadLetter]:
        return map(DeadLetter, self.rows, self.keys, self.values, self.headers)


def dead_letters(
    rejections: Rejections, raw: RawBatch, *, group: str, rejected_at_ms: int, max_bytes: int
) -> DeadLetters:
    """Build one dead letter per rejection.

    Args:
        rejections: The rejected rows of ``raw``.
        raw: The poll batch.
        group: The consumer group.
        rejected_at_ms: Milliseconds since the epoch.
        max_bytes: The largest record that the dead-letter topic accepts.
    """
    if not len(rejections):
        return DeadLetters([], [], [], [])
    renderer = _Renderer(raw.topic, group, rejected_at_ms)
    rows, reasons = rejections.rows.tolist(), rejections.reasons
    fragments = reasons.map(renderer.render_reason)
    originals = _originals(raw, rows)
    letters = DeadLetters(
        rows,
        [original.key for original in originals],
        [
            _render_value(original, parts, event, original.value)
            for original, parts, event in zip(originals, fragments.to_list(), rejections.events, strict=True)
        ],
        list(map(renderer.headers, originals, fragments.to_list())),
    )
    if renderer.longest_bytes(letters, fragments.dictionary, originals) > max_bytes:
        for i, letter in enumerate(letters):
            if _size_bytes(letter) > max_bytes:
                reason = reasons.dictionary[reasons.indices[i]]
                fitting = renderer.fitting(originals[i], reason, max_bytes)
                letters.keys[i], letters.values[i], letters.headers[i] = fitting[1:]
    return letters


class _Original(NamedTuple):
    """A rejected record.

    Attributes:
        row: The row in the poll batch.
        partition: The source partition as text.
        offset: The source offset as text.
        timestamp: The record's timestamp in milliseconds as JSON; ``null`` if it has none.
        key: The record key.
        key_json: The key as JSON.
        value: The record value.
        headers: The record headers.
    """

    row: int
    partition: bytes
    offset: bytes
    timestamp: bytes
    key: bytes | None
    key_json: bytes
    value: bytes | None
    headers: Headers


_LONGEST_ORIGINAL: Final = _Original(0, b"%d" % (2**31 - 1), b"%d" % (2**63 - 1), b"", None, b"", None, [])
"""A record with the longest partition and offset."""


class _ReasonFragments(NamedTuple):
    """The parts that all dead letters with one reason share.

    Attributes:
        json_start: The JSON up to the source partition.
        headers: Our headers behind those that locate the original record.
    """

    json_start: bytes
    headers: Headers


class _Renderer:
    """Renders the dead letters of one batch.

    Args:
        topic: The topic of the rejected records.
        group: The consumer group.
        rejected_at_ms: Milliseconds since the epoch.
    """

    def __init__(self, topic: str, group: str, rejected_at_ms: int) -> None:
        self._topic = topic
        self._topic_header = "__dlq.errors.topic", topic.encode()
        self._group_header = "__dlq.errors.group", group.encode()
        self._rejected_at = timestamps.format_ms(rejected_at_ms)

    def render_reason(self, reason: Reason) -> _ReasonFragments:
        """Render what is the same in all dead letters with this reason."""
        code, detail = reason
        shared = orjson.dumps(
            {
                "status": code.status,
                "code": code,
                "detail": detail,
                "rejected_at": self._rejected_at,
                "source": {"topic": self._topic},
            }
        )
        return _ReasonFragments(
            json_start=shared.removesuffix(b"}}") + b',"partition":',
            headers=[
                ("__dlq.errors.message", summarize_detail(detail).encode()),
                ("dlq.error.code", code.encode()),
                ("dlq.error.status", b"%d" % code.status),
            ],
        )

    def headers(self, original: _Original, fragments: _ReasonFragments) -> Headers:
        """Return the original headers and ours, by which tools find the original.

        Ours have the names of KIP-1191 and values as text.
        """
        _, partition, offset, _, _, _, _, headers = original
        return [
            *headers,
            self._topic_header,
            ("__dlq.errors.partition", partition),
            ("__dlq.errors.offset", offset),
            self._group_header,
            *fragments.headers,
        ]

    def longest_bytes(
        self, letters: DeadLetters, fragments: Iterable[_ReasonFragments], originals: Sequence[_Original]
    ) -> int:
        """Return an upper bound of the largest dead letter's size. Much faster than computing each size."""
        return (
            max(map(len, letters.values))
            + max(map(len, filter(None, letters.keys)), default=0)
            + max(_headers_bytes(self.headers(_LONGEST_ORIGINAL, reason)) for reason in fragments)
            + max((_headers_bytes(o.headers) for o in originals if o.headers), default=0)
            + _RECORD_OVERHEAD_BYTES
        )

    def fitting(self, original: _Original, reason: Reason, max_bytes: int) -> DeadLetter:
        """Render the most complete dead letter of at most ``max_bytes``, without the decoded fields."""
        for variant in self._shrinking_variants(original, reason, max_bytes):
            if _size_bytes(variant) <= max_bytes:
                break
        return variant

    def _shrinking_variants(
        self, original: _Original, reason: Reason, max_bytes: int
    ) -> Iterator[DeadLetter]:
        """Yield variants that keep less and less. The last one always fits."""
        row, key, value = original.row, original.key, original.value
        fragments = self.render_reason(reason)
        own = self.headers(original._replace(headers=[]), fragments)
        short_detail = summarize_detail(reason.detail).encode()[:_SHORT_DETAIL_BYTES].decode(errors="ignore")
        without_headers = _dropped_header(headers=bool(original.headers), key=False)
        without_key = _dropped_header(headers=bool(original.headers), key=key is not None)
        short = self.render_reason(reason._replace(detail=short_detail))
        for parts, kept_key, headers in (
            (fragments, key, original.headers + own),
            (fragments, key, without_headers + own),
            (fragments, None, without_key + own),
            (short, None, without_key + [header for header in own if header[0] in _HEADERS_FOR_SORTING]),
        ):
            kept = original if kept_key is key else original._replace(key_json=b"null")
            smallest = _render_value(kept, parts, None, value and b"")
            variant = DeadLetter(row, kept_key, smallest, headers)
            # Base64 takes four bytes for three, and "false" one more than the "true" of a truncated raw.
            room = (max_bytes - _size_bytes(variant) - 1) // 4 * 3
            if value is not None and room > 0:
                filled = _render_value(kept, parts, None, value[:room])
                variant = variant._replace(value=filled)
            yield variant


def _originals(raw: RawBatch, rows: list[int]) -> list[_Original]:
    """Look up the rejected records; at least one."""
    keys, times_ms = select_rows(raw.keys, rows), raw.timestamps_ms(rows)
    times = _numbers(times_ms)
    if min(times_ms) < 0:
        times = [b"null" if ms < 0 else time for ms, time in zip(times_ms, times, strict=True)]
    return list(
        map(
            _Original,
            rows,
            _numbers(select_rows(raw.partitions, rows)),
            _numbers(select_rows(raw.offsets, rows)),
            times,
            keys,
            _keys_json(keys),
            select_rows(raw.values, rows),
            raw.headers(rows),
        )
    )


def _numbers(column: Sequence[int]) -> list[bytes]:
    """Return each number as text; at least one."""
    return orjson.dumps(list(column))[1:-1].split(b",")


def _render_value(
    original: _Original, fragments: _ReasonFragments, event: bytes | None, kept: bytes | None
) -> bytes:
    """Render a dead letter's value.

    Args:
        original: The rejected record.
        fragments: The reason.
        event: The decoded fields to show, as JSON.
        kept: The part of the original value to keep.
    """
    _, partition, offset, timestamp, _, key_json, value, _ = original
    return b"".join(
        (
            fragments.json_start,
            partition,
            b',"offset":',
            offset,
            b',"timestamp":',
            timestamp,
            b',"key":',
            key_json,
            b'},"event":',
            event or b"null",
            _NO_RAW if value is None or kept is None else _raw_json(value, kept),
        )
    )


def _keys_json(keys: Sequence[bytes | None]) -> list[bytes]:
    """Return each key as JSON; bytes that are not UTF-8 are escaped."""
    texts = [key or b"" for key in keys]
    if not needs_no_escape(b"".join(texts)):
        texts = [json_escaped(text.decode(errors="backslashreplace")).encode("latin-1") for text in texts]
    return [b"null" if key is None else b'"%b"' % text for key, text in zip(keys, texts, strict=True)]


_NO_RAW: Final = b',"raw":null,"raw_truncated":false,"raw_sha256":null}'


def _raw_json(value: bytes, kept: bytes) -> bytes:
    """Return the end of the JSON: the kept part of a value, whether it is truncated, the value's digest."""
    return b',"raw":"%b","raw_truncated":%b,"raw_sha256":"%b"}' % (
        b2a_base64(kept, newline=False),
        b"false" if len(kept) == len(value) else b"true",
        sha256(value).hexdigest().encode(),
    )


def _dropped_header(*, headers: bool, key: bool) -> Headers:
    """Return the header that names what was dropped, if anything was."""
    dropped = [name for name, gone in (("headers", headers), ("key", key)) if gone]
    return [(DROPPED_HEADER, ",".join(dropped).encode())] if dropped else []


def summarize_detail(detail: Detail) -> str:
    """Return a detail in one line: ``minutes_watched: Input should be finite; …``."""
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in detail)


def _size_bytes(letter: DeadLetter) -> int:
    """Return an upper bound of a record's size on the wire."""
    return (
        len(letter.key or b"") + len(letter.value) + _headers_bytes(letter.headers) + _RECORD_OVERHEAD_BYTES
    )


def _headers_bytes(headers: Headers) -> int:
    """Return an upper bound of the size of headers on the wire."""
    return sum([len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES for name, value in headers])
