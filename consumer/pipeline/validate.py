"""Validate events. Every broken rule is worded by pydantic, as in FastAPI's 422.

Validation has two steps, so that good events cost next to nothing, and ten thousand events that are
broken alike cost as much as one:

1. Array comparisons find the candidates: all events that could violate a rule, and perhaps others.
2. Candidates that exceed the same limits form a group, and pydantic validates one event of each group.

Property tests compare both steps with pydantic alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from consumer.columnar.arrays import DictionaryColumn, IntArray
from consumer.pipeline.batch import NUMERIC_INPUT_FIELDS, RecordBatch
from consumer.pipeline.rejections import NONE_REJECTED, Code, Reason, Rejections


class CrossFieldRule(NamedTuple):
    """A rule about several numbers of an event.

    Attributes:
        detail: What is said of an event that breaks it.
        is_broken: Takes the numbers by field name, those of one event or the columns of many, and returns a
            bool or a bool array (m,).
    """

    detail: str
    is_broken: Callable[[Mapping[str, Any]], Any]


CROSS_FIELD_RULES: Final = (
    CrossFieldRule(
        "practice_exams_passed cannot exceed practice_exams_started.",
        lambda numbers: numbers["practice_exams_passed"] > numbers["practice_exams_started"],
    ),
)
"""Checked in this order, and only when every field is valid, as in FastAPI."""

_ID_MAX_CHARACTERS: Final = 128
_COUNTRY_MIN_CHARACTERS, _COUNTRY_MAX_CHARACTERS = 2, 64
OCCURRED_AT_MIN_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00.000Z: seconds that are sent as milliseconds lie before it."""
OCCURRED_AT_MAX_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: microseconds lie after it, and so do years that most calendars cannot hold."""

_UTF8_MAX_BYTES: Final = 4
"""The largest number of bytes of one character in UTF-8."""
_ASCII_END: Final = 0x80

_Id = Annotated[str, Field(min_length=1, max_length=_ID_MAX_CHARACTERS)]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Minutes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StudentInputs(BaseModel):
    """The model's seven inputs and their limits."""

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
    occurred_at: Annotated[int, Field(ge=OCCURRED_AT_MIN_MS, le=OCCURRED_AT_MAX_MS)]


class EngagementEvent(StudentInputs, _Identity):
    """The fields of an event and their limits, in the schema's order."""


_TEXT_LIMITS: Final = (
    ("event_id", 1, _ID_MAX_CHARACTERS),
    ("student_id", 1, _ID_MAX_CHARACTERS),
    ("student_country", _COUNTRY_MIN_CHARACTERS, _COUNTRY_MAX_CHARACTERS),
)

_EVENT: Final = TypeAdapter(EngagementEvent)


def broken_rule(event: dict[str, Any]) -> Reason | None:
    """Validate one event.

    Returns:
        Why the event is rejected, or ``None``.
    """
    try:
        _EVENT.validate_python(event)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        detail = [{"type": p["type"], "loc": ["event", *p["loc"]], "msg": p["msg"]} for p in problems]
        return Reason(Code.FIELD_INVALID, detail)
    broken = broken_cross_field_rule(event)
    return None if broken is None else Reason(Code.RULE_VIOLATED, broken)


def broken_cross_field_rule(fields: Mapping[str, Any]) -> str | None:
    """Return the detail of the first cross-field rule that valid fields break, or ``None``."""
    return next((rule.detail for rule in CROSS_FIELD_RULES if rule.is_broken(fields)), None)


def validate(events: RecordBatch) -> tuple[RecordBatch, Rejections]:
    """Keep the events that satisfy every rule; reject the others with the reason."""
    candidate_indexes = np.flatnonzero(_violation_candidates(events))
    if not len(candidate_indexes):
        return events, NONE_REJECTED
    candidates = events.select_rows(candidate_indexes)
    signatures = _violation_signatures(candidates)
    _, examples, groups = np.unique(signatures, return_index=True, return_inverse=True)
    verdicts = DictionaryColumn([broken_rule(candidates.record(i)) for i in examples.tolist()], groups)
    reasons = [verdict for verdict in verdicts.dictionary if verdict is not None]
    is_broken = np.array([verdict is not None for verdict in verdicts.dictionary])
    broken = np.flatnonzero(is_broken[groups])
    reason_of_group = np.cumsum(is_broken) - 1  # of broken groups; the others are not looked up
    rejected = candidates.select_rows(broken)
    kept = np.ones(len(events), np.bool_)
    kept[candidate_indexes[broken]] = False
    return (
        events.select_rows(np.flatnonzero(kept)),
        Rejections(
            rejected.rows, DictionaryColumn(reasons, reason_of_group[groups[broken]]), rejected.to_json()
        ),
    )


