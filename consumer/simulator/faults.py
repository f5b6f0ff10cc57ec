"""The ways to break an event, each with its expected dead-letter code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.framing import SINGLE_OBJECT_HEADER_BYTES, single_object_header

_FOREIGN_FINGERPRINT: Final = b"\xff" * 8
"""The fingerprint of no known schema."""


def _unchanged(value: bytes) -> bytes:
    return value


@dataclass(frozen=True, slots=True)
class EventFault:
    """One way to break a good event.

    Attributes:
        name: The fault in words.
        code: The expected dead-letter code.
        wrong_fields: Returns the fields to replace before the event is encoded.
        spoil: Changes the encoded event; ``None`` makes it a tombstone.
    """

    name: str
    code: str
    wrong_fields: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}
    spoil: Callable[[bytes], bytes | None] = _unchanged


def _invalid(name: str, **fields: Any) -> EventFault:
    return EventFault(name, "field_invalid", wrong_fields=lambda _: fields)


EVENT_FAULTS: Final = (
    EventFault("tombstone", "tombstone", spoil=lambda _: None),
    EventFault("JSON instead of Avro", "unknown_framing", spoil=lambda _: b'{"event_id": "no Avro"}'),
    EventFault(
        "unknown schema",
        "unknown_schema",
        spoil=lambda value: single_object_header(_FOREIGN_FINGERPRINT) + value[SINGLE_OBJECT_HEADER_BYTES:],
    ),
    EventFault("cut off in the middle", "undecodable", spoil=lambda value: value[: len(value) // 2]),
    EventFault("bytes after the record", "trailing_bytes", spoil=lambda value: value + b"\x00\x01"),
    _invalid("negative minutes", minutes_watched=-1.0),
    EventFault(
        "more exams passed than started",
        "rule_violated",
        wrong_fields=lambda event: {"practice_exams_passed": event["practice_exams_started"] + 1},
    ),
    _invalid("minutes are NaN", minutes_watched=math.nan),
    _invalid("infinite minutes", minutes_spent_on_exams=math.inf),
    _invalid("empty event id", event_id=""),
    _invalid("student id too long", student_id="s" * 129),
    _invalid("country too short", student_country="X"),
    _invalid("three fields at once", student_country="", days_on_platform=-1, minutes_watched=-math.inf),
    EventFault(
        "frame cut short", "unknown_framing", spoil=lambda value: value[: SINGLE_OBJECT_HEADER_BYTES - 1]
    ),
    EventFault("empty value", "unknown_framing", spoil=lambda _: b""),
    EventFault(
        "frame without a record", "undecodable", spoil=lambda value: value[:SINGLE_OBJECT_HEADER_BYTES]
    ),
)
"""The faults in the order of their use; each of the first seven has its own code."""
