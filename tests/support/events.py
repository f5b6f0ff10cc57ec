"""Events as dictionaries, as bytes and as batches, for every test that needs some.

The bytes are fastavro's, so that what our own codecs say is always held against another's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import strategies as st

from consumer.pipeline.batch import Headers, RawBatch
from consumer.pipeline.validate import OCCURRED_AT_MAX_MS, OCCURRED_AT_MIN_MS
from model_store.inputs import INPUT_NAMES
from schemas.avro import AvroSchema
from schemas.repository import FOLDER, RegistryId, engagement_event, purchase_prediction, single_object_header

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPIC: Final = "engagement-events"

STUDENT: Final = {
    "student_country": "US",
    "days_on_platform": 30,
    "minutes_watched": 412.5,
    "courses_started": 2,
    "practice_exams_started": 4,
    "practice_exams_passed": 3,
    "minutes_spent_on_exams": 55.25,
}
"""The inputs of a request to ``/predict``."""

INT64: Final = st.integers(-(2**63), 2**63 - 1)
COUNTS: Final = st.integers(0, 2**63 - 1)
MINUTES: Final = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.just(-0.0)


def _within_started(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the event with no more exams passed than started."""
    passed, started = fields["practice_exams_passed"], fields["practice_exams_started"]
    return fields | {"practice_exams_passed": min(passed, started)}


VALID_EVENTS: Final = st.fixed_dictionaries(
    {
        "event_id": st.text(min_size=1, max_size=128),
        "student_id": st.text(min_size=1, max_size=128),
        "occurred_at": st.integers(OCCURRED_AT_MIN_MS, OCCURRED_AT_MAX_MS),
        "student_country": st.sampled_from(["NA", "US", "United States", "nam", "Île"])
        | st.text(min_size=2, max_size=64),
        "days_on_platform": COUNTS,
        "minutes_watched": MINUTES,
        "courses_started": COUNTS,
        "practice_exams_started": COUNTS,
        "practice_exams_passed": COUNTS,
        "minutes_spent_on_exams": MINUTES,
    }
).map(_within_started)
"""Events that break no rule, up to the edges of what is accepted."""


def event(**changes: Any) -> dict[str, Any]:
    """Return a good event with some fields changed."""
    return {
        "event_id": "e-1",
        "student_id": "s-1",
        "occurred_at": 1_700_000_000_123,
        "student_country": "US",
        "days_on_platform": 30,
        "minutes_watched": 120.5,
        "courses_started": 2,
        "practice_exams_started": 3,
        "practice_exams_passed": 1,
        "minutes_spent_on_exams": 14.25,
    } | changes


def definition(name: str = "engagement_event") -> Any:
    """Return one of our schemas as a JSON value of the caller's own, logical types left out."""
    text = (FOLDER / f"{name}.avsc").read_text("utf-8")
    return json.loads(text, object_hook=lambda node: {k: v for k, v in node.items() if k != "logicalType"})


@dataclass
class Writers:
    """Writer schemas by registry id, and by every fingerprint."""

    schemas: dict[RegistryId, AvroSchema] = field(default_factory=dict)
    reads_confluent: bool = True

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Find a schema."""
        known = {one: schema for schema in self.schemas.values() for one in schema.fingerprints}
        return known.get(fingerprint)

    def by_id(self, schema_id: RegistryId) -> AvroSchema | None:
        """Find a schema."""
        return self.schemas.get(schema_id)


_EVENT: Final = parse_schema(definition())
_PREDICTION: Final = parse_schema(definition("purchase_prediction"))


def encoded(fields: dict[str, Any], schema: Any = _EVENT) -> bytes:
    """Return a record's bytes as fastavro writes them."""
    out = BytesIO()
    schemaless_writer(out, schema, fields)
    return out.getvalue()


def framed(body: bytes, schema: AvroSchema | None = None) -> bytes:
    """Return a record as a single object of a schema, of the reader's own by default."""
    return single_object_header((schema or engagement_event()).fingerprint) + body


def good(**changes: Any) -> bytes:
    """Return a good event as it stands in the topic."""
    return framed(encoded(event(**changes)))


def prediction(**changes: Any) -> bytes:
    """Return a prediction as it stands in the topic, with some fields changed."""
    fields = {
        "event_id": "e-1",
        "student_id": "s-1",
        "predicted_purchase_probability": 0.25,
        "predicted_purchase": 0,
        "threshold": 0.5,
        "model_version": "v1",
        "occurred_at": 1_700_000_000_123,
        "scored_at": 1_700_000_000_600,
        "source_partition": 0,
        "source_offset": 0,
        "features": {name: value for name, value in event().items() if name in INPUT_NAMES},
    }
    return framed(encoded(fields | changes, _PREDICTION), purchase_prediction())


def decoded_prediction(value: bytes) -> dict[str, Any]:
    """Read a framed prediction with fastavro; every byte must be accounted for."""
    header = single_object_header(purchase_prediction().fingerprint)
    assert value.startswith(header)
    stream = BytesIO(value[len(header) :])
    fields = cast("dict[str, Any]", schemaless_reader(stream, _PREDICTION))
    assert not stream.read()
    return fields


def raw_batch(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers] | None = None,
    first_offset: int = 0,
    partitions: Sequence[int] | None = None,
    timestamp_ms: int = 1_700_000_000_500,
) -> RawBatch:
    """Return a poll of these values."""
    n = len(values)
    return RawBatch(
        topic=TOPIC,
        partitions=partitions or [0] * n,
        offsets=range(first_offset, first_offset + n),
        keys=keys or [b"s-1"] * n,
        values=values,
        timestamps_ms=lambda rows: [timestamp_ms] * len(rows),
        headers=lambda rows: [list(headers[row]) if headers else [] for row in rows],
    )
