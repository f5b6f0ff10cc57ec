"""Rejections → dead letters: JSON that explains, headers for tools, and the original bytes.

A dead letter must always fit: it is built complete, and if it is too large for its topic it gives
up, in this order, the decoded fields and the end of ``raw``, the original headers, the key, the end
of the detail and the headers that repeat the JSON.

A producer that goes wrong breaks every event, and mostly in the same few ways. So the dead letters of
a batch are built column by column, and what those of one reason share is made once (:class:`_Told`).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from consumer.core.batch import Code, Detail, Headers, RawBatch, Rejection, of_rows
from consumer.core.json_columns import Piece, are_plain, each_joined, each_number, escaped

_RECORD_OVERHEAD_BYTES: Final = 61 + 36
"""The record batch around a single record, and the record's own length, times, counts and lengths
at their longest (Kafka protocol, "Record Batch")."""

_HEADER_OVERHEAD_BYTES: Final = 2 * 5
"""The two lengths of a header at their longest."""

_LONGEST_NUMBER: Final = b"%d" % (2**63 - 1)
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
    rejections: Sequence[Rejection], raw: RawBatch, *, group: str, rejected_at_ms: int, max_bytes: int
) -> DeadLetters:
    """Build one dead letter per rejection.

    Args:
        rejections: the rejected rows of ``raw``, rising.
        raw: the batch they came in.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
        max_bytes: the largest record that the dead-letter topic takes.
    """
    if not rejections:
        return DeadLetters([], [], [], [])
    return _Batch(rejections, raw, group, rejected_at_ms).letters(max_bytes)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the dead letters of one code, detail and partition share.

    Attributes:
        begin: the JSON as far as the source's offset.
        headers_before: our own headers before the one that has the offset.
        headers_after: and those after it.
        headers_at_most_bytes: what all seven of our own take on the wire, whatever the offset.
    """

    begin: str
    headers_before: Headers
    headers_after: Headers
    headers_at_most_bytes: int

    def headers(self, offset: bytes) -> Headers:
        """Headers by which tools find the original: names of KIP-1191, values as text."""
        return [*self.headers_before, ("__dlq.errors.offset", offset), *self.headers_after]