def _violation_signatures(events: RecordBatch) -> IntArray:
    """Number the ways in which events violate rules: events with the same number share their reason.

    pydantic's words depend on which limit a value exceeds, never on the value. So the number has one
    base-4 digit per field, 0 for valid, 1 and 2 for either limit and 3 for null, and then one base-2
    digit per cross-field rule. Of four fields a, b, c, d, an event with c below its limit and d above has
    ``0012`` in base 4, and its number is ``2 * 6 + 0 = 12`` if there is one such rule and it holds.
    """
    signatures = np.zeros(len(events), np.int64)
    for name, min_characters, max_characters in _TEXT_LIMITS:
        n_characters = _count_characters(events, name, max_characters)
        digit = (n_characters < min_characters) + 2 * (n_characters > max_characters)
        signatures = 4 * signatures + np.where(_is_null(events, name), 3, digit)
    times_ms = events.numbers["occurred_at"]
    digit = (times_ms < OCCURRED_AT_MIN_MS) + 2 * (times_ms > OCCURRED_AT_MAX_MS)
    signatures = 4 * signatures + np.where(_is_null(events, "occurred_at"), 3, digit)
    for name in NUMERIC_INPUT_FIELDS:
        column = events.numbers[name]
        digit = np.where(np.isfinite(column), column < 0, 2)
        signatures = 4 * signatures + np.where(_is_null(events, name), 3, digit)
    for rule in CROSS_FIELD_RULES:
        signatures = 2 * signatures + rule.is_broken(events.numbers)
    return signatures


def _is_null(events: RecordBatch, name: str) -> NDArray[np.bool_]:
    """Return the events in which a field is null: bool (m,)."""
    return events.nulls.get(name, np.zeros(len(events), np.bool_))


def _count_characters(events: RecordBatch, name: str, max_characters: int) -> IntArray:
    """Return the number of characters of each text, int64 (m,): exact for texts that may break a limit.

    The number of bytes will do for a text that starts with ASCII and has at most ``max_characters`` bytes.
    """
    starts, stops = events.span(name)
    counts = stops - starts
    for i in np.flatnonzero((counts > max_characters) | _starts_above_ascii(events, name)).tolist():
        counts[i] = len(events.data[starts[i] : stops[i]].decode())
    return counts


def _starts_above_ascii(events: RecordBatch, name: str) -> NDArray[np.bool_]:
    """Return which texts start with a byte above ASCII: bool (m,). The byte after an empty text counts."""
    starts, _ = events.span(name)
    above: NDArray[np.bool_] = np.frombuffer(events.data, np.uint8)[starts] >= _ASCII_END
    return above


def _violation_candidates(events: RecordBatch) -> NDArray[np.bool_]:
    """Find the events that may violate a rule: bool (m,), true for all that do.

    Texts are measured in bytes here, while the rules count characters: b bytes of UTF-8 are b/4 to b
    characters.
    """
    candidates = np.zeros(len(events), np.bool_)
    for name, min_characters, max_characters in _TEXT_LIMITS:
        starts, stops = events.span(name)
        n_bytes = stops - starts
        candidates |= (n_bytes < min_characters) | (n_bytes > max_characters)
    # The country is the last text. A single character above ASCII can have as many bytes as a valid code.
    candidates |= _starts_above_ascii(events, "student_country") & (n_bytes <= _UTF8_MAX_BYTES)
    for is_null in events.nulls.values():
        candidates |= is_null
    times_ms = events.numbers["occurred_at"]
    candidates |= (times_ms < OCCURRED_AT_MIN_MS) | (times_ms > OCCURRED_AT_MAX_MS)
    for name in NUMERIC_INPUT_FIELDS:
        column = events.numbers[name]
        candidates |= ~(column >= 0)  # true for NaN, too
        if column.dtype == np.float64:
            candidates |= column == np.inf
    for rule in CROSS_FIELD_RULES:
        candidates |= rule.is_broken(events.numbers)
    return candidates
