"""Audit lines hold the values of the predictions, in the documented form, for all possible values."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from fastavro import schemaless_writer
from fastavro.schema import parse_schema
from hypothesis import given
from hypothesis import strategies as st

from consumer.monitor.audit.lines import audit_lines
from consumer.pipeline.decode import Decoder
from schemas.avro import AvroSchema
from schemas.repository import RegistryId, purchase_prediction, single_object_header

LONGS = st.integers(-(2**63), 2**63 - 1)
INTS = st.integers(-(2**31), 2**31 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
DOUBLES = st.floats(allow_nan=True, allow_infinity=True)

FEATURES = st.fixed_dictionaries(
    {
        "student_country": TEXTS,
        "days_on_platform": LONGS,
        "minutes_watched": DOUBLES,
        "courses_started": LONGS,
        "practice_exams_started": LONGS,
        "practice_exams_passed": LONGS,
        "minutes_spent_on_exams": DOUBLES,
    }
)
PREDICTIONS = st.fixed_dictionaries(
    {
        "event_id": TEXTS,
        "student_id": TEXTS,
        "predicted_purchase_probability": DOUBLES,
        "predicted_purchase": INTS,
        "threshold": DOUBLES,
        "model_version": TEXTS,
        "occurred_at": LONGS,
        "scored_at": LONGS,
        "source_partition": INTS,
        "source_offset": LONGS,
        "features": FEATURES,
    }
)

EXAMPLE = {
    "event_id": "e1",
    "student_id": "s1",
    "predicted_purchase_probability": 0.25,
    "predicted_purchase": 0,
    "threshold": 0.5,
    "model_version": "v1",
    "occurred_at": 1_767_225_600_000,
    "scored_at": 1_767_225_601_007,
    "source_partition": 2,
    "source_offset": 41,
    "features": {
        "student_country": "US",
        "days_on_platform": 30,
        "minutes_watched": 120.5,
        "courses_started": 2,
        "practice_exams_started": 3,
        "practice_exams_passed": 1,
        "minutes_spent_on_exams": 20.0,
    },
}


class NoSchemas:
    """Knows no writer schema except the reader's own."""

    reads_confluent = False

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Know none."""

    def by_id(self, schema_id: RegistryId) -> AvroSchema | None:
        """Know none."""


def encode(prediction: dict[str, Any]) -> bytes:
    """Frame one prediction. Timestamps are written as plain 64-bit numbers."""
    plain = orjson.loads(orjson.dumps(purchase_prediction().parsed).replace(b'"logicalType"', b'"note"'))
    out = io.BytesIO()
    schemaless_writer(out, parse_schema(plain), prediction)
    return single_object_header(purchase_prediction().fingerprint) + out.getvalue()


def lines_of(values: list[bytes]) -> bytes:
    """Decode a batch from output partition 1, offsets from 100, and format its lines."""
    predictions, _ = Decoder(purchase_prediction(), NoSchemas()).decode(values)
    n = len(values)
    return audit_lines(
        predictions,
        source_topic="events",
        output_topic="predictions",
        partitions=[1] * n,
        offsets=list(range(100, 100 + n)),
    )


def number(value: float) -> float | None:
    """Return the JSON form of a number."""
    return value if math.isfinite(value) else None


def moment(time_ms: int) -> str | int:
    """Return the form of a time in a line, computed by the standard library."""
    try:
        seconds, ms = divmod(time_ms, 1000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z".rjust(24, "0")
    except (ValueError, OverflowError, OSError):
        return time_ms


def test_a_line_has_exactly_the_documented_form() -> None:
    """A line has its keys in order, times in UTC with milliseconds, and a line feed."""
    assert lines_of([encode(EXAMPLE)]) == (
        b'{"timestamp_utc":"2026-01-01T00:00:01.007Z","event_id":"e1","student_id":"s1",'
        b'"occurred_at":"2026-01-01T00:00:00.000Z","predicted_purchase_probability":0.25,'
        b'"predicted_purchase":0,"threshold":0.5,"model_version":"v1",'
        b'"features":{"student_country":"US","days_on_platform":30,"minutes_watched":120.5,'
        b'"courses_started":2,"practice_exams_started":3,"practice_exams_passed":1,'
        b'"minutes_spent_on_exams":20.0},'
        b'"source":{"topic":"events","partition":2,"offset":41},'
        b'"output":{"topic":"predictions","partition":1,"offset":100}}\n'
    )


def test_no_predictions_make_no_lines() -> None:
    """An empty batch, or one with only foreign bytes, gives no line."""
    assert lines_of([]) == b""
    assert lines_of([b"foreign"]) == b""


def test_rows_keep_their_coordinates_beside_foreign_ones() -> None:
    """A line has the output offset of its own record, even if foreign records are in between."""
    lines = lines_of([b"foreign", encode(EXAMPLE), b"", encode(EXAMPLE)]).splitlines()
    assert [orjson.loads(line)["output"]["offset"] for line in lines] == [101, 103]


@pytest.mark.parametrize(
    "text", ['"', "\\", '","', "\n", "\r", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "Ünï", "😀"]
)
def test_no_text_can_break_a_line(text: str) -> None:
    """Quotes, control characters and all Unicode line ends are escaped and fit into one line."""
    line = lines_of([encode(EXAMPLE | {"event_id": text, "model_version": text})]).decode()
    assert len(line.splitlines()) == 1
    assert orjson.loads(line)["event_id"] == text
    assert orjson.loads(line)["model_version"] == text


@given(predictions=st.lists(PREDICTIONS, max_size=8))
def test_a_line_says_what_the_prediction_says(predictions: list[dict[str, Any]]) -> None:
    """Any predictions give one line each, and parsing a line returns the same values."""
    lines = lines_of([encode(prediction) for prediction in predictions]).decode().splitlines()
    assert len(lines) == len(predictions)
    for offset, (text, prediction) in enumerate(zip(lines, predictions, strict=True), start=100):
        features = prediction["features"]
        assert orjson.loads(text) == {
            "timestamp_utc": moment(prediction["scored_at"]),
            "event_id": prediction["event_id"],
            "student_id": prediction["student_id"],
            "occurred_at": moment(prediction["occurred_at"]),
            "predicted_purchase_probability": number(prediction["predicted_purchase_probability"]),
            "predicted_purchase": prediction["predicted_purchase"],
            "threshold": number(prediction["threshold"]),
            "model_version": prediction["model_version"],
            "features": {
                **features,
                "minutes_watched": number(features["minutes_watched"]),
                "minutes_spent_on_exams": number(features["minutes_spent_on_exams"]),
            },
            "source": {
                "topic": "events",
                "partition": prediction["source_partition"],
                "offset": prediction["source_offset"],
            },
            "output": {"topic": "predictions", "partition": 1, "offset": offset},
        }
