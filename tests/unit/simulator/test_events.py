"""The sample upstream sends what it says it sends."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.pipeline.decode import Decoder
from consumer.pipeline.validate import validate
from consumer.simulator.events import (
    EVENT_FAULTS,
    OutgoingEvent,
    broken_count,
    codes_of_broken,
    encode_event,
    events,
)
from model_store.synthetic import generate_students
from schemas.repository import BundledSchemas, engagement_event

RUN_ID = "0123456789abcdef0123"
STUDENTS = generate_students(40, seed=1)


def built(count: int, broken_ratio: float = 0.0) -> list[OutgoingEvent]:
    """Build events at a fixed time."""
    return list(
        events(
            STUDENTS, count=count, broken_ratio=broken_ratio, run_id=RUN_ID, now_ms=lambda: 1_700_000_000_000
        )
    )


def test_every_kind_of_broken_event_gets_the_code_it_is_sent_for() -> None:
    """The scorer's own decoder and rules agree with the upstream, and reject nothing else."""
    sent = built(200, broken_ratio=0.5)
    decoded, rejected = Decoder(engagement_event(), BundledSchemas()).decode([event.value for event in sent])
    _, invalid = validate(decoded)
    codes = {rejection.row: rejection.code.value for rejection in [*rejected, *invalid]}
    assert codes == {i: event.code for i, event in enumerate(sent) if event.code is not None}
    assert set(codes.values()) == {breakage.code for breakage in EVENT_FAULTS}


@given(st.integers(1, 200), st.floats(0, 3))
def test_broken_events_come_on_top_and_spread_evenly(count: int, broken_ratio: float) -> None:
    """There are count good ones and the ratio's broken ones, and never a run of one kind too long."""
    sent = built(count, broken_ratio)
    broken = [event.code for event in sent if event.code is not None]
    assert len(sent) - len(broken) == count
    assert len(broken) == broken_count(count, broken_ratio) == round(count * broken_ratio)
    assert Counter(broken) == codes_of_broken(len(broken))
    half = sum(event.code is not None for event in sent[: len(sent) // 2])
    assert abs(half - len(broken) / 2) <= 1 + broken_ratio


def test_event_ids_are_unique_and_in_the_form_of_a_uuid() -> None:
    """Two events of a run never share one."""
    decoded, _ = Decoder(engagement_event(), BundledSchemas()).decode([e.value for e in built(100)])
    ids = [decoded.record(i)["event_id"] for i in range(100)]
    assert len({uuid.UUID(text) for text in ids}) == 100


def test_an_event_carries_its_student_and_the_key_is_the_student_id() -> None:
    """Students come in turn, from the first again when all were sent."""
    sent = built(STUDENTS.rows + 1)
    decoded, _ = Decoder(engagement_event(), BundledSchemas()).decode([event.value for event in sent])
    last = decoded.record(STUDENTS.rows)
    assert sent[-1].key == sent[0].key == b"student-000000"
    assert last["student_id"] == "student-000000"
    assert last["occurred_at"] == 1_700_000_000_000
    assert last["student_country"] == STUDENTS.countries[0]
    assert [last[name] for name in ("days_on_platform", "minutes_watched")] == STUDENTS.inputs[
        0, 1:3
    ].tolist()


def test_a_template_gives_the_bytes_that_fastavro_gives() -> None:
    """Filling in the id and the time of an encoded student is the same as encoding the whole event."""
    for event in built(STUDENTS.rows):
        decoded, _ = Decoder(engagement_event(), BundledSchemas()).decode([event.value])
        assert encode_event(decoded.record(0)) == event.value


@pytest.mark.parametrize("code", ["tombstone", "unknown_framing", "unknown_schema", "undecodable"])
def test_few_broken_events_already_have_many_codes(code: str) -> None:
    """Seven broken events have seven codes."""
    assert codes_of_broken(7)[code] == 1
