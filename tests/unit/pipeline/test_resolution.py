"""Records of other writer schemas are read as Avro resolution says, and their bytes strictly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.resolution import DecodeError, Resolution, explain_decode_error, named_types
from tests.support.events import VALID_EVENTS, definition, encoded, event

READER = parse_schema(definition())


def _writer(change: Callable[[list[dict[str, Any]]], object]) -> Any:
    """Return the event schema with its list of fields changed."""
    schema = definition()
    change(schema["fields"])
    return parse_schema(schema)


def _with(*types: Any) -> Any:
    """Return the event schema with fields before its own: ``x0``, ``x1`` and so on."""
    return _writer(lambda fields: fields.__setitem__(slice(0, 0), _extra(*types)))


def _extra(*types: Any) -> list[dict[str, Any]]:
    return [{"name": f"x{i}", "type": kind} for i, kind in enumerate(types)]


def _retyped(**types: Any) -> Any:
    def change(fields: list[dict[str, Any]]) -> None:
        for field in fields:
            field["type"] = types.get(field["name"], field["type"])

    return _writer(change)


def _converted(writer: Any, record: bytes, reader: Any = READER) -> dict[str, Any]:
    """Convert a record; return its fields in the reader's encoding, all bytes accounted for."""
    out, used = Resolution(writer, reader).convert(record)
    assert used == len(record)
    stream = BytesIO(out)
    fields = cast(
        "dict[str, Any]", schemaless_reader(stream, READER if reader is READER else parse_schema(reader))
    )
    assert not stream.read()
    return fields


ENUM = {"type": "enum", "name": "Plan", "symbols": ["FREE", "PAID"]}
NESTED = {"type": "record", "name": "Device", "fields": _extra("string", ["null", "double"], ENUM, "Plan")}
FIXED = {"type": "fixed", "name": "Digest", "size": 3}


@pytest.mark.parametrize(
    ("types", "values"),
    [
        ([["null", "string"]], [None]),
        ([["null", "string"]], ["é"]),
        ([ENUM], ["PAID"]),
        ([{"type": "array", "items": "string"}], [["a", "", "é"]]),
        ([{"type": "array", "items": "int"}], [[]]),
        ([{"type": "map", "values": ["null", "long"]}], [{"a": None, "b": 2**40}]),
        ([NESTED], [{"x0": "phone", "x1": 1.5, "x2": "FREE", "x3": "PAID"}]),
        (["null", "boolean", "bytes", "float", FIXED], [None, True, b"\xff", 1.5, b"abc"]),
        (
            [{"type": "array", "items": {"type": "map", "values": {"type": "array", "items": "int"}}}],
            [[{"k": [1]}]],
        ),
    ],
)
def test_fields_that_only_the_writer_has_are_stepped_over(types: list[Any], values: list[Any]) -> None:
    """A newer producer may send more than we know of, of any type."""
    writer = _with(*types)
    record = encoded(event() | {f"x{i}": value for i, value in enumerate(values)}, writer)
    assert _converted(writer, record) == event()


@pytest.mark.parametrize("name", ["days_on_platform", "courses_started", "practice_exams_passed"])
def test_an_int_is_read_as_a_long(name: str) -> None:
    """Promotion int → long."""
    writer = _retyped(**{name: "int"})
    assert _converted(writer, encoded(event(**{name: 2**31 - 1}), writer)) == event(**{name: 2**31 - 1})


@pytest.mark.parametrize(("kind", "value"), [("int", 7), ("long", 2**40), ("float", 0.5)])
def test_numbers_are_read_as_doubles(kind: str, value: float) -> None:
    """Promotion int, long, float → double."""
    writer = _retyped(minutes_watched=kind)
    assert _converted(writer, encoded(event(minutes_watched=value), writer)) == event(
        minutes_watched=float(value)
    )


def test_bytes_are_read_as_a_string_if_they_are_utf8() -> None:
    """Promotion bytes → string, and its limit."""
    writer = _retyped(event_id="bytes")
    assert _converted(writer, encoded(event(event_id="é".encode()), writer)) == event(event_id="é")
    with pytest.raises(DecodeError):
        Resolution(writer, READER).convert(encoded(event(event_id=b"\xff"), writer))


@given(fields=VALID_EVENTS)
@settings(max_examples=30)
def test_fields_in_another_order_find_their_place(fields: dict[str, Any]) -> None:
    """Fields are matched by name."""
    writer = _writer(lambda own: own.reverse())
    assert encoded(_converted(writer, encoded(fields, writer))) == encoded(fields)


def test_a_missing_field_takes_the_readers_default() -> None:
    """An older producer that knows nothing of a field is read, if the reader has a default."""
    writer = _writer(lambda fields: fields.pop())
    reader = definition()
    reader["fields"][-1]["default"] = 0.5
    assert _converted(writer, encoded(event(), writer), reader) == event(minutes_spent_on_exams=0.5)


def test_a_missing_field_without_default_does_not_resolve() -> None:
    """We do not make up inputs."""
    writer = _writer(lambda fields: fields.pop())
    with pytest.raises(DecodeError, match="minutes_spent_on_exams"):
        Resolution(writer, READER).convert(encoded(event(), writer))


def test_a_renamed_field_is_found_by_its_alias() -> None:
    """The reader lists what a field was once called."""
    writer = definition()
    writer["fields"][5]["name"] = "minutes"
    reader = definition()
    reader["fields"][5]["aliases"] = ["minutes"]
    old = event()
    old["minutes"] = old.pop("minutes_watched")
    writer = parse_schema(writer)
    assert _converted(writer, encoded(old, writer), reader) == event()


