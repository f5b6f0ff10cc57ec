"""Record batches of every schema: their records, spans and JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from fastavro import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from consumer.pipeline.batch import EVENT_FIELDS
from consumer.pipeline.decode import Decoder
from schemas.repository import (
    BundledSchemas,
    engagement_event,
    purchase_outcome,
    purchase_prediction,
)
from tests.support.events import (
    INT64,
    decoded_prediction,
    definition,
    encoded,
    event,
    framed,
    prediction,
)

_DECODER = Decoder(engagement_event(), BundledSchemas())

_TEXTS = st.sampled_from(["e-1", "s-1", "US", "", 'a":null,"b', "é\x00€𝄞", "\\"])
_ANY_EVENTS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("event_id", "student_id"), _TEXTS),
        "occurred_at": INT64,
        "student_country": _TEXTS,
        "days_on_platform": INT64,
        "minutes_watched": st.floats(),
        "courses_started": st.integers(0, 9),
        "practice_exams_started": INT64,
        "practice_exams_passed": st.just(1),
        "minutes_spent_on_exams": st.floats(),
    }
)


def _written(*events: dict[str, Any]) -> list[bytes]:
    decoded, _ = _DECODER.decode([framed(encoded(fields)) for fields in events])
    return decoded.to_json()


@given(st.lists(_ANY_EVENTS, max_size=6))
def test_json_is_what_one_call_makes_of_each_event(events: list[dict[str, Any]]) -> None:
    """Byte for byte, whatever the other events are."""

    def spelt(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    expected = [orjson.dumps({name: spelt(fields[name]) for name in EVENT_FIELDS}) for fields in events]
    assert _written(*events) == expected


@pytest.mark.parametrize(("number", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
@pytest.mark.parametrize("name", [f["name"] for f in definition()["fields"] if f["type"] == "double"])
def test_numbers_that_json_lacks_are_text(name: str, number: float, text: str) -> None:
    """A null would hide what was wrong, in whichever of the schema's doubles."""
    (written,) = _written(event(**{name: number}))
    assert orjson.loads(written) == event(**{name: text})


def test_the_widest_numbers_and_texts_survive_json() -> None:
    """64-bit counts are not rounded, control characters not lost, and no reader of lines is split."""
    fields = event(days_on_platform=2**63 - 1, courses_started=-(2**63), event_id='\x00"\n\u2028\x1b[2J')
    (written,) = _written(fields)
    assert orjson.loads(written) == fields
    assert not {"\n", "\x1b", "\u2028"} & set(written.decode())


def test_a_batch_of_predictions_has_records_spans_and_json() -> None:
    """A nested record is a dictionary, and an object in JSON."""
    values = [prediction(event_id=event_id) for event_id in ("a", "bé", "c")]
    batch, _ = Decoder(purchase_prediction(), BundledSchemas()).decode(values)
    expected = [decoded_prediction(value) for value in values]
    assert [batch.record(i) for i in range(3)] == expected
    assert [orjson.loads(text) for text in batch.to_json()] == expected
    starts, stops = batch.span("event_id")
    texts = [batch.data[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]
    assert texts == ["a", "bé", "c"]
    assert batch.text("features.student_country", 1) == "US"
    assert batch.select_rows(np.array([2, 0])).record(0) == expected[2]


def test_a_batch_of_outcomes_has_booleans() -> None:
    """In records and in JSON."""
    schema = purchase_outcome()
    fields = {"student_id": "s", "purchased": True, "observed_at": 5}
    batch, _ = Decoder(schema, BundledSchemas()).decode(
        [framed(encoded(fields, parse_schema(definition("purchase_outcome"))), schema)]
    )
    assert batch.record(0) == fields
    assert orjson.loads(batch.to_json()[0]) == fields
