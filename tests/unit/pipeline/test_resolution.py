"""Records of other writer schemas are read as Avro resolution says, and their bytes strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.resolution import Resolution, ResolutionError
from consumer.pipeline.walk import DecodeError, encode_long, explain_decode_error
from schemas.avro import AvroSchema
from schemas.repository import FOLDER
from tests.support.events import VALID_EVENTS, definition, encoded, event

READER = AvroSchema.parse(definition())


def _writer(change: Callable[[list[dict[str, Any]]], object]) -> AvroSchema:
    """Return the event schema with its list of fields changed."""
    schema = definition()
    change(schema["fields"])
    return AvroSchema.parse(schema)


def _with(*types: Any) -> AvroSchema:
    """Return the event schema with fields before its own: ``x0``, ``x1`` and so on."""
    return _writer(lambda fields: fields.__setitem__(slice(0, 0), _extra(*types)))


def _extra(*types: Any) -> list[dict[str, Any]]:
    return [{"name": f"x{i}", "type": kind} for i, kind in enumerate(types)]


def _retyped(**types: Any) -> AvroSchema:
    def change(fields: list[dict[str, Any]]) -> None:
        for field in fields:
            field["type"] = types.get(field["name"], field["type"])

    return _writer(change)


def _encoded(fields: dict[str, Any], writer: AvroSchema) -> bytes:
    return encoded(fields, parse_schema(writer.parsed))


def _converted(writer: AvroSchema, record: bytes, reader: AvroSchema = READER) -> dict[str, Any]:
    """Convert a record; return its fields in the reader's encoding, all bytes accounted for."""
    converted = Resolution(writer, reader).convert(record)
    assert converted.stop == len(record)
    assert not converted.nulls
    stream = BytesIO(converted.data)
    fields = cast("dict[str, Any]", schemaless_reader(stream, parse_schema(_plain(reader.parsed))))
    assert not stream.read()
    return fields