def test_a_nullable_field_is_read_unless_it_is_null() -> None:
    """A union resolves by the branch that was written."""
    writer = _retyped(courses_started=["null", "int"])
    assert _converted(writer, encoded(event(), writer)) == event()
    with pytest.raises(DecodeError, match="does not resolve"):
        Resolution(writer, READER).convert(encoded(event(courses_started=None), writer))


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("courses_started", "boolean", True),
        ("courses_started", "double", 3.0),
        ("courses_started", "string", "3"),
        ("student_country", {"type": "enum", "name": "C", "symbols": ["US"]}, "US"),
        ("event_id", {"type": "fixed", "name": "F", "size": 2}, b"ab"),
    ],
)
def test_what_avro_does_not_promote_does_not_resolve(name: str, kind: Any, value: object) -> None:
    """A boolean is no number, an enum no string; the reason is one short line."""
    writer = _retyped(**{name: kind})
    with pytest.raises(DecodeError, match="does not resolve") as caught:
        Resolution(writer, READER).convert(encoded(event(**{name: value}), writer))
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)


def test_a_reason_stays_short_however_long_the_schemas_are() -> None:
    """The library's message repeats both schemas; a dead letter should not."""
    other = copy.deepcopy(definition())
    other["name"], other["doc"] = "Other", "long\n" * 5000
    writer = parse_schema(other)
    with pytest.raises(DecodeError) as caught:
        Resolution(writer, READER).convert(encoded(event(), writer))
    assert len(str(caught.value)) < 300


LENIENT = [
    pytest.param(["null", "string"], b"\x01", "union has no branch -1", id="union -1"),
    pytest.param(["null", "string"], b"\x04", "union has no branch 2", id="union 2"),
    pytest.param(ENUM, b"\x01", "enum has no symbol -1", id="enum -1"),
    pytest.param(ENUM, b"\x04", "enum has no symbol 2", id="enum 2"),
    pytest.param("boolean", b"\x02", "boolean is 2", id="boolean 2"),
    pytest.param("long", b"\x80" * 10 + b"\x00", "past 64 bits", id="11-byte varint"),
    pytest.param("long", b"\xff" * 9 + b"\x7f", "past 64 bits", id="70-bit varint"),
    pytest.param("int", b"\x80\x80\x80\x80\x20", "32 bits", id="wide int"),
    pytest.param("bytes", b"\x01", "negative length", id="negative length"),
    pytest.param("string", b"\x02\xff", "not UTF-8", id="bad UTF-8"),
    pytest.param("string", b"\x06\xed\xa0\x80", "not UTF-8", id="surrogate"),
    pytest.param({"type": "array", "items": "boolean"}, b"\x02\x02\x00", "boolean is 2", id="in an array"),
    pytest.param({"type": "map", "values": "int"}, b"\x02\x02\xff\x02\x00", "not UTF-8", id="map key"),
    pytest.param(
        {"type": "array", "items": "int"}, b"\x01\x04\x05\x00", "block says 2 bytes", id="block size"
    ),
]


@pytest.mark.parametrize(("kind", "field", "reason"), LENIENT)
def test_bytes_that_fastavro_would_let_pass_are_malformed(kind: Any, field: bytes, reason: str) -> None:
    """The walk is stricter than the library behind it, and names the field."""
    writer = _with(kind)
    with pytest.raises(DecodeError, match=reason) as caught:
        Resolution(writer, READER).convert(field + encoded(event()))
    assert str(caught.value).startswith("x0: ")


def test_blocks_with_their_size_are_read() -> None:
    """A negative count announces the block's size in bytes."""
    writer = _with({"type": "array", "items": "int"})
    assert _converted(writer, b"\x03\x04\x02\x04" + b"\x00" + encoded(event())) == event()


def test_bytes_left_over_are_counted() -> None:
    """The caller learns where the record ended."""
    writer = _with("int")
    record = b"\x02" + encoded(event())
    _, used = Resolution(writer, READER).convert(record + b"???")
    assert used == len(record)


@pytest.mark.parametrize("moment", [2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_a_time_that_no_calendar_holds_is_read(moment: int) -> None:
    """A timestamp stays the number that it is; nobody turns it into a date on the way."""
    schema = definition()
    schema["fields"][2]["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    schema["fields"].reverse()
    writer = parse_schema(schema)
    assert _converted(writer, encoded(event(occurred_at=moment), writer)) == event(occurred_at=moment)


@pytest.mark.parametrize(
    ("logical", "kind"),
    [
        ("date", "int"),
        ("time-micros", "long"),
        ("uuid", "string"),
        ("decimal", "bytes"),
        ("unheard-of", "int"),
    ],
)
def test_logical_types_of_unknown_fields_are_not_interpreted(logical: str, kind: str) -> None:
    """A date or decimal that cannot be one is none of our business."""
    writer = _with({"type": kind, "logicalType": logical, "precision": 2})
    plain = _with(kind)
    value: Any = {"int": 2**30, "long": 2**62, "string": "no uuid", "bytes": b"\x7f" * 400}[kind]
    assert _converted(writer, encoded(event() | {"x0": value}, plain)) == event()


@given(record=st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_converted_or_malformed(record: bytes) -> None:
    """No bytes make anything but a verdict."""
    writer = _with(NESTED, {"type": "array", "items": ["null", "int"]}, {"type": "map", "values": "bytes"})
    try:
        _, used = Resolution(writer, READER).convert(record)
    except DecodeError:
        return
    assert used <= len(record)


def test_the_field_that_breaks_is_named() -> None:
    """A person who debugs a producer is told where to look."""
    whole = encoded(event())
    assert (
        explain_decode_error(READER, named_types(READER), whole[:-1])
        == "minutes_spent_on_exams: the record ends early"
    )
    assert explain_decode_error(READER, named_types(READER), b"").startswith("event_id: ")
