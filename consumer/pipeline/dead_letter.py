"""Rejections → dead letters: JSON that explains, headers for tools, and the original bytes.

A dead letter must always fit: it is built complete, and if it is too large for its topic it gives
up, in this order, the decoded fields and the end of ``raw``, the original headers, the key, the end
of the detail and the headers that repeat the JSON.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import repeat
from typing import Final, NamedTuple

import orjson

from consumer import timestamps
from consumer.columnar.arrays import select_rows
from consumer.columnar.json import json_escaped, needs_no_escape
from consumer.pipeline.batch import Headers, RawBatch
from consumer.pipeline.rejections import Detail, Reason, Rejections

_RECORD_OVERHEAD_BYTES: Final = 61 + 36
"""The record batch around a single record, and the record's own length, times, counts and lengths
at their longest (Kafka protocol, "Record Batch")."""

_HEADER_OVERHEAD_BYTES: Final = 2 * 5
"""The two lengths of a header at their longest."""

_PARTITION, _OFFSET = "__dlq.errors.partition", "__dlq.errors.offset"
_LONGEST_PLACE: Final = [(_PARTITION, b"%d" % (2**31 - 1)), (_OFFSET, b"%d" % (2**63 - 1))]
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


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Records for the dead-letter topic, in the order of their rows; all columns have the same length."""

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
        rejections: the rejected rows of ``raw``.
        raw: the batch they came in.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
        max_bytes: the largest record that the dead-letter topic takes.
    """
    if not len(rejections):
        return DeadLetters([], [], [], [])
    return _Batch(rejections, raw, group, rejected_at_ms).letters(max_bytes)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the dead letters of one reason say of it.

    Attributes:
        begin: the JSON as far as the source's partition.
        headers: our own headers after those that say where the original was.
    """

    begin: bytes
    headers: Headers


class _Batch:
    """Builds the dead letters of one batch.

    Args:
        rejections: at least one.
        raw: the batch.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
    """

    def __init__(self, rejections: Rejections, raw: RawBatch, group: str, rejected_at_ms: int) -> None:
        self._topic = raw.topic
        self._topic_header = "__dlq.errors.topic", raw.topic.encode()
        self._group_header = "__dlq.errors.group", group.encode()
        self._rejected_at = timestamps.format_ms(rejected_at_ms)
        self._reasons = rejections.reasons.dictionary
        self._which = rejections.reasons.indices.tolist()
        self._events = rejections.events
        self._rows = rows = rejections.rows.tolist()
        self._keys = select_rows(raw.keys, rows)
        self._values = select_rows(raw.values, rows)
        self._original_headers = raw.headers(rows)
        self._partitions = _numbers(select_rows(raw.partitions, rows))
        self._offsets = _numbers(select_rows(raw.offsets, rows))
        timestamps_ms = raw.timestamps_ms(rows)
        self._timestamps = _numbers(timestamps_ms)
        if min(timestamps_ms) < 0:
            self._timestamps = [b"null" if ms < 0 else b"%d" % ms for ms in timestamps_ms]

    def letters(self, max_bytes: int) -> DeadLetters:
        """Build complete dead letters, or the most complete ones that fit."""
        told = [self._tell(reason) for reason in self._reasons]
        tells = [told[which] for which in self._which]
        keys = list(self._keys)
        values = self._bodies(range(len(tells)), tells, self._events, keys, self._values)
        headers = self._headers(range(len(tells)), tells, self._original_headers)
        letters = DeadLetters(self._rows, keys, values, headers)
        at_most_bytes = (
            max(map(len, values))
            + max(map(len, filter(None, keys)), default=0)
            + _headers_bytes([self._topic_header, *_LONGEST_PLACE, self._group_header])
            + max(_headers_bytes(tell.headers) for tell in told)
            + max(map(_headers_bytes, filter(None, self._original_headers)), default=0)
            + _RECORD_OVERHEAD_BYTES
        )
        if at_most_bytes > max_bytes:
            for i, letter in enumerate(letters):
                if _size_bytes(letter.key, letter.value, letter.headers) > max_bytes:
                    fitting = self._fitting(i, max_bytes)
                    keys[i], values[i], headers[i] = fitting.key, fitting.value, fitting.headers
        return letters

    def _fitting(self, i: int, max_bytes: int) -> DeadLetter:
        """Return the most complete dead letter that fits for a rejection whose complete one does not."""
        for letter in self._ever_smaller(i, max_bytes):
            if _size_bytes(letter.key, letter.value, letter.headers) <= max_bytes:
                break
        return letter

    def _ever_smaller(self, i: int, max_bytes: int) -> Iterator[DeadLetter]:
        """Yield dead letters that keep ever less, the last of which always fits."""
        reason = self._reasons[self._which[i]]
        value, key, original = self._values[i], self._keys[i], self._original_headers[i]
        tell = self._tell(reason)
        (own,) = self._headers([i], [tell], [[]])
        short = message(reason.detail).encode()[:_SHORT_DETAIL_BYTES].decode(errors="ignore")
        without_headers = _dropped(headers=bool(original), key=False)
        without_key = _dropped(headers=bool(original), key=key is not None)
        for tells, kept_key, headers in (
            (tell, key, original + own),
            (tell, key, without_headers + own),
            (tell, None, without_key + own),
            (self._tell(reason._replace(detail=short)), None, without_key + own[-_HEADERS_FOR_SORTING:]),
        ):
            (smallest,) = self._bodies([i], [tells], [None], [kept_key], [value and b""])
            # Base64 takes four bytes for three, and "false" one more than the "true" of a truncated raw.
            room = (max_bytes - _size_bytes(kept_key, smallest, headers) - 1) // 4 * 3
            if value is not None and room > 0:
                (smallest,) = self._bodies([i], [tells], [None], [kept_key], [value[:room]])
            yield DeadLetter(self._rows[i], kept_key, smallest, headers)

    def _bodies(
        self,
        which: Sequence[int],
        tells: Sequence[_Told],
        events: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        kept: Sequence[bytes | None],
    ) -> list[bytes]:
        """Write the JSON of some rejections, with what is kept of the fields, keys and values.

        If not all is kept of a value, ``which`` is that one alone.
        """
        columns = zip(
            [tell.begin for tell in tells],
            select_rows(self._partitions, which),
            repeat(b',"offset":'),
            select_rows(self._offsets, which),
            repeat(b',"timestamp":'),
            select_rows(self._timestamps, which),
            repeat(b',"key":'),
            _keys(keys),
            repeat(b'},"event":'),
            [event or b"null" for event in events],
            _raws(select_rows(self._values, which), kept),
            strict=False,  # what is repeated has no end
        )
        return list(map(b"".join, columns))

    def _headers(
        self, which: Sequence[int], tells: Sequence[_Told], before: Sequence[Headers]
    ) -> list[Headers]:
        """Put headers by which tools find the original behind others: names of KIP-1191, values as text."""
        topic, group = self._topic_header, self._group_header
        return [
            [
                *others,
                topic,
                (_PARTITION, partition),
                (_OFFSET, offset),
                group,
                *tell.headers,
            ]
            for others, partition, offset, tell in zip(
                before,
                select_rows(self._partitions, which),
                select_rows(self._offsets, which),
                tells,
                strict=True,
            )
        ]

    def _tell(self, reason: Reason) -> _Told:
        code, detail = reason
        begin = orjson.dumps(
            {
                "status": code.status,
                "code": code,
                "detail": detail,
                "rejected_at": self._rejected_at,
                "source": {"topic": self._topic},
            }
        )
        return _Told(
            begin=begin.removesuffix(b"}}") + b',"partition":',
            headers=[
                ("__dlq.errors.message", message(detail).encode()),
                ("dlq.error.code", code.encode()),
                ("dlq.error.status", b"%d" % code.status),
            ],
        )