class _Batch:
    """Builds the dead letters of one batch.

    Args:
        rejections: at least one.
        raw: the batch.
        group: the consumer group.
        rejected_at_ms: milliseconds since the epoch.
    """

    def __init__(
        self, rejections: Sequence[Rejection], raw: RawBatch, group: str, rejected_at_ms: int
    ) -> None:
        self._rejections = rejections
        self._topic = raw.topic
        self._group = group
        rejected_at = datetime.fromtimestamp(rejected_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        self._rejected_at = rejected_at.replace("+00:00", "Z")
        self._told: dict[tuple[Code, str | int, int], _Told] = {}
        self._rows = rows = [rejection.row for rejection in rejections]
        self._partitions = of_rows(raw.partitions, rows)
        self._keys = list(of_rows(raw.keys, rows))
        self._values = of_rows(raw.values, rows)
        self._original_headers = raw.headers(rows)
        self._offsets = each_number(list(of_rows(raw.offsets, rows)))
        timestamps_ms = raw.timestamps_ms(rows)
        self._timestamps = each_number(timestamps_ms)
        if min(timestamps_ms) < 0:
            self._timestamps = ["null" if ms < 0 else str(ms) for ms in timestamps_ms]

    def letters(self, max_bytes: int) -> DeadLetters:
        """Build complete dead letters, or the most complete ones that fit."""
        told = [
            self._tell(code, detail, partition)
            for (_, code, detail, _), partition in zip(self._rejections, self._partitions, strict=True)
        ]
        events = [rejection.event for rejection in self._rejections]
        values = self._bodies(range(len(told)), told, events, self._keys, self._values)
        headers: list[Headers] = [
            original + tells.headers(offset.encode())
            for original, tells, offset in zip(self._original_headers, told, self._offsets, strict=True)
        ]
        letters = DeadLetters(self._rows, self._keys, values, headers)
        at_most_bytes = (
            max(map(len, values))
            + max(map(len, filter(None, self._keys)), default=0)
            + max(tells.headers_at_most_bytes for tells in self._told.values())
            + max(map(_headers_bytes, filter(None, self._original_headers)), default=0)
            + _RECORD_OVERHEAD_BYTES
        )
        if at_most_bytes > max_bytes:
            for i, letter in enumerate(letters):
                if _size_bytes(letter.key, letter.value, letter.headers) > max_bytes:
                    fitting = self._fitting(i, max_bytes)
                    letters.keys[i], values[i], headers[i] = fitting.key, fitting.value, fitting.headers
        return letters

    def _fitting(self, i: int, max_bytes: int) -> DeadLetter:
        """Return the most complete dead letter that fits for a rejection whose complete one does not."""
        for letter in self._ever_smaller(i, max_bytes):
            if _size_bytes(letter.key, letter.value, letter.headers) <= max_bytes:
                break
        return letter

    def _ever_smaller(self, i: int, max_bytes: int) -> Iterator[DeadLetter]:
        """Yield dead letters that keep ever less, the last of which always fits."""
        row, code, detail, _ = self._rejections[i]
        value, key, original = self._values[i], self._keys[i], self._original_headers[i]
        told = self._tell(code, detail, self._partitions[i])
        own = told.headers(self._offsets[i].encode())
        short = message(detail).encode()[:_SHORT_DETAIL_BYTES].decode(errors="ignore")
        without_headers = _dropped(headers=bool(original), key=False)
        without_key = _dropped(headers=bool(original), key=key is not None)
        for tells, kept_key, headers in (
            (told, key, original + own),
            (told, key, without_headers + own),
            (told, None, without_key + own),
            (self._tell(code, short, self._partitions[i]), None, without_key + own[-_HEADERS_FOR_SORTING:]),
        ):
            (smallest,) = self._bodies([i], [tells], [None], [kept_key], [value and b""])
            # Base64 takes four bytes for three, and "false" one more than the "true" of a truncated raw.
            room = (max_bytes - _size_bytes(kept_key, smallest, headers) - 1) // 4 * 3
            if value is not None and room > 0:
                (smallest,) = self._bodies([i], [tells], [None], [kept_key], [value[:room]])
            yield DeadLetter(row, kept_key, smallest, headers)

    def _bodies(
        self,
        which: Sequence[int],
        told: list[_Told],
        events: list[bytes | None],
        keys: list[bytes | None],
        kept: Sequence[bytes | None],
    ) -> list[bytes]:
        """Write the JSON of some rejections, with what is kept of the fields, keys and values.

        If not all is kept of a value, ``which`` is that one alone.
        """
        values = of_rows(self._values, which)
        truncated = "false" if kept == values else "true"
        pieces: list[Piece] = [
            [tells.begin for tells in told],
            list(of_rows(self._offsets, which)),
            ',"timestamp":',
            list(of_rows(self._timestamps, which)),
            _shown_keys(',"key":', keys, '},"event":'),
            ["null" if event is None else event.decode("latin-1") for event in events],
            _base64(',"raw":', kept, f',"raw_truncated":{truncated}'),
            _digests(',"raw_sha256":', values, "}"),
        ]
        return [text.encode("latin-1") for text in each_joined(pieces, len(told))]

    def _tell(self, code: Code, detail: Detail, partition: int) -> _Told:
        """Return what goes for every rejection of a code and a detail in a partition."""
        # A list is known by its identity: validation says the same of many events with one list, and
        # the rejections keep it alive for longer than this.
        which = code, detail if isinstance(detail, str) else id(detail), partition
        told = self._told.get(which)
        if told is None:
            told = self._told[which] = self._tell_anew(code, detail, partition)
        return told

    def _tell_anew(self, code: Code, detail: Detail, partition: int) -> _Told:
        begin = orjson.dumps(
            {
                "status": code.status,
                "code": code,
                "detail": detail,
                "rejected_at": self._rejected_at,
                "source": {"topic": self._topic, "partition": partition},
            }
        )
        before: Headers = [
            ("__dlq.errors.topic", self._topic.encode()),
            ("__dlq.errors.partition", b"%d" % partition),
        ]
        after: Headers = [
            ("__dlq.errors.group", self._group.encode()),
            ("__dlq.errors.message", message(detail).encode()),
            ("dlq.error.code", code.encode()),
            ("dlq.error.status", b"%d" % code.status),
        ]
        told = _Told(begin.removesuffix(b"}}").decode("latin-1") + ',"offset":', before, after, 0)
        return replace(told, headers_at_most_bytes=_headers_bytes(told.headers(_LONGEST_NUMBER)))


def _shown_keys(before: str, keys: list[bytes | None], after: str) -> list[str]:
    """Return keys as JSON; bytes that are no UTF-8 are escaped."""
    insides = [(key or b"").decode("latin-1") for key in keys]
    if not are_plain(insides):
        insides = [escaped((key or b"").decode(errors="backslashreplace")) for key in keys]
    return _strings(before, insides, after, keys)


def _base64(before: str, kept: Sequence[bytes | None], after: str) -> list[str]:
    """Return bytes as JSON strings of their base64."""
    lines = b"".join([b2a_base64(value or b"") for value in kept]).decode()
    return _strings(before, lines.split("\n")[:-1], after, kept)


def _digests(before: str, values: Sequence[bytes | None], after: str) -> list[str]:
    """Return the SHA-256 of each value as a JSON string, in hexadecimal digits."""
    return _strings(before, [sha256(value or b"").hexdigest() for value in values], after, values)


def _strings(before: str, insides: list[str], after: str, whose: Sequence[object]) -> list[str]:
    """Make JSON strings of their insides, or ``null`` where there is nothing, and put them between two texts.

    No inside has a line feed, so all can be put between the two at once.
    """
    texts = (before + '"' + f'"{after}\n{before}"'.join(insides) + '"' + after).split("\n")
    if None in whose:
        null = before + "null" + after
        return [null if value is None else text for value, text in zip(whose, texts, strict=True)]
    return texts


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
