"""The whole decision, with a real model: no row is lost, and a batch's borders mean nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.pipeline.batch import RawBatch
from consumer.pipeline.rejections import Code, Rejection
from tests.support.events import VALID_EVENTS, decoded_prediction, encoded, event, framed, good, raw_batch

if TYPE_CHECKING:
    from consumer.pipeline.pipeline import Pipeline

# The fixtures hold no state that an example could change.
_PROPERTY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

_EVENTS = VALID_EVENTS.map(lambda fields: framed(encoded(fields)))
_VALUES = st.lists(
    _EVENTS
    | st.none()
    | st.binary(max_size=40)
    | st.binary(max_size=80).map(framed)
    | st.sampled_from([good(minutes_watched=float("nan")), good(practice_exams_passed=9), good() + b"?"]),
    max_size=10,
)


def _decided(pipeline: Pipeline, raw: RawBatch) -> tuple[dict[int, bytes], list[Rejection]]:
    """Return predictions by source offset, and rejections with the offset for the row."""
    outcome = pipeline.run(raw, scored_at_ms=1_700_000_000_999)
    predictions = {
        raw.offsets[row]: value for row, value in zip(outcome.rows, outcome.predictions, strict=True)
    }
    rejections = [Rejection(raw.offsets[r.row], r.code, r.detail, None) for r in outcome.rejections]
    return predictions, rejections


@given(values=_VALUES)
@_PROPERTY
def test_every_row_ends_in_exactly_one_place(pipeline: Pipeline, values: list[bytes | None]) -> None:
    """A prediction or a rejection, both in the order of the poll."""
    outcome = pipeline.run(raw_batch(values), scored_at_ms=0)
    rejected = [rejection.row for rejection in outcome.rejections]
    assert list(outcome.rows) == sorted(outcome.rows)
    assert rejected == sorted(rejected)
    assert sorted([*outcome.rows, *rejected]) == list(range(len(values)))
    assert len(outcome.predictions) == len(outcome.rows) == len(outcome.scored.probabilities)


@given(values=_VALUES, at=st.integers(0, 10))
@_PROPERTY
def test_splitting_a_batch_anywhere_changes_no_answer(
    pipeline: Pipeline, values: list[bytes | None], at: int
) -> None:
    """Bit for bit the same predictions, and the same rejections."""
    at = min(at, len(values))
    raw = raw_batch(values, first_offset=100)
    left = _decided(pipeline, raw.select_rows(range(at)))
    right = _decided(pipeline, raw.select_rows(range(at, len(values))))
    assert _decided(pipeline, raw) == (left[0] | right[0], left[1] + right[1])


def test_a_large_batch_gives_each_event_the_answer_it_gets_alone(pipeline: Pipeline) -> None:
    """At every length, even where vector instructions end and single steps begin."""
    rng = random.Random(5)
    values = [
        good(
            event_id=str(n),
            student_country=rng.choice(["US", "IN", "NA", "Atlantis"]),
            days_on_platform=rng.randrange(300),
            minutes_watched=rng.expovariate(0.02),
            courses_started=rng.randrange(6),
            practice_exams_started=rng.randrange(5, 20),
            practice_exams_passed=rng.randrange(5),
            minutes_spent_on_exams=rng.expovariate(0.1),
        )
        for n in range(300)
    ]
    raw = raw_batch(values)
    together, rejections = _decided(pipeline, raw)
    alone = {n: _decided(pipeline, raw.select_rows([n]))[0][n] for n in range(len(values))}
    assert not rejections
    assert together == alone
    for n in (2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129, 255, 257):
        first, _ = _decided(pipeline, raw.select_rows(range(n)))
        assert first == {row: alone[row] for row in range(n)}


def test_a_prediction_carries_event_model_and_source(pipeline: Pipeline) -> None:
    """What the CRM and the audit log read."""
    raw = raw_batch([None, good(student_country="NA")], partitions=[3, 7], first_offset=40)
    outcome = pipeline.run(raw, scored_at_ms=1_700_000_000_999)
    prediction = decoded_prediction(outcome.predictions[0])
    probability = prediction.pop("predicted_purchase_probability")
    assert 0 <= probability <= 1
    assert prediction.pop("predicted_purchase") == (probability >= pipeline.models.current().threshold)
    fields = event(student_country="NA")
    assert prediction == {
        **{name: fields.pop(name) for name in ("event_id", "student_id", "occurred_at")},
        "threshold": pipeline.models.current().threshold,
        "model_version": pipeline.models.current().version,
        "scored_at": 1_700_000_000_999,
        "source_partition": 7,
        "source_offset": 41,
        "features": fields,
    }


@pytest.mark.parametrize(
    "extreme",
    [
        {"minutes_watched": 1.7976931348623157e308, "minutes_spent_on_exams": 1.7976931348623157e308},
        {"days_on_platform": 2**63 - 1, "courses_started": 2**63 - 1},
        {"practice_exams_started": 2**63 - 1, "practice_exams_passed": 2**63 - 1},
        {"minutes_watched": -0.0, "minutes_spent_on_exams": -0.0, "days_on_platform": 0},
        {"minutes_watched": 5e-324},
        {"student_country": "\x00\x00", "event_id": "\u202e", "student_id": "../../etc/passwd"},
        {"occurred_at": 946_684_800_000},
        {"occurred_at": 253_402_300_799_999},
    ],
    ids=str,
)
def test_the_extremes_of_what_is_accepted_are_scored(pipeline: Pipeline, extreme: dict[str, object]) -> None:
    """A valid event has a probability, however odd."""
    outcome = pipeline.run(raw_batch([good(**extreme)]), scored_at_ms=0)
    assert not outcome.rejections
    assert 0 <= outcome.scored.probabilities[0] <= 1


def test_rejections_of_every_stage_come_in_the_order_of_the_poll(pipeline: Pipeline) -> None:
    """The rejections of all stages are sorted by row."""
    values = [good(courses_started=-1), None, good(), good(practice_exams_passed=9), b"?", good() + b"?"]
    outcome = pipeline.run(raw_batch(values), scored_at_ms=0)
    assert outcome.rows == [2]
    assert [(r.row, r.code) for r in outcome.rejections] == [
        (0, Code.FIELD_INVALID),
        (1, Code.TOMBSTONE),
        (3, Code.RULE_VIOLATED),
        (4, Code.UNKNOWN_FRAMING),
        (5, Code.TRAILING_BYTES),
    ]


@pytest.mark.parametrize("values", [[], [None, b"?"], [good()]])
def test_the_end_of_each_stage_is_reported(pipeline: Pipeline, values: list[bytes | None]) -> None:
    """The caller can measure each stage, also for batches without events."""
    ended: list[str] = []
    pipeline.run(raw_batch(values), scored_at_ms=0, on_stage_end=ended.append)
    assert ended == ["decode", "validate", "score", "encode"]


def test_selected_rows_keep_what_belongs_to_them() -> None:
    """Also when rows are selected twice."""
    raw = RawBatch(
        "t",
        [0, 1, 0, 1],
        [5, 6, 7, 8],
        [b"a", b"b", None, b"d"],
        [b"1", None, b"3", b"4"],
        timestamps_ms=lambda rows: [1000 + row for row in rows],
        headers=lambda rows: [[(str(row), None)] for row in rows],
    )
    part = raw.select_rows([1, 2, 3]).select_rows([0, 2])
    assert (part.partitions, part.offsets, part.keys, part.values) == (
        [1, 1],
        [6, 8],
        [b"b", b"d"],
        [None, b"4"],
    )
    assert part.timestamps_ms([0, 1]) == [1001, 1003]
    assert part.headers([1]) == [[("3", None)]]
    assert raw.next_offsets == {0: 8, 1: 9}
    assert part.next_offsets == {1: 9}
