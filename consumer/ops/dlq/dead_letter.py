"""Dead letters as they are read back, and the event that each of them was. Pure."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from consumer import timestamps
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import DROPPED_HEADER, summarize_detail
from consumer.pipeline.rejections import Code

OTHER: Final = "other"
"""In the place of a code: a record that is no dead letter of ours, or has a code that we do not know."""

CODES: Final = (*(code.value for code in Code), OTHER)

_OWN_HEADERS: Final = ("__dlq.", "dlq.")
_UNREADABLE_HEADERS: Final = "dlq.error.headers"
"""Stands for original headers that the client could not read."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One record of the dead-letter topic.

    Attributes:
        partition: where it is, in the dead-letter topic.
        offset: the same.
        timestamp_ms: when it was written.
        key: of the record, and of the event that it was.
        value: of the record, as it is.
        headers: of the record, those of the event first.
        body: the JSON in ``value``; ``None`` if that is no dead letter of ours.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)
    body: dict[str, Any] | None = field(repr=False)

    @property
    def place(self) -> str:
        """Where it is, in one word."""
        return f"{self.partition}:{self.offset}"

    @property
    def code(self) -> str:
        """Why the event was rejected, one of :data:`CODES`."""
        code = self.body["code"] if self.body else OTHER
        return code if code in CODES else OTHER

    @property
    def reason(self) -> str:
        """The reason in one line."""
        if self.body is None:
            return "no dead letter of Purchase Stream"
        detail = self.body["detail"]
        try:
            return summarize_detail(detail)
        except (TypeError, KeyError, IndexError):
            return str(detail)

    @property
    def source(self) -> str:
        """Where the event is, in one word."""
        return (
            "?"
            if self.body is None
            else f"{self.body['source']['partition']}:{self.body['source']['offset']}"
        )

    @property
    def written_at(self) -> str:
        """When it was written, RFC 3339."""
        return timestamps.format_ms(self.timestamp_ms)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values: the body of the contract, and where it is."""
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp_ms,
            "key": _text(self.key),
            "headers": [[name, _text(value)] for name, value in self.headers],
            "letter": self.body,
        }


@dataclass(frozen=True, slots=True)
class Original:
    """The event that a dead letter was, to be sent again as it was.

    Attributes:
        partition: of the events topic.
        key: as it was.
        value: as it was; ``None`` is a tombstone.
        headers: as they were.
    """

    partition: int
    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)


class Unreplayable(Exception):  # noqa: N818 - a verdict on a dead letter, not an error of ours
    """The event cannot be had back from this dead letter; the message says why."""


def parse_body(value: bytes | None) -> dict[str, Any] | None:
    """Read the JSON of a dead letter; ``None`` if it is none of ours."""
    try:
        body = orjson.loads(value or b"")
        source = body["source"]
        fits = (
            isinstance(body["code"], str)
            and "detail" in body
            and isinstance(source["topic"], str)
            and type(source["partition"]) is int
            and type(source["offset"]) is int
        )
    except (ValueError, KeyError, TypeError):
        return None
    return body if fits else None


def original(letter: DeadLetterRecord, events_topic: str) -> Original:
    """Return the event that a dead letter was, byte for byte.

    Args:
        letter: the dead letter.
        events_topic: where its event must have come from.

    Raises:
        Unreplayable: the dead letter does not hold all of it, or is not of this topic.
    """
    body = letter.body
    if body is None:
        raise Unreplayable("it is no dead letter of Purchase Stream")
    source = body["source"]
    if source["topic"] != events_topic:
        raise Unreplayable(f"its event is of topic {source['topic']}")
    at = f"the event was {letter.source} of {events_topic}"
    if body.get("raw_truncated") is not False:
        raise Unreplayable(f"its raw bytes are truncated; {at}")
    for name, value in letter.headers:
        if name == DROPPED_HEADER:
            raise Unreplayable(f"it had no room for the event's {(value or b'').decode()}; {at}")
        if name == _UNREADABLE_HEADERS:
            raise Unreplayable(f"the event's headers could not be read; {at}")
    return Original(
        partition=source["partition"],
        key=letter.key,
        value=_raw(body, at),
        headers=[pair for pair in letter.headers if not pair[0].startswith(_OWN_HEADERS)],
    )


def _raw(body: dict[str, Any], at: str) -> bytes | None:
    """Return the event's value.

    Raises:
        Unreplayable: the dead letter was changed.
    """
    raw, digest = body.get("raw"), body.get("raw_sha256")
    if raw is None and digest is None and "raw" in body:
        return None
    try:
        value = b64decode(raw or "", validate=True)
    except (ValueError, TypeError):
        value = None
    if raw is None or value is None or sha256(value).hexdigest() != digest:
        raise Unreplayable(f"its raw bytes are not those of its raw_sha256; {at}")
    return value


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")
