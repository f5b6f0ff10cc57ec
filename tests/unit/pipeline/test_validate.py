"""The rules and their words: pydantic's, for every event that breaks one and for no other."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code
from consumer.pipeline.validate import (
    EngagementEvent,
    StudentInputs,
    _violation_candidates,
    broken_rule,
    validate,
)
from model_store.inputs import INPUT_NAMES
from schemas.avro import AvroSchema
from schemas.repository import BundledSchemas, engagement_event
from tests.support.events import INT64, VALID_EVENTS, Writers, definition, encoded, event, framed

NUMBERS = INPUT_NAMES[1:]
COUNTS = ("days_on_platform", "courses_started", "practice_exams_started", "practice_exams_passed")
MINUTES = ("minutes_watched", "minutes_spent_on_exams")
DECODER = Decoder(engagement_event(), BundledSchemas())


def _batch(*events: dict[str, Any]) -> RecordBatch:
    decoded, rejections = DECODER.decode([framed(encoded(fields)) for fields in events])
    assert not rejections
    return decoded


def _problem(kind: str, field: str, message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ["event", field], "msg": message}


_WIDE = ["a", "é", "€", "𝄞", "\u0301", "\x00"]
_TEXTS = st.builds(
    lambda character, n, tail: character * n + tail,
    st.sampled_from(_WIDE),
    st.sampled_from([0, 1, 2, 3, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 500]),
    st.sampled_from(["", *_WIDE]),
)
_DOUBLES = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, -5e-324, 1e308])
_LONGS = INT64 | st.integers(-2, 2) | st.just(2**63 - 1)
_TIMES = (
    INT64
    | st.integers(946_684_799_999, 946_684_800_001)
    | st.integers(-1, 1).map(lambda d: 253_402_300_799_999 + d)
)
_ANY_EVENTS = st.fixed_dictionaries(
    {
        "event_id": _TEXTS,
        "student_id": _TEXTS,
        "occurred_at": _TIMES,
        "student_country": _TEXTS | st.text(max_size=3),
        **dict.fromkeys(COUNTS, _LONGS),
        **dict.fromkeys(MINUTES, _DOUBLES),
    }
)
_ALMOST_GOOD = st.builds(
    lambda fields, name, other: fields | {name: other[name]},
    VALID_EVENTS,
    st.sampled_from(list(event())),
    _ANY_EVENTS,
)


@given(events=st.lists(_ANY_EVENTS | _ALMOST_GOOD, min_size=1, max_size=4))
@example(events=[event(student_country="𝄞")])
@example(events=[event(student_country="é")])
@settings(max_examples=250)
def test_every_event_that_breaks_a_rule_is_a_candidate(events: list[dict[str, Any]]) -> None:
    """The array comparisons miss no event that pydantic rejects."""
    suspects = _violation_candidates(_batch(*events))
    judged = [broken_rule(fields) is not None for fields in events]
    assert all(suspect or not broken for suspect, broken in zip(suspects.tolist(), judged, strict=True))


@given(events=st.lists(_ANY_EVENTS | _ALMOST_GOOD, max_size=4))
@settings(max_examples=150)
def test_validation_is_what_pydantic_says_of_each_event_alone(events: list[dict[str, Any]]) -> None:
    """Every row is valid or rejected, and the other events of the batch do not matter."""
    valid, rejections = validate(_batch(*events))
    judged = [broken_rule(fields) for fields in events]
    assert valid.rows.tolist() == [i for i, broken in enumerate(judged) if broken is None]
    assert [(r.row, (r.code, r.detail)) for r in rejections] == [(i, b) for i, b in enumerate(judged) if b]


_FEW_TEXTS = st.sampled_from(["", "x", "é", "xy", "éé", "€" * 64, "x" * 65, "é" * 65, "x" * 128, "€" * 129])
_FEW_COUNTS = st.sampled_from([-(2**63), -1, 0, 1, 2, 2**63 - 1])
_FEW_MINUTES = st.sampled_from([-math.inf, -1e308, -1.0, -5e-324, -0.0, 0.0, 1.0, math.inf, math.nan])
_BROKEN_ALIKE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("event_id", "student_id", "student_country"), _FEW_TEXTS),
        **dict.fromkeys(COUNTS, _FEW_COUNTS),
        **dict.fromkeys(MINUTES, _FEW_MINUTES),
        "occurred_at": st.sampled_from([-1, 0, 946_684_799_999, 946_684_800_000, 2**62]),
    },
).map(lambda changes: event(**changes))
"""Few values at and around every limit: many events of a batch break the same ones with other values."""


@given(events=st.lists(_BROKEN_ALIKE, min_size=2, max_size=25))
@settings(max_examples=200)
def test_events_with_the_same_signature_get_the_words_that_pydantic_has_for_each(
    events: list[dict[str, Any]],
) -> None:
    """Pydantic validates one event of each group and would say the same of the others."""
    _, rejections = validate(_batch(*events))
    judged = [broken_rule(fields) for fields in events]
    assert [(r.row, (r.code, r.detail)) for r in rejections] == [(i, b) for i, b in enumerate(judged) if b]
    assert list(rejections.events) == _batch(*(events[r.row] for r in rejections)).to_json()


def test_every_limit_of_every_field_is_told_apart() -> None:
    """One field broken at a time, in every way: no two events share a reason."""
    texts, minutes = ["", "x" * 129], [-1.0, math.nan]
    broken = [
        event(**{name: value})
        for names, values in (
            (("event_id", "student_id", "student_country"), texts),
            (COUNTS, [-1]),
            (MINUTES, minutes),
        )
        for name in names
        for value in values
    ]
    _, rejections = validate(_batch(*broken, event(practice_exams_started=0)))
    assert len({repr(rejection.detail) for rejection in rejections}) == len(broken) + 1


@given(events=st.lists(VALID_EVENTS, max_size=4))
@settings(max_examples=60)
def test_good_events_pass_as_they_are(events: list[dict[str, Any]]) -> None:
    """Up to the edges: one character, 128 of four bytes each, 2^63 - 1, -0.0, the largest double."""
    valid, rejections = validate(_batch(*events))
    assert not rejections
    assert [valid.record(i) for i in range(len(valid))] == events


@pytest.mark.parametrize("name", NUMBERS)
def test_a_negative_number_is_rejected_in_the_words_of_fastapi(name: str) -> None:
    """The detail is the list that the contract shows."""
    _, (rejection,) = validate(_batch(event(), event(**{name: -1})))
    assert (rejection.row, rejection.code) == (1, Code.FIELD_INVALID)
    message = "Input should be greater than or equal to 0"
    assert rejection.detail == [_problem("greater_than_equal", name, message)]
    assert orjson.loads(rejection.event or b"") == event(**{name: -1})


@pytest.mark.parametrize("name", MINUTES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_rejected(name: str, value: float) -> None:
    """NaN and the infinities are `finite_number`."""
    _, (rejection,) = validate(_batch(event(**{name: value})))
    assert rejection.detail == [_problem("finite_number", name, "Input should be a finite number")]


@pytest.mark.parametrize(
    ("name", "text", "kind", "message"),
    [
        ("event_id", "", "string_too_short", "String should have at least 1 character"),
        ("student_id", "", "string_too_short", "String should have at least 1 character"),
        ("event_id", "x" * 129, "string_too_long", "String should have at most 128 characters"),
        ("student_id", "é" * 129, "string_too_long", "String should have at most 128 characters"),
        ("student_country", "", "string_too_short", "String should have at least 2 characters"),
        ("student_country", "D", "string_too_short", "String should have at least 2 characters"),
        ("student_country", "é", "string_too_short", "String should have at least 2 characters"),
        ("student_country", "𝄞", "string_too_short", "String should have at least 2 characters"),
        ("student_country", "x" * 65, "string_too_long", "String should have at most 64 characters"),
        ("student_country", "𝄞" * 65, "string_too_long", "String should have at most 64 characters"),
    ],
)
def test_texts_are_measured_in_characters(name: str, text: str, kind: str, message: str) -> None:
    """Not in bytes: a character may take four."""
    _, (rejection,) = validate(_batch(event(**{name: text})))
    assert rejection.detail == [_problem(kind, name, message)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("event_id", "𝄞" * 128),
        ("student_id", "x"),
        ("student_country", "éé"),
        ("student_country", "𝄞" * 64),
        ("student_country", "Atlantis"),
    ],
)
def test_texts_at_their_limits_are_accepted(name: str, text: str) -> None:
    """So is a text that is not a country."""
    valid, rejections = validate(_batch(event(**{name: text})))
    assert len(valid) == 1
    assert not rejections


def test_every_broken_field_is_listed_in_the_order_of_the_schema() -> None:
    """A producer that gets ten fields wrong learns of ten."""
    texts = {"event_id": "", "student_id": "", "student_country": "x"}
    broken = event(occurred_at=1_700_000_000, **texts, **dict.fromkeys(NUMBERS, -1))
    _, (rejection,) = validate(_batch(broken))
    assert isinstance(rejection.detail, list)
    assert [problem["loc"] for problem in rejection.detail] == [["event", name] for name in broken]


@pytest.mark.parametrize(
    ("unit", "occurred_at", "kind"),
    [
        ("seconds", 1_700_000_000, "greater_than_equal"),
        ("microseconds", 1_700_000_000_123_000, "less_than_equal"),
        ("nanoseconds", 1_700_000_000_123_000_000, "less_than_equal"),
        ("before 2000", 946_684_799_999, "greater_than_equal"),
        ("year 10000", 253_402_300_800_000, "less_than_equal"),
    ],
)
def test_a_time_in_another_unit_is_noticed(unit: str, occurred_at: int, kind: str) -> None:
    """Seconds, microseconds and nanoseconds lie outside the bounds."""
    _, (rejection,) = validate(_batch(event(occurred_at=occurred_at)))
    assert rejection.code is Code.FIELD_INVALID, unit
    assert isinstance(rejection.detail, list)
    assert [(one["type"], one["loc"]) for one in rejection.detail] == [(kind, ["event", "occurred_at"])]


@pytest.mark.parametrize("nulls", [["courses_started"], ["event_id", "minutes_watched"], list(event())])
def test_a_null_is_a_field_that_is_not_valid(nulls: list[str]) -> None:
    """The reason has pydantic's words, and the rejection has the event."""
    writer = AvroSchema.parse(
        definition()
        | {"fields": [{"name": f["name"], "type": ["null", f["type"]]} for f in definition()["fields"]]}
    )
    decoder = Decoder(engagement_event(), Writers({1: writer}), keep_nulls=True)
    events = [event(), event() | dict.fromkeys(nulls), event(days_on_platform=-1) | dict.fromkeys(nulls)]
    decoded, undecodable = decoder.decode([framed(encoded(one, writer.parsed), writer) for one in events])
    assert not undecodable
    valid, rejections = validate(decoded)
    assert [valid.record(i) for i in range(len(valid))] == [event()]
    assert [(one.code, one.detail) for one in rejections] == list(map(broken_rule, events[1:]))
    assert [json.loads(one.event or b"") for one in rejections] == events[1:]
    _, refused = Decoder(engagement_event(), Writers({1: writer})).decode(
        [framed(encoded(events[1], writer.parsed), writer)]
    )
    kind = {"string": "string", "double": "double"}.get(
        {f["name"]: f["type"] for f in definition()["fields"]}[nulls[0]], "long"
    )
    assert f"{nulls[0]}: null where a {kind} is needed" in str(next(iter(refused)).detail)


