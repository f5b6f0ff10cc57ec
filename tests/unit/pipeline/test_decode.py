"""Every way a value can be no event gets its code, and its neighbours are decoded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.batch import EVENT_FIELDS
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code
from consumer.pipeline.walk import explain_decode_error
from schemas.avro import AvroSchema
from schemas.repository import (
    RegistryId,
    confluent_header,
    engagement_event,
    purchase_outcome,
    single_object_header,
)
from tests.support.events import VALID_EVENTS, Writers, definition, encoded, event, framed, good


def _older() -> AvroSchema:
    """Return an event schema with ints and one field more."""
    schema = definition()
    schema["fields"][4]["type"] = "int"
    schema["fields"].insert(0, {"name": "tenant", "type": ["null", "string"]})
    return AvroSchema.parse(schema)


OURS, OLDER, OUTCOME, BODY = engagement_event(), _older(), purchase_outcome(), encoded(event())
OLDER_BODY = encoded(event(tenant="t"), OLDER.parsed)
REGISTRY = Decoder(OURS, Writers({1: OURS, 2: OLDER, 3: OUTCOME}))

BAD = [
    pytest.param(None, Code.TOMBSTONE, "no value", id="tombstone"),
    pytest.param(b"", Code.UNKNOWN_FRAMING, "0 bytes", id="empty"),
    pytest.param(b"\xc3", Code.UNKNOWN_FRAMING, "1 byte, ", id="C3"),
    pytest.param(b"\xc3\x01", Code.UNKNOWN_FRAMING, "c3 01", id="C3 01"),
    pytest.param(framed(b"")[:9], Code.UNKNOWN_FRAMING, "9 bytes", id="header cut"),
    pytest.param(b"\xc3\x02" + framed(BODY)[2:], Code.UNKNOWN_FRAMING, "c3 02", id="C3 02"),
    pytest.param(b"\x01" + BODY, Code.UNKNOWN_FRAMING, "starting with 01", id="wrong magic"),
    pytest.param(b'{"event_id": 1}', Code.UNKNOWN_FRAMING, "7b 22", id="JSON"),
    pytest.param(b"\x00", Code.UNKNOWN_FRAMING, "Confluent", id="00"),
    pytest.param(confluent_header(1) + BODY, Code.UNKNOWN_FRAMING, "no schema registry", id="Confluent"),
    pytest.param(
        single_object_header(bytes(range(8))) + BODY,
        Code.UNKNOWN_SCHEMA,
        "0706050403020100",
        id="fingerprint",
    ),
    pytest.param(framed(b""), Code.UNDECODABLE, "event_id: the record ends early", id="no body"),
    pytest.param(framed(BODY[:-1]), Code.UNDECODABLE, "minutes_spent_on_exams", id="cut"),
    pytest.param(framed(b"\x80" * 12), Code.UNDECODABLE, "past 64 bits", id="varint"),
    pytest.param(framed(b"\x02\xff" + BODY), Code.UNDECODABLE, "UTF-8", id="text"),
    pytest.param(framed(b"\x01" + BODY), Code.UNDECODABLE, "negative length", id="length"),
    pytest.param(framed(BODY + b"\x00"), Code.TRAILING_BYTES, "1 byte follows", id="trailing"),
    pytest.param(framed(BODY + BODY), Code.TRAILING_BYTES, f"{len(BODY)} bytes", id="two records"),
    pytest.param(framed(b"\x02a\x01\x02", OUTCOME), Code.UNDECODABLE, "PurchaseOutcome", id="outcome"),
]
REGISTRY_BAD = [
    pytest.param(b"\x00", Code.UNKNOWN_FRAMING, "1 byte, ", id="magic only"),
    pytest.param(confluent_header(1)[:4], Code.UNKNOWN_FRAMING, "4 bytes", id="id cut"),
    pytest.param(confluent_header(9) + BODY, Code.UNKNOWN_SCHEMA, "id 9", id="unknown id"),
    pytest.param(b"\x00\xff\xff\xff\xff" + BODY, Code.UNKNOWN_SCHEMA, "4294967295", id="negative id"),
    pytest.param(confluent_header(1), Code.UNDECODABLE, "ends early", id="no body"),
    pytest.param(confluent_header(1) + BODY[:-1], Code.UNDECODABLE, "minutes_spent", id="cut"),
    pytest.param(confluent_header(1) + BODY + b"\x00", Code.TRAILING_BYTES, "1 byte follows", id="trailing"),
    pytest.param(confluent_header(2) + OLDER_BODY[:-1], Code.UNDECODABLE, "ends early", id="older cut"),
    pytest.param(confluent_header(2) + b"\x01" + OLDER_BODY[1:], Code.UNDECODABLE, "branch -1", id="union"),
    pytest.param(
        confluent_header(2) + OLDER_BODY + b"??", Code.TRAILING_BYTES, "2 bytes", id="older trailing"
    ),
    pytest.param(
        confluent_header(3) + b"\x02a\x01\x02",
        Code.UNDECODABLE,
        "not EngagementEvent",
        id="another record",
    ),
    pytest.param(framed(OLDER_BODY[:-1], OLDER), Code.UNDECODABLE, "ends early", id="single object, older"),
]


def _between_good_ones(decoder: Decoder, value: bytes | None, code: Code, detail: str) -> None:
    events, rejections = decoder.decode([good(event_id="a"), value, good(event_id="b")])
    assert events.rows.tolist() == [0, 2]
    assert [events.record(i) for i in range(2)] == [event(event_id="a"), event(event_id="b")]
    (rejection,) = rejections
    assert (rejection.row, rejection.code, rejection.event) == (1, code, None)
    assert isinstance(rejection.detail, str)
    assert detail in rejection.detail
    assert "\n" not in rejection.detail


@pytest.mark.parametrize(("value", "code", "detail"), BAD)
def test_a_bad_value_is_rejected_alone(
    decoder: Decoder, value: bytes | None, code: Code, detail: str
) -> None:
    """Its code is the contract's, its detail says what is wrong, its neighbours are decoded."""
    _between_good_ones(decoder, value, code, detail)


