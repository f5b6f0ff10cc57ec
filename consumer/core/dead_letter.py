"""Rejections → dead letters: JSON that explains, headers for tools, and the original bytes.

A dead letter must always fit: it is built complete, and if it is too large for its topic it gives
up, in this order, the decoded fields and the end of ``raw``, the original headers, the key, the end
of the detail and the headers that repeat the JSON.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from typing import Any, Final

import orjson

from consumer.core.batch import Detail, Headers, RawBatch, Rejection

_RECORD_OVERHEAD_BYTES: Final = 61 + 36
"""The record batch around a single record, and the record's own length, times, counts and lengths
at their longest (Kafka protocol, "Record Batch")."""

_HEADER_OVERHEAD_BYTES: Final = 2 * 5
"""The two lengths of a header at their longest."""

_SHORT_DETAIL_BYTES: Final = 100
_HEADERS_FOR_SORTING: Final = 2
"""The last of our own headers, code and status, by which tools sort dead letters."""

DROPPED_HEADER: Final = "dlq.error.dropped"
"""Names what of the original record, other than the end of its value, did not fit: such a dead letter
cannot be sent again as the event that it was."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
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
    rejected_at = datetime.fromtimestamp(rejected_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return [
        _fitting(
            _ever_smaller(rejection, raw, group, rejected_at.replace("+00:00", "Z"), max_bytes), max_bytes
        )
        for rejection in rejections
    ]


def _fitting(letters: Iterator[DeadLetter], max_bytes: int) -> DeadLetter:
    """Return the first that fits, or the smallest."""
    for letter in letters:
        if _size_bytes(letter) <= max_bytes:
            break
    return letter


def _ever_smaller(
    rejection: Rejection, raw: RawBatch, group: str, rejected_at: str, max_bytes: int
) -> Iterator[DeadLetter]:
    """Yield the complete dead letter, then ones that keep less, the last of which always fits."""
    row = rejection.row
    value, key = raw.values[row], raw.keys[row]
    own = _own_headers(rejection, raw, group)
    every = raw.headers(row) + own
    yield DeadLetter(row, key, _body(rejection, raw, rejected_at, key, value), every)
    rejection = replace(rejection, event=None)
    short = message(rejection.detail).encode()[:_SHORT_DETAIL_BYTES].decode(errors="ignore")
    brief = replace(rejection, detail=short)
    without_headers = _dropped(headers=len(every) > len(own), key=False)
    without_key = _dropped(headers=len(every) > len(own), key=key is not None)
    for told, kept_key, headers in (
        (rejection, key, every),
        (rejection, key, without_headers + own),
        (rejection, None, without_key + own),
        (brief, None, without_key + own[-_HEADERS_FOR_SORTING:]),
    ):
        smallest = DeadLetter(row, kept_key, _body(told, raw, rejected_at, kept_key, b""), headers)
        # Base64 takes four bytes for three, and "false" one more than the "true" of a truncated raw.
        room = (max_bytes - _size_bytes(smallest) - 1) // 4 * 3
        if value is not None and room > 0:
            yield DeadLetter(row, kept_key, _body(told, raw, rejected_at, kept_key, value[:room]), headers)
        else:
            yield smallest


def _body(
    rejection: Rejection,
    raw: RawBatch,
    rejected_at: str,
    key: bytes | None,
    kept: bytes | None,
) -> bytes:
    """Build the JSON with what is kept of the key and the value."""
    row, event = rejection.row, rejection.event
    value = raw.values[row]
    timestamp_ms = raw.timestamp_ms(row)
    return orjson.dumps(
        {
            "status": rejection.code.status,
            "code": rejection.code,
            "detail": rejection.detail,
            "rejected_at": rejected_at,
            "source": {
                "topic": raw.topic,
                "partition": raw.partitions[row],
                "offset": raw.offsets[row],
                "timestamp": timestamp_ms if timestamp_ms >= 0 else None,
                "key": None if key is None else key.decode(errors="backslashreplace"),
            },
            "event": None if event is None else {name: _json(field) for name, field in event.items()},
            "raw": None if value is None else b64encode(kept or b"").decode(),
            "raw_truncated": value is not None and len(kept or b"") < len(value),
            "raw_sha256": None if value is None else sha256(value).hexdigest(),
        }
    )


def _json(field: Any) -> Any:
    """Return a field as JSON can hold it: NaN and the infinities become text."""
    return str(field) if isinstance(field, float) and not isfinite(field) else field


def _own_headers(rejection: Rejection, raw: RawBatch, group: str) -> Headers:
    """Headers by which tools find the original: names of KIP-1191, values as text."""
    row = rejection.row
    return [
        ("__dlq.errors.topic", raw.topic.encode()),
        ("__dlq.errors.partition", b"%d" % raw.partitions[row]),
        ("__dlq.errors.offset", b"%d" % raw.offsets[row]),
        ("__dlq.errors.group", group.encode()),
        ("__dlq.errors.message", message(rejection.detail).encode()),
        ("dlq.error.code", rejection.code.encode()),
        ("dlq.error.status", b"%d" % rejection.code.status),
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


def _size_bytes(letter: DeadLetter) -> int:
    """Return an upper bound of what the record takes on the wire."""
    headers = sum(
        len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES for name, value in letter.headers
    )
    return len(letter.key or b"") + len(letter.value) + headers + _RECORD_OVERHEAD_BYTES