def _plain(node: Any) -> Any:
    """Leave logical types out, so that fastavro returns numbers."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if key != "logicalType"}
    return [_plain(one) for one in node] if isinstance(node, list) else node


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
    record = _encoded(event() | {f"x{i}": value for i, value in enumerate(values)}, writer)
    assert _converted(writer, record) == event()


@pytest.mark.parametrize("name", ["days_on_platform", "courses_started", "practice_exams_passed"])
def test_an_int_is_read_as_a_long(name: str) -> None:
    """Promotion int → long."""
    writer = _retyped(**{name: "int"})
    assert _converted(writer, _encoded(event(**{name: 2**31 - 1}), writer)) == event(**{name: 2**31 - 1})


@pytest.mark.parametrize(("kind", "value"), [("int", 7), ("long", 2**40), ("float", 0.5)])
def test_numbers_are_read_as_doubles(kind: str, value: float) -> None:
    """Promotion int, long, float → double."""
    writer = _retyped(minutes_watched=kind)
    assert _converted(writer, _encoded(event(minutes_watched=value), writer)) == event(
        minutes_watched=float(value)
    )


def test_bytes_are_read_as_a_string_if_they_are_utf8() -> None:
    """Promotion bytes → string, and its limit."""
    writer = _retyped(event_id="bytes")
    assert _converted(writer, _encoded(event(event_id="é".encode()), writer)) == event(event_id="é")
    with pytest.raises(DecodeError):
        Resolution(writer, READER).convert(_encoded(event(event_id=b"\xff"), writer))


@given(fields=VALID_EVENTS)
@settings(max_examples=30)
def test_fields_in_another_order_find_their_place(fields: dict[str, Any]) -> None:
    """Fields are matched by name."""
    writer = _writer(lambda own: own.reverse())
    assert encoded(_converted(writer, _encoded(fields, writer))) == encoded(fields)


def test_a_missing_field_takes_the_readers_default() -> None:
    """An older producer that knows nothing of a field is read, if the reader has a default."""
    writer = _writer(lambda fields: fields.pop())
    definition_ = definition()
    definition_["fields"][-1]["default"] = 0.5
    reader = AvroSchema.parse(definition_)
    assert _converted(writer, _encoded(event(), writer), reader) == event(minutes_spent_on_exams=0.5)


def test_a_missing_field_without_default_does_not_resolve() -> None:
    """We do not make up inputs."""
    writer = _writer(lambda fields: fields.pop())
    with pytest.raises(DecodeError, match="minutes_spent_on_exams"):
        Resolution(writer, READER).convert(_encoded(event(), writer))


def test_a_renamed_field_is_found_by_its_alias() -> None:
    """The reader lists what a field was once called."""
    writer = _writer(lambda fields: fields[5].update(name="minutes"))
    reader = _writer(lambda fields: fields[5].update(aliases=["minutes"]))
    old = event()
    old["minutes"] = old.pop("minutes_watched")
    assert _converted(writer, _encoded(old, writer), reader) == event()


def test_a_nullable_field_is_read_and_its_null_is_reported() -> None:
    """A union resolves by the branch that was written; a null has an empty value in its place."""
    writer = _retyped(courses_started=["null", "int"], student_country=["string", "null"])
    assert _converted(writer, _encoded(event(), writer)) == event()
    nulls = _encoded(event(courses_started=None, student_country=None), writer)
    converted = Resolution(writer, READER).convert(nulls)
    assert converted.nulls == ("student_country", "courses_started")
    assert converted.data == encoded(event(courses_started=0, student_country=""))


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
    """A boolean is no number, an enum no string; the reason names the field, its type and what is needed."""
    writer = _retyped(**{name: kind})
    sent = kind if isinstance(kind, str) else f"purchase_stream.{kind['name']}"
    needed = "string" if name in ("student_country", "event_id") else "long"
    with pytest.raises(ResolutionError, match=f"^{name}: {sent} where a {needed} is needed$"):
        Resolution(writer, READER).convert(_encoded(event(**{name: value}), writer))
    both = _retyped(**{name: [kind, needed]})
    with pytest.raises(ResolutionError, match=f"^{name}: {sent} where a {needed} is needed$"):
        Resolution(both, READER).convert(_encoded(event(**{name: value}), both))


def test_a_record_of_another_name_does_not_resolve() -> None:
    """The reason says which name is needed, in one short line."""
    other = definition() | {"name": "Other", "doc": "long\n" * 5000}
    writer = AvroSchema.parse(other)
    with pytest.raises(
        ResolutionError, match=r"^the record is named purchase_stream\.Other, not EngagementEvent"
    ):
        Resolution(writer, READER).convert(_encoded(event(), writer))


TIMES = AvroSchema.parse(json.loads((FOLDER / "engagement_event.avsc").read_text("utf-8")))


@pytest.mark.parametrize(
    ("logical", "kind", "sent", "read"),
    [
        ("timestamp-millis", "long", 1_700_000_000_123, 1_700_000_000_123),
        ("local-timestamp-millis", "long", 1_700_000_000_123, 1_700_000_000_123),
        ("timestamp-micros", "long", 1_700_000_000_123_999, 1_700_000_000_123),
        ("local-timestamp-micros", "long", -1, -1),
        ("timestamp-nanos", "long", 1_700_000_000_123_999_999, 1_700_000_000_123),
        ("local-timestamp-nanos", "long", 2**63 - 1, (2**63 - 1) // 10**6),
        ("date", "int", 19_675, 1_699_920_000_000),
        ("timestamp-micros", "int", 5, 5),
        ("date", "long", 19_675, 19_675),
        ("unheard-of", "long", 7, 7),
    ],
)
def test_a_time_in_another_unit_becomes_milliseconds(logical: str, kind: str, sent: int, read: int) -> None:
    """A logical type that does not belong to its type is ignored, as the specification says."""
    writer = _retyped(occurred_at={"type": kind, "logicalType": logical})
    record = encoded(event(occurred_at=sent), parse_schema(_plain(writer.parsed)))
    assert _converted(writer, record, TIMES) == event(occurred_at=read)


@pytest.mark.parametrize(
    ("name", "kind", "logical", "needed"),
    [
        ("occurred_at", "int", "time-millis", "timestamp in milliseconds"),
        ("occurred_at", "long", "time-micros", "timestamp in milliseconds"),
        ("days_on_platform", "long", "timestamp-millis", "plain long"),
        ("days_on_platform", "int", "date", "plain long"),
        ("minutes_watched", "long", "time-micros", "plain double"),
        ("student_id", "bytes", "decimal", "plain string"),
    ],
)
def test_a_measure_that_is_no_plain_value_is_refused(name: str, kind: str, logical: str, needed: str) -> None:
    """It would be read as a wrong number, and nobody would notice."""
    writer = _retyped(**{name: {"type": kind, "logicalType": logical, "precision": 4}})
    resolution = Resolution(writer, TIMES)
    assert resolution.problem == f"{name}: {logical} where a {needed} is needed"


def test_the_readers_encoding_is_recognised() -> None:
    """Whatever the name, the namespace and what is documented; not with another unit, order or type."""
    fields = definition()["fields"]
    elsewhere = {"type": "record", "name": "com.shop.EngagementEvent", "doc": "d", "fields": fields}
    assert Resolution(AvroSchema.parse(elsewhere), TIMES).is_identity
    assert Resolution(TIMES, READER).is_identity is False
    for changed in (
        _retyped(days_on_platform="int"),
        _retyped(event_id=["string"]),
        _writer(lambda own: own.reverse()),
        _retyped(occurred_at={"type": "long", "logicalType": "timestamp-micros"}),
    ):
        assert not Resolution(changed, TIMES).is_identity


def test_a_union_of_records_is_read_by_the_branch_that_was_written() -> None:
    """Ours is read, the other is refused with its name."""
    other = {"type": "record", "name": "purchase_stream.Login", "fields": _extra("string")}
    writer = AvroSchema.parse([other, definition()])
    resolution = Resolution(writer, READER)
    assert resolution.problem == ""
    assert _converted(writer, b"\x02" + encoded(event())) == event()
    with pytest.raises(ResolutionError, match=r"the record is named purchase_stream\.Login"):
        resolution.convert(b"\x00\x02a")
    with pytest.raises(DecodeError, match="union has no branch 2"):
        resolution.convert(b"\x04")


def test_recursion_in_a_field_that_is_not_read_is_stepped_over() -> None:
    """To a depth that no honest record has; deeper ones are malformed, and end no process."""
    comment = {"type": "record", "name": "Comment", "fields": [{"name": "x0", "type": ["null", "Comment"]}]}
    writer = _with(comment)
    for depth in (1, 10, 30):
        nested = b"\x02" * depth + b"\x00"
        assert _converted(writer, nested + encoded(event())) == event()
    with pytest.raises(DecodeError, match="nests deeper"):
        Resolution(writer, READER).convert(b"\x02" * 100_000 + b"\x00" + encoded(event()))


EMPTY = {"type": "record", "name": "Empty", "fields": []}


def _chained(length: int, leaf: str) -> dict[str, Any]:
    """Return a record of types that each hold the one before twice, by its name."""
    fields: list[dict[str, Any]] = _extra({"type": "record", "name": "T0", "fields": _extra(leaf)})
    for n in range(1, length):
        inner = {"type": "record", "name": f"T{n}", "fields": _extra(f"T{n - 1}", f"T{n - 1}")}
        fields.append({"name": f"y{n}", "type": inner})
    return {"type": "record", "name": "Top", "fields": fields}


@pytest.mark.parametrize(
    "kind",
    ["null", EMPTY, {"type": "fixed", "name": "F", "size": 0}, _chained(40, "null")],
    ids=["null", "empty record", "fixed 0", "a billion nulls"],
)
def test_items_without_bytes_take_no_time(kind: Any) -> None:
    """A count of 2e18 in ten bytes, of items that are nothing."""
    count = encode_long(2 * 10**18)
    writer = _with({"type": "array", "items": kind}, kind if isinstance(kind, str) else kind["name"])
    assert _converted(writer, count + b"\x00" + encoded(event())) == event()


def test_a_record_of_a_billion_values_ends_with_its_bytes() -> None:
    """Each value takes at least a byte, so the walk is no longer than the record."""
    writer = _with(_chained(40, "int"))
    with pytest.raises(DecodeError, match="ends early"):
        Resolution(writer, READER).convert(bytes(1000))


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
        {"type": "array", "items": "int"},
        b"\x01\x04\x05\x00",
        "block of the array says 2 bytes",
        id="block size",
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
    assert Resolution(writer, READER).convert(record + b"???").stop == len(record)


@pytest.mark.parametrize("moment", [2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_a_time_that_no_calendar_holds_is_read(moment: int) -> None:
    """A timestamp stays a number and is never converted to a date."""
    schema = definition()
    schema["fields"][2]["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    schema["fields"].reverse()
    writer = AvroSchema.parse(schema)
    record = encoded(event(occurred_at=moment), parse_schema(_plain(writer.parsed)))
    assert _converted(writer, record, TIMES) == event(occurred_at=moment)


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
    """An invalid date or decimal in a field that is not read is ignored."""
    writer = _with({"type": kind, "logicalType": logical, "precision": 2})
    plain = _with(kind)
    value: Any = {"int": 2**30, "long": 2**62, "string": "no uuid", "bytes": b"\x7f" * 400}[kind]
    assert _converted(writer, _encoded(event() | {"x0": value}, plain)) == event()


@given(record=st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_converted_or_malformed(record: bytes) -> None:
    """No bytes make anything but a verdict."""
    writer = _with(NESTED, {"type": "array", "items": ["null", "int"]}, {"type": "map", "values": "bytes"})
    try:
        converted = Resolution(writer, READER).convert(record)
    except DecodeError:
        return
    assert converted.stop <= len(record)


def test_the_field_that_breaks_is_named() -> None:
    """The reason says where to look in the producer."""
    whole = encoded(event())
    assert explain_decode_error(READER, whole[:-1]) == "minutes_spent_on_exams: the record ends early"
    assert explain_decode_error(READER, b"").startswith("event_id: ")