@pytest.mark.parametrize(("value", "code", "detail"), REGISTRY_BAD)
def test_a_bad_value_is_rejected_alone_with_a_registry(value: bytes, code: Code, detail: str) -> None:
    """The same in Confluent framing."""
    _between_good_ones(REGISTRY, value, code, detail)


def test_all_framings_and_versions_decode_in_one_batch() -> None:
    """Rows keep their order, whatever their frames."""
    values = [
        confluent_header(2) + OLDER_BODY,
        framed(BODY),
        framed(OLDER_BODY, OLDER),
        confluent_header(1) + BODY,
    ]
    events, rejections = REGISTRY.decode(values)
    assert not rejections
    assert events.rows.tolist() == [0, 1, 2, 3]
    assert [events.record(i) for i in range(4)] == [event()] * 4


def test_the_columns_lie_in_the_readers_encoding() -> None:
    """Later stages copy bytes from the buffer, so converted events are there in the reader's encoding."""
    events, _ = REGISTRY.decode([confluent_header(2) + OLDER_BODY])
    begin, end = events.starts[0, 0], events.starts[0, -1]
    assert events.data[begin:end] == BODY
    assert set(events.texts) | set(events.numbers) == set(EVENT_FIELDS)


@pytest.mark.parametrize("values", [[], [None], [b""], [None, b"", None]])
def test_a_batch_without_events_decodes_to_no_events(decoder: Decoder, values: list[bytes | None]) -> None:
    """Every row is rejected."""
    events, rejections = decoder.decode(values)
    assert len(events) == 0
    assert [rejection.row for rejection in rejections] == list(range(len(values)))


def test_an_outage_of_the_registry_fails_the_batch_and_no_event() -> None:
    """The exception of the look-up is passed on, and no event is rejected."""

    class Down(Writers):
        def by_id(self, schema_id: RegistryId) -> AvroSchema | None:
            raise TimeoutError(schema_id)

    with pytest.raises(TimeoutError):
        Decoder(OURS, Down()).decode([good(), confluent_header(7) + BODY])


_VALUES = (
    st.none()
    | st.binary(max_size=30)
    | st.binary(max_size=80).map(framed)
    | VALID_EVENTS.map(lambda fields: framed(encoded(fields)))
    | st.builds(lambda i, body: confluent_header(i) + body, st.integers(0, 4), st.binary(max_size=60))
    | st.sampled_from([framed(OLDER_BODY, OLDER), confluent_header(2) + OLDER_BODY, framed(BODY + b"?")])
)


@given(values=st.lists(_VALUES, max_size=8))
@settings(max_examples=120)
def test_every_row_is_decoded_or_rejected_and_none_is_both(values: list[bytes | None]) -> None:
    """Row conservation, for any bytes; rows and rejections are sorted."""
    events, rejections = REGISTRY.decode(values)
    rejected = [rejection.row for rejection in rejections]
    rows: list[Any] = events.rows.tolist()
    assert rows == sorted(rows)
    assert rejected == sorted(rejected)
    assert sorted(rows + rejected) == list(range(len(values)))


def _spoilt(body: bytes, at: int, byte: int, cut: int) -> bytes:
    """Return a record with one byte replaced, cut somewhere behind it or not at all."""
    at %= len(body)
    spoilt = body[:at] + bytes([byte]) + body[at + 1 :]
    return spoilt[: at + cut]


_SPOILT = st.builds(
    _spoilt,
    VALID_EVENTS.map(encoded) | st.just(encoded(event(event_id="ünïcödé", student_id="€"))),
    st.integers(0, 200),
    st.sampled_from([0x00, 0x01, 0x7F, 0x80, 0xFF]) | st.integers(0, 255),
    st.integers(0, 60) | st.just(1000),
)


@given(bodies=st.lists(_SPOILT | st.binary(max_size=40), min_size=1, max_size=8), at=st.integers(0, 12))
@settings(max_examples=400)
def test_the_reason_of_a_value_does_not_depend_on_its_neighbours(bodies: list[bytes], at: int) -> None:
    """Records that are broken alike share a reason, which is the one that each gets alone."""
    values = [framed(body) for body in bodies]
    values.insert(at, confluent_header(1) + bodies[0])
    _, together = REGISTRY.decode(values)
    alone = [one._replace(row=row) for row, value in enumerate(values) for one in REGISTRY.decode([value])[1]]
    assert list(together) == alone


@given(body=_SPOILT)
@settings(max_examples=400)
def test_a_record_is_refused_with_the_words_of_the_strict_walk(body: bytes) -> None:
    """The columnar decoder and the walk agree on which records are malformed."""
    _, rejections = REGISTRY.decode([framed(body)])
    for rejection in rejections:
        if rejection.code is Code.UNDECODABLE:
            why = explain_decode_error(OURS, body)
            assert rejection.detail == f"Not a record of {OURS.name}: {why}."
            assert why != "the bytes are not one of its records"
