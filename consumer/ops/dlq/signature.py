"""Group dead letters by signature: what was wrong, with which field and schema, and who sent it. Pure."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from consumer.ops.dlq.dead_letter import DeadLetterRecord
from schemas.framing import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
)

_NONE: Final = "-"
_PRODUCER_HEADERS: Final = ("ce_source", "producer")
"""Headers that name the producer, the preferred one first."""

_SCHEMA_ID_HEADER: Final = "__value_schema_id"
_FIELD: Final = re.compile(r"(\w+)(?:: | cannot exceed )")
_RAW_PREFIX: Final = 16
"""Base64 characters that hold the longest frame header."""


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
        count: Their number.
        first: The position of the oldest, as ``PARTITION:OFFSET``.
        first_at: The timestamp of the oldest, RFC 3339.
        last: The position of the newest.
        last_at: The timestamp of the newest.
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
    headers = dict(reversed(dead_letter.headers))  # of several headers with one name, the first counts
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
    """Return the schema that the event's frame names."""
    if schema_id := headers.get(_SCHEMA_ID_HEADER):
        return f"header {schema_id.hex()}"
    try:
        value = b64decode(str(raw or "")[:_RAW_PREFIX])
    except ValueError:
        return _NONE
    if value.startswith(SINGLE_OBJECT_MARKER) and len(value) >= SINGLE_OBJECT_HEADER_BYTES:
        return f"fingerprint {value[len(SINGLE_OBJECT_MARKER) : SINGLE_OBJECT_HEADER_BYTES].hex()}"
    if value.startswith(CONFLUENT_MARKER) and len(value) >= CONFLUENT_HEADER_BYTES:
        return f"id {int.from_bytes(value[len(CONFLUENT_MARKER) : CONFLUENT_HEADER_BYTES], 'big')}"
    return _NONE


def _producer(headers: dict[str, bytes | None]) -> str:
    for name in _PRODUCER_HEADERS:
        if value := headers.get(name):
            return value.decode(errors="backslashreplace")
    return _NONE
