"""Predictions decode, with fastavro, to exactly what was scored."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.decode import Decoder
from consumer.pipeline.encode import encode_predictions, encode_varints
from consumer.pipeline.score import Scored
from model_store.inputs import INPUT_NAMES
from schemas.repository import (
    BundledSchemas,
    confluent_header,
    engagement_event,
    purchase_prediction,
    single_object_header,
)
from tests.support.events import INT64, VALID_EVENTS, decoded_prediction, encoded, event, framed

DECODER = Decoder(engagement_event(), BundledSchemas())
HEADER = single_object_header(purchase_prediction().fingerprint)
PROBABILITIES = st.floats(0, 1) | st.sampled_from([-0.0, 5e-324, 1.0])


def _scored(
    events: list[dict[str, Any]], probabilities: list[float], *, threshold: float = 0.5, version: str = "v1"
) -> Scored:
    batch, rejections = DECODER.decode([framed(encoded(fields)) for fields in events])
    assert not rejections
    scores = np.array(probabilities, np.float64)
    return Scored(batch, np.empty((len(events), 7)), scores, scores >= threshold, threshold, version)


def _bits(value: Any) -> Any:
    """Return a value with each double as its bits."""
    if isinstance(value, dict):
        return {name: _bits(field) for name, field in value.items()}
    return struct.pack("<d", value) if isinstance(value, float) else value


_TABLES = st.lists(
    st.tuples(VALID_EVENTS, PROBABILITIES, st.integers(-1, 2**31 - 1), INT64), min_size=1, max_size=5
)


@given(table=_TABLES, threshold=st.floats(0, 1), version=st.text(min_size=1, max_size=40), scored_at_ms=INT64)
@settings(max_examples=120)
def test_a_prediction_carries_its_event_bit_for_bit(
    table: list[tuple[dict[str, Any], float, int, int]], threshold: float, version: str, scored_at_ms: int
) -> None:
    """Ids, time and inputs as received, -0.0 and denormals included; any time, partition and offset."""
    events, probabilities, partitions, offsets = (list(column) for column in zip(*table, strict=True))
    values = encode_predictions(
        _scored(events, probabilities, threshold=threshold, version=version),
        header=HEADER,
        scored_at_ms=scored_at_ms,
        partitions=partitions,
        offsets=np.array(offsets, np.int64),
    )
    assert len(values) == len(events)
    for value, (fields, probability, partition, offset) in zip(values, table, strict=True):
        assert _bits(decoded_prediction(value)) == _bits(
            {
                "event_id": fields["event_id"],
                "student_id": fields["student_id"],
                "predicted_purchase_probability": probability,
                "predicted_purchase": int(probability >= threshold),
                "threshold": threshold,
                "model_version": version,
                "occurred_at": fields["occurred_at"],
                "scored_at": scored_at_ms,
                "source_partition": partition,
                "source_offset": offset,
                "features": {name: fields[name] for name in INPUT_NAMES},
            }
        )


@given(values=st.lists(INT64, max_size=20))
@settings(max_examples=200)
def test_longs_are_encoded_as_fastavro_does(values: list[int]) -> None:
    """Zig-zag, seven bits per byte, in the fewest bytes."""
    assert encode_varints(np.array(values, np.int64)) == [_long(value) for value in values]


def _long(value: int) -> bytes:
    return encoded(event(occurred_at=value))[8 : 8 + _length(value)]


def _length(value: int) -> int:
    return len(encoded(event(occurred_at=value))) - len(encoded(event(occurred_at=0))) + 1


@pytest.mark.parametrize("n_bits", range(64))
def test_longs_at_every_length_are_encoded_as_fastavro_does(n_bits: int) -> None:
    """Both sides of every power of two, positive and negative."""
    values = [sign * (2**n_bits + step) for sign in (1, -1) for step in (-1, 0, 1)]
    values = [value for value in values if -(2**63) <= value < 2**63]
    assert encode_varints(np.array(values, np.int64)) == [_long(value) for value in values]


def test_an_empty_batch_encodes_to_nothing() -> None:
    """There are no predictions."""
    empty = np.array([], np.int64)
    assert (
        encode_predictions(_scored([], []), header=HEADER, scored_at_ms=0, partitions=[], offsets=empty) == []
    )


def test_the_frame_is_the_callers() -> None:
    """With a registry it is Confluent's; the record behind it is the same."""
    scored, offsets = _scored([event()], [0.25]), np.array([7])
    arguments: dict[str, Any] = {"scored_at_ms": 5, "partitions": [1], "offsets": offsets}
    (single,) = encode_predictions(scored, header=HEADER, **arguments)
    (confluent,) = encode_predictions(scored, header=confluent_header(9), **arguments)
    assert confluent == confluent_header(9) + single[len(HEADER) :]


def test_only_selected_events_are_encoded() -> None:
    """Selecting rows keeps the bytes of each event."""
    scored = _scored([event(event_id=name) for name in "abcde"], [0.1, 0.2, 0.3, 0.4, 0.5])
    keep = np.array([1, 3])
    some = Scored(
        scored.events.select_rows(keep),
        scored.features[keep],
        scored.probabilities[keep],
        scored.decisions[keep],
        0.5,
        "v",
    )
    values = encode_predictions(
        some, header=HEADER, scored_at_ms=0, partitions=[0, 0], offsets=np.array([11, 13])
    )
    predictions = [decoded_prediction(value) for value in values]
    assert [(p["event_id"], p["source_offset"]) for p in predictions] == [("b", 11), ("d", 13)]