def _numbers(column: Sequence[int]) -> list[bytes]:
    """Return each number as JSON; at least one."""
    return orjson.dumps(list(column))[1:-1].split(b",")


def _keys(keys: Sequence[bytes | None]) -> list[bytes]:
    """Return keys as JSON; bytes that are no UTF-8 are escaped."""
    insides = [key or b"" for key in keys]
    if not needs_no_escape(b"".join(insides)):
        insides = [json_escaped(key.decode(errors="backslashreplace")).encode("latin-1") for key in insides]
    return [b"null" if key is None else b'"%b"' % inside for key, inside in zip(keys, insides, strict=True)]


def _raws(values: Sequence[bytes | None], kept: Sequence[bytes | None]) -> list[bytes]:
    """Return the end of the JSON: what is kept of each value, whether that is less than all, its digest."""
    truncated = b"false" if kept == values else b"true"
    return [
        b',"raw":null,"raw_truncated":false,"raw_sha256":null}'
        if value is None or part is None
        else b',"raw":"%b","raw_truncated":%b,"raw_sha256":"%b"}'
        % (b2a_base64(part, newline=False), truncated, sha256(value).hexdigest().encode())
        for value, part in zip(values, kept, strict=True)
    ]


def _dropped(*, headers: bool, key: bool) -> Headers:
    """Header that says what did not fit, if anything."""
    dropped = [name for name, gone in (("headers", headers), ("key", key)) if gone]
    return [(DROPPED_HEADER, ",".join(dropped).encode())] if dropped else []


def message(detail: Detail) -> str:
    """Say a detail in one line: ``minutes_watched: Input should be finite; …``."""
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in detail)


def _size_bytes(key: bytes | None, value: bytes, headers: Headers) -> int:
    """Return an upper bound of what a record takes on the wire."""
    return len(key or b"") + len(value) + _headers_bytes(headers) + _RECORD_OVERHEAD_BYTES


def _headers_bytes(headers: Headers) -> int:
    """Return an upper bound of what headers take on the wire."""
    return sum([len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES for name, value in headers])
