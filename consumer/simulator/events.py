"""Turn students into good and broken engagement events. Pure: the clock is an argument.

Each way to break an event names its expected dead-letter code.

fastavro encodes the events, not the scorer's columnar code, so that the demo and the tests feed the stream
from an independent writer.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer

from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.training_data import TrainingTable
from schemas.repository import SINGLE_OBJECT_HEADER_BYTES, engagement_event, single_object_header

_FOREIGN_FINGERPRINT: Final = b"\xff" * 8
"""A fingerprint that belongs to no known schema."""


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


_STUDENT_DIGITS: Final = 6
_EVENT_ID_BYTES: Final = 36


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One record for the events topic.

    Attributes:
        key: The student id, UTF-8.
        value: The framed event; ``None`` is a tombstone.
        code: The expected dead-letter code, or ``None`` for a good event.
    """

    key: bytes
    value: bytes | None = field(repr=False)
    code: str | None


@cache
def _parsed() -> Any:
    """Return the schema as fastavro parses it."""
    return parse_schema(engagement_event().parsed)


def encode_event(fields: dict[str, Any]) -> bytes:
    """Encode an ``EngagementEvent`` in single-object encoding."""
    return single_object_header(engagement_event().fingerprint) + _encode(_parsed(), fields)


def student_inputs(students: TrainingTable) -> list[dict[str, Any]]:
    """Return the seven inputs of each student, typed as in the event."""
    columns: list[Sequence[Any]] = [students.countries]
    for index, name in enumerate(INPUT_NAMES[1:], start=1):
        column = students.inputs[:, index]
        columns.append((column.astype("int64") if name in INTEGER_INPUTS else column).tolist())
    return [dict(zip(INPUT_NAMES, row, strict=True)) for row in zip(*columns, strict=True)]


def broken_count(count: int, broken_ratio: float) -> int:
    """Return the number of broken events for a number of good ones."""
    return round(count * broken_ratio)


def codes_of_broken(n_broken: int) -> dict[str, int]:
    """Return the expected number of dead letters by code."""
    return dict(Counter(EVENT_FAULTS[i % len(EVENT_FAULTS)].code for i in range(n_broken)))


def events(
    students: TrainingTable, *, count: int, broken_ratio: float, run_id: str, now_ms: Callable[[], int]
) -> Iterator[OutgoingEvent]:
    """Build events lazily: one per student in turn, with broken events spread evenly between them.

    Args:
        students: The students; after the last one, the first one follows again.
        count: The number of good events.
        broken_ratio: The number of additional broken events per good event; all faults in turn.
        run_id: 20 hexadecimal digits, unique per run: the prefix of every event id.
        now_ms: Returns milliseconds since the epoch; called once per event.
    """
    templates = [_Template(i, fields) for i, fields in enumerate(student_inputs(students))]
    n_broken, n_broken_built = broken_count(count, broken_ratio), 0
    for i in range(count):
        template = templates[i % len(templates)]
        yield OutgoingEvent(
            template.key, template.value(event_id(run_id, i + n_broken_built), now_ms()), None
        )
        while n_broken_built < (i + 1) * n_broken // count:
            fault = EVENT_FAULTS[n_broken_built % len(EVENT_FAULTS)]
            n_broken_built += 1
            fields = template.fields | {
                "event_id": event_id(run_id, i + n_broken_built),
                "occurred_at": now_ms(),
            }
            yield OutgoingEvent(template.key, _break(fields, fault), fault.code)


class _Template:
    """One student's event, encoded except for its id and its time."""

    def __init__(self, number: int, inputs: dict[str, Any]) -> None:
        student_id = f"student-{number:0{_STUDENT_DIGITS}d}"
        self.key = student_id.encode()
        self.fields = {"student_id": student_id, **inputs}
        types = {schema["name"]: schema["type"] for schema in engagement_event().parsed["fields"]}
        self._before_time = _encode("string", student_id)
        self._after_time = b"".join(_encode(types[name], inputs[name]) for name in INPUT_NAMES)

    def value(self, event_id: str, occurred_at_ms: int) -> bytes:
        """Return the framed event."""
        return b"".join(
            (
                _before_event_id(),
                event_id.encode(),
                self._before_time,
                _time(occurred_at_ms),
                self._after_time,
            )
        )


@cache
def _before_event_id() -> bytes:
    """Return the bytes before the event id: the frame and the id's length."""
    return single_object_header(engagement_event().fingerprint) + _encode("long", _EVENT_ID_BYTES)


@lru_cache(maxsize=1)
def _time(milliseconds: int) -> bytes:
    return _encode("long", milliseconds)


def _encode(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, schema, value)
    return out.getvalue()


def event_id(run_id: str, number: int) -> str:
    """Return an id shaped like a UUID: the run's 20 hexadecimal digits, then a counter of 12 digits."""
    return f"{run_id[:8]}-{run_id[8:12]}-{run_id[12:16]}-{run_id[16:20]}-{number:012x}"


def _break(fields: dict[str, Any], fault: EventFault) -> bytes | None:
    return fault.spoil(encode_event(fields | fault.wrong_fields(fields)))