def test_the_rule_across_fields_has_its_exact_sentence() -> None:
    """Systems downstream compare it."""
    _, (rejection,) = validate(_batch(event(practice_exams_started=1, practice_exams_passed=2)))
    assert rejection.code is Code.RULE_VIOLATED
    assert rejection.detail == "practice_exams_passed cannot exceed practice_exams_started."


def test_the_rule_across_fields_waits_for_good_fields() -> None:
    """As in FastAPI, the cross-field rule is checked only when every field is valid."""
    both = event(practice_exams_started=1, practice_exams_passed=2, minutes_watched=-1.0)
    _, (rejection,) = validate(_batch(both))
    assert rejection.code is Code.FIELD_INVALID
    assert isinstance(rejection.detail, list)
    assert [problem["loc"][-1] for problem in rejection.detail] == ["minutes_watched"]


def test_as_many_exams_passed_as_started_is_fine() -> None:
    """Equal counts satisfy the rule."""
    valid, _ = validate(_batch(event(practice_exams_started=2**63 - 1, practice_exams_passed=2**63 - 1)))
    assert len(valid) == 1


def test_the_models_inputs_are_the_schemas_in_its_order() -> None:
    """One list of names in the schema, in the rules and in the model."""
    assert tuple(StudentInputs.model_fields) == INPUT_NAMES
    assert list(EngagementEvent.model_fields) == list(event())


def test_the_inputs_alone_can_be_judged() -> None:
    """The HTTP API validates with the same model."""
    inputs = {name: event()[name] for name in INPUT_NAMES}
    assert TypeAdapter(StudentInputs).validate_python(inputs).minutes_watched == 120.5
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        TypeAdapter(StudentInputs).validate_python(inputs | {"courses_started": -1})


def test_no_events_are_all_valid() -> None:
    """An empty batch has no candidates."""
    valid, rejections = validate(_batch())
    assert len(valid) == 0
    assert not rejections
