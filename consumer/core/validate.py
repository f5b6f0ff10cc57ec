"""The rules, and the words for a broken one: pydantic's own, as FastAPI's 422 would carry them.

Two steps, so that good events cost next to nothing: array comparisons find the rows that a rule
could reject, and pydantic judges only those. The comparisons may suspect too many, never too few
(a property test holds that), so the verdict and its words are always pydantic's.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from consumer.core.batch import EVENT_FIELDS, INPUTS_BEGIN, Code, Detail, EventBatch, Rejection

CROSS_FIELD_DETAIL: Final = "practice_exams_passed cannot exceed practice_exams_started."

_ID_MAX_CHARACTERS: Final = 128
_COUNTRY_MIN_CHARACTERS, _COUNTRY_MAX_CHARACTERS = 2, 64
_UTF8_MAX_BYTES: Final = 4
"""What one character can take."""

_Id = Annotated[str, Field(min_length=1, max_length=_ID_MAX_CHARACTERS)]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Minutes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StudentInputs(BaseModel):
    """The model's seven inputs, and what is accepted for each."""

    model_config = ConfigDict(frozen=True)

    student_country: Annotated[
        str, Field(min_length=_COUNTRY_MIN_CHARACTERS, max_length=_COUNTRY_MAX_CHARACTERS)
    ]
    days_on_platform: _Count
    minutes_watched: _Minutes
    courses_started: _Count
    practice_exams_started: _Count
    practice_exams_passed: _Count
    minutes_spent_on_exams: _Minutes


class _Identity(BaseModel):
    event_id: _Id
    student_id: _Id
    occurred_at: int


class EngagementEvent(StudentInputs, _Identity):
    """An event's fields, and what is accepted for each, in the order of the schema."""


_TEXT_LIMITS: Final = (
    ("event_id", 1, _ID_MAX_CHARACTERS),
    ("student_id", 1, _ID_MAX_CHARACTERS),
    ("student_country", _COUNTRY_MIN_CHARACTERS, _COUNTRY_MAX_CHARACTERS),
)
_NUMBERS: Final = EVENT_FIELDS[INPUTS_BEGIN + 1 :]

_EVENT: Final = TypeAdapter(EngagementEvent)


def broken_rule(event: dict[str, Any]) -> tuple[Code, Detail] | None:
    """Judge one event's fields.

    The rule across fields is looked at only when every field is good, as in FastAPI.

    Returns:
        The code and the detail of what is broken, or ``None``.
    """
    try:
        _EVENT.validate_python(event)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return Code.FIELD_INVALID, [
            {"type": p["type"], "loc": ["event", *p["loc"]], "msg": p["msg"]} for p in problems
        ]
    if event["practice_exams_passed"] > event["practice_exams_started"]:
        return Code.RULE_VIOLATED, CROSS_FIELD_DETAIL
    return None


def validate(events: EventBatch) -> tuple[EventBatch, list[Rejection]]:
    """Keep the events that satisfy every rule; reject the others with the reason."""
    suspects = np.flatnonzero(_suspects(events))
    if not len(suspects):
        return events, []
    rejections = []
    keep = np.ones(len(events), np.bool_)
    for i in suspects.tolist():
        event = events.event(i)
        broken = broken_rule(event)
        if broken is not None:
            keep[i] = False
            rejections.append(Rejection(int(events.rows[i]), *broken, event))
    return events.select(np.flatnonzero(keep)), rejections


def _suspects(events: EventBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Find the events that some rule may reject: bool (m,), true for all that one does reject.

    Texts are measured in bytes here and in characters by the rules: b bytes of UTF-8 are between
    b/4 and b characters.
    """
    suspects = np.zeros(len(events), np.bool_)
    for name, at_least, at_most in _TEXT_LIMITS:
        j = EVENT_FIELDS.index(name)
        n_bytes = events.starts[:, j + 1] - events.texts[name]
        suspects |= (n_bytes < at_least) | (n_bytes > at_most)
    # One character may take as many bytes as a good country code: it starts above ASCII.
    first = np.frombuffer(events.data, np.uint8)[events.texts["student_country"]]
    suspects |= (first >= 0x80) & (n_bytes <= _UTF8_MAX_BYTES)  # noqa: PLR2004 - end of ASCII
    for name in _NUMBERS:
        column = events.numbers[name]
        suspects |= ~(column >= 0)  # true for NaN, too
        if column.dtype == np.float64:
            suspects |= column == np.inf
    suspects |= events.numbers["practice_exams_passed"] > events.numbers["practice_exams_started"]
    return suspects
