"""The rules, and the words for a broken one: pydantic's own, as FastAPI's 422 would carry them.

Array comparisons find the events that a rule could reject, so that good ones cost next to nothing.
They may suspect too many, never too few. Others tell which suspects break the same limits, so that
pydantic judges one of each kind: the verdict and its words are always its own, and cost the same
whether ten events or ten thousand are broken alike. Property tests hold both to pydantic alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from consumer.columnar.arrays import IntArray
from consumer.pipeline.batch import EVENT_FIELDS, INPUTS_BEGIN, RecordBatch
from consumer.pipeline.event_json import events_json
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejections

CROSS_FIELD_DETAIL: Final = "practice_exams_passed cannot exceed practice_exams_started."

_ID_MAX_CHARACTERS: Final = 128
_COUNTRY_MIN_CHARACTERS, _COUNTRY_MAX_CHARACTERS = 2, 64
_UTF8_MAX_BYTES: Final = 4
"""What one character can take."""
_ASCII_END: Final = 0x80

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


def broken_rule(event: dict[str, Any]) -> Reason | None:
    """Judge one event's fields.

    The rule across fields is looked at only when every field is good, as in FastAPI.

    Returns:
        What is broken, or ``None``.
    """
    try:
        _EVENT.validate_python(event)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        detail = [{"type": p["type"], "loc": ["event", *p["loc"]], "msg": p["msg"]} for p in problems]
        return Reason(Code.FIELD_INVALID, detail)
    if event["practice_exams_passed"] > event["practice_exams_started"]:
        return Reason(Code.RULE_VIOLATED, CROSS_FIELD_DETAIL)
    return None


def validate(events: RecordBatch) -> tuple[RecordBatch, Rejections]:
    """Keep the events that satisfy every rule; reject the others with the reason."""
    suspected = np.flatnonzero(_violation_candidates(events))
    if not len(suspected):
        return events, NONE_REJECTED
    suspects = events.select(suspected)
    _, examples, kinds = np.unique(_violation_signatures(suspects), return_index=True, return_inverse=True)
    verdicts = [broken_rule(suspects.event(i)) for i in examples.tolist()]
    reasons = [verdict for verdict in verdicts if verdict is not None]
    is_broken = np.array([verdict is not None for verdict in verdicts])
    which = (np.cumsum(is_broken) - 1)[kinds]
    broken = np.flatnonzero(is_broken[kinds])
    keep = np.ones(len(events), np.bool_)
    keep[suspected[broken]] = False
    rejected = suspects.select(broken)
    return (
        events.select(np.flatnonzero(keep)),
        Rejections(rejected.rows, which[broken], reasons, events_json(rejected)),
    )


def _violation_signatures(events: RecordBatch) -> IntArray:
    """Number the ways in which events break the rules: what is said of one goes for all of its number.

    pydantic's words depend on which limit a value exceeds, never on the value. So a number has a digit
    for each rule that can be broken: 0 kept, 1 or 2 for one of its limits.
    """
    kinds = np.zeros(len(events), np.int64)
    for name, at_least, at_most in _TEXT_LIMITS:
        n_characters = _characters(events, name, at_most)
        kinds = 3 * kinds + (n_characters < at_least) + 2 * (n_characters > at_most)
    for name in _NUMBERS:
        column = events.numbers[name]
        kinds = 3 * kinds + np.where(np.isfinite(column), column < 0, 2)
    more_passed = events.numbers["practice_exams_passed"] > events.numbers["practice_exams_started"]
    return 2 * kinds + more_passed


def _characters(events: RecordBatch, name: str, at_most: int) -> IntArray:
    """Count the characters of texts, int64 (m,): exactly where a limit is near, else not below it.

    A text that begins with ASCII and has no more bytes than characters are allowed keeps both limits
    if its bytes do.
    """
    begins, ends = events.texts[name], events.starts[:, EVENT_FIELDS.index(name) + 1]
    counts = ends - begins
    for i in np.flatnonzero((counts > at_most) | _begins_above_ascii(events, name)).tolist():
        counts[i] = len(events.data[begins[i] : ends[i]].decode())
    return counts


def _begins_above_ascii(events: RecordBatch, name: str) -> NDArray[np.bool_]:
    """Tell which texts, or what follows where they are empty, begin with a byte above ASCII: bool (m,)."""
    above: NDArray[np.bool_] = np.frombuffer(events.data, np.uint8)[events.texts[name]] >= _ASCII_END
    return above


def _violation_candidates(events: RecordBatch) -> NDArray[np.bool_]:
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
    suspects |= _begins_above_ascii(events, "student_country") & (n_bytes <= _UTF8_MAX_BYTES)
    for name in _NUMBERS:
        column = events.numbers[name]
        suspects |= ~(column >= 0)  # true for NaN, too
        if column.dtype == np.float64:
            suspects |= column == np.inf
    suspects |= events.numbers["practice_exams_passed"] > events.numbers["practice_exams_started"]
    return suspects
