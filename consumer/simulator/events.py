"""Students → engagement events, good ones and broken ones. Pure; the clock is given.

An event is encoded by fastavro, not by the columnar code of the scorer: what the stream is fed in the
demo and in the tests comes from an independent writer.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Final

from fastavro import schemaless_writer

from consumer.simulator.faults import EVENT_FAULTS, EventFault
from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.training_data import TrainingTable
from schemas.framing import single_object_header
from schemas.repository import engagement_event

_STUDENT_DIGITS: Final = 6
_EVENT_ID_BYTES: Final = 36


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One record for the events topic.

    Attributes:
        key: the student id, UTF-8.
        value: the framed event; ``None`` is a tombstone.
        code: the dead-letter code that it should get, or ``None`` if it is good.
    """

    key: bytes
    value: bytes | None = field(repr=False)
    code: str | None


def encode_event(fields: dict[str, Any]) -> bytes:
    """Encode an ``EngagementEvent`` in single-object encoding."""
    schema = engagement_event()
    return single_object_header(schema.fingerprint) + _encode(schema.parsed, fields)


def student_inputs(students: TrainingTable) -> list[dict[str, Any]]:
    """Return the seven inputs of each student as the event carries them."""
    columns: list[Sequence[Any]] = [students.countries]
    for index, name in enumerate(INPUT_NAMES[1:], start=1):
        column = students.inputs[:, index]
        columns.append((column.astype("int64") if name in INTEGER_INPUTS else column).tolist())
    return [dict(zip(INPUT_NAMES, row, strict=True)) for row in zip(*columns, strict=True)]


def broken_count(count: int, broken_ratio: float) -> int:
    """Return how many broken events go with so many good ones."""
    return round(count * broken_ratio)


def codes_of_broken(n_broken: int) -> dict[str, int]:
    """Return how many of so many broken events should get each dead-letter code."""
    return dict(Counter(EVENT_FAULTS[i % len(EVENT_FAULTS)].code for i in range(n_broken)))


def events(
    students: TrainingTable, *, count: int, broken_ratio: float, run_id: str, now_ms: Callable[[], int]
) -> Iterator[OutgoingEvent]:
    """Build events one by one: the students in turn, broken ones spread evenly between them.

    Args:
        students: whose inputs are sent; again from the first when all were.
        count: good events.
        broken_ratio: broken events per good one; they come on top, every kind in turn.
        run_id: 20 hexadecimal digits that no other run has; every event id begins with them.
        now_ms: milliseconds since the epoch; asked once per event, as it is built.
    """
    templates = [_Template(i, fields) for i, fields in enumerate(student_inputs(students))]
    n_broken, n_broken_built = broken_count(count, broken_ratio), 0
    for i in range(count):
        template = templates[i % len(templates)]
        yield OutgoingEvent(
            template.key, template.value(event_id(run_id, i + n_broken_built), now_ms()), None
        )
        while n_broken_built < (i + 1) * n_broken // count:
            breakage = EVENT_FAULTS[n_broken_built % len(EVENT_FAULTS)]
            n_broken_built += 1
            fields = template.fields | {
                "event_id": event_id(run_id, i + n_broken_built),
                "occurred_at": now_ms(),
            }
            yield OutgoingEvent(template.key, _break(fields, breakage), breakage.code)


class _Template:
    """One student's event, encoded but for its id and its time."""

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
    """Return the frame and the length of every event id."""
    return single_object_header(engagement_event().fingerprint) + _encode("long", _EVENT_ID_BYTES)


@lru_cache(maxsize=1)
def _time(milliseconds: int) -> bytes:
    return _encode("long", milliseconds)


def _encode(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, schema, value)
    return out.getvalue()


def event_id(run_id: str, number: int) -> str:
    """Return an id in the form of a UUID: a run's own 20 hexadecimal digits, then 12 that count."""
    return f"{run_id[:8]}-{run_id[8:12]}-{run_id[12:16]}-{run_id[16:20]}-{number:012x}"


def _break(fields: dict[str, Any], breakage: EventFault) -> bytes | None:
    return breakage.spoil(encode_event(fields | breakage.wrong_fields(fields)))
