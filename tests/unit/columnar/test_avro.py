"""The columnar decoder agrees with fastavro on values and with the strict walk on validity."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.columnar.avro import PAD, Columns, decode_columns, field_plan
from consumer.pipeline.resolution import Resolution
from consumer.pipeline.walk import DecodeError
from schemas.avro import AvroSchema
from tests.support.events import INT64, VALID_EVENTS, definition, encoded, event

_VALUES = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": INT64,
    "string": st.text(max_size=20),
    "double": st.floats(allow_nan=False),
    "float": st.floats(width=32, allow_nan=False),
    "boolean": st.booleans(),
}
_EVENT = parse_schema(definition())


def parsed(schema: dict[str, Any]) -> dict[str, Any]:
    """Parse the schema of a record."""
    return cast("dict[str, Any]", parse_schema(schema))


def _schema(kinds: list[str]) -> Any:
    fields = [{"name": f"f{i}", "type": kind} for i, kind in enumerate(kinds)]
    return parse_schema({"type": "record", "name": "R", "fields": fields})


def _decode(schema: Any, records: list[bytes]) -> Columns:
    ends = np.cumsum([len(record) for record in records], dtype=np.int64)
    begins = ends - np.array([len(record) for record in records], np.int64)
    return decode_columns(field_plan(schema), b"".join((*records, PAD)), begins, ends)


def _row(schema: Any, columns: Columns, i: int) -> dict[str, Any]:
    """Return one record's fields as plain values."""
    fields = {}
    for j, (name, _) in enumerate(field_plan(schema)):
        if name in columns.texts:
            fields[name] = columns.data[columns.texts[name][i] : columns.starts[i, j + 1]].decode()
        else:
            fields[name] = columns.numbers[name][i].item()
    return fields


def _bits(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with each double as its bits, so that -0.0 is not 0.0."""
    return {k: struct.pack("<d", v) if isinstance(v, float) else v for k, v in fields.items()}


def _accepted_by_the_walk(schema: Any, record: bytes) -> bool:
    own = AvroSchema.parse(schema)
    try:
        return Resolution(own, own).convert(record).stop == len(record)
    except DecodeError:
        return False


@given(events=st.lists(VALID_EVENTS, max_size=5))
@settings(max_examples=60)
def test_events_decode_to_what_was_encoded(events: list[dict[str, Any]]) -> None:
    """Every field of every event comes back, to the last bit."""
    columns = _decode(_EVENT, [encoded(fields) for fields in events])
    assert not columns.malformed.any()
    assert not columns.trailing.any()
    assert [_bits(_row(_EVENT, columns, i)) for i in range(len(events))] == [_bits(e) for e in events]


@given(data=st.data(), kinds=st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=6))
@settings(max_examples=120)
def test_records_of_any_primitive_schema_decode(data: st.DataObject, kinds: list[str]) -> None:
    """The decoder handles any primitive fields in any order."""
    schema = _schema(kinds)
    record = st.fixed_dictionaries({f"f{i}": _VALUES[kind] for i, kind in enumerate(kinds)})
    records = data.draw(st.lists(record, max_size=4))
    columns = _decode(schema, [encoded(fields, schema) for fields in records])
    assert not columns.malformed.any()
    assert not columns.trailing.any()
    assert [_bits(_row(schema, columns, i)) for i in range(len(records))] == [_bits(r) for r in records]


@st.composite
def _mangled(draw: st.DrawFn, record: bytes) -> bytes:
    """Change, cut out or insert a few bytes."""
    data = bytearray(record)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 2))
        data[at : at + cut] = draw(st.binary(max_size=3) | st.just(b"\x80" * 9))
    return bytes(data)


@given(data=st.data(), kinds=st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=5))
@settings(max_examples=250)
def test_the_decoder_accepts_exactly_what_the_strict_walk_accepts(
    data: st.DataObject, kinds: list[str]
) -> None:
    """For any bytes: both read them to the end and agree on the values, or both refuse them."""
    schema = _schema(kinds)
    record = st.fixed_dictionaries({f"f{i}": _VALUES[kind] for i, kind in enumerate(kinds)})
    neighbour = encoded(data.draw(record), schema)
    mangled = data.draw(_mangled(neighbour) | st.binary(max_size=40))
    columns = _decode(schema, [neighbour, mangled, neighbour])
    bad = columns.malformed | columns.trailing
    assert bad.tolist() == [False, not _accepted_by_the_walk(schema, mangled), False]
    assert not (columns.malformed & columns.trailing).any()
    assert _bits(_row(schema, columns, 0)) == _bits(_row(schema, columns, 2))
    if not bad[1]:
        fields = cast("dict[str, Any]", schemaless_reader(BytesIO(mangled), schema))
        assert _bits(_row(schema, columns, 1)) == _bits(fields)


def test_an_event_cut_at_any_byte_is_malformed_and_its_neighbours_are_not() -> None:
    """No truncation goes unnoticed, and none reaches into the next record."""
    whole = encoded(event(student_country="Île-de-France", days_on_platform=2**62))
    cuts = [whole[:n] for n in range(len(whole))]
    records = [record for cut in cuts for record in (whole, cut)] + [whole]
    columns = _decode(_EVENT, records)
    assert columns.malformed.tolist() == [False, True] * len(cuts) + [False]
    assert not columns.trailing.any()
    rows = [_row(_EVENT, columns, i) for i in range(0, len(records), 2)]
    assert all(row == event(student_country="Île-de-France", days_on_platform=2**62) for row in rows)


@pytest.mark.parametrize("n_bytes", [1, 7, 300])
def test_bytes_after_a_record_are_trailing(n_bytes: int) -> None:
    """A record with bytes left over is told apart from one that cannot be read."""
    whole = encoded(event())
    columns = _decode(_EVENT, [whole, whole + bytes(n_bytes), whole])
    assert columns.trailing.tolist() == [False, True, False]
    assert not columns.malformed.any()
    assert columns.starts[1, -1] == 2 * len(whole)


def _varint(value: int) -> bytes:
    return encoded({"f0": value}, _schema(["long"]))


_TOO_LONG = b"\x80" * 10 + b"\x00"


@pytest.mark.parametrize(
    ("kind", "record", "value"),
    [
        ("long", b"\x82\x00", 1),
        ("long", b"\x82" + b"\x80" * 6 + b"\x00", 1),
        ("long", b"\x82" + b"\x80" * 8 + b"\x00", 1),
        ("long", b"\xff" * 9 + b"\x01", -(2**63)),
        ("long", b"\xfe" + b"\xff" * 8 + b"\x01", 2**63 - 1),
        ("long", b"\xff" * 9 + b"\x02", None),
        ("long", _TOO_LONG, None),
        ("long", b"\x80" * 10, None),
        ("long", b"\x80" * 9, None),
        ("long", b"", None),
        ("int", _varint(2**31 - 1), 2**31 - 1),
        ("int", _varint(-(2**31)), -(2**31)),
        ("int", _varint(2**31), None),
        ("int", _varint(-(2**31) - 1), None),
        ("boolean", b"\x01", True),
        ("boolean", b"\x02", None),
        ("boolean", b"\xff", None),
        ("string", b"\x00", ""),
        ("string", b"\x84\x00ab", "ab"),
        ("string", _varint(-1), None),
        ("string", _varint(-(2**63)), None),
        ("string", _varint(2**40), None),
        ("string", _varint(2**63 - 1) + b"ab", None),
        ("string", _TOO_LONG, None),
        ("string", b"\x04\xc3\xa9", "é"),
        ("string", b"\x02\xff", None),
        ("string", b"\x02\xc3", None),
        ("string", b"\x04\xc0\x80", None),
        ("string", b"\x06\xed\xa0\x80", None),
        ("string", b"\x0c\xed\xa0\xbd\xed\xb8\x80", None),
        ("string", b"\x08\xf4\x90\x80\x80", None),
        ("double", b"\x00" * 7, None),
        ("float", b"\x00\x00\x80\x7f", float("inf")),
        ("float", b"\x00" * 3, None),
    ],
)
def test_every_edge_of_the_encoding(kind: str, record: bytes, value: object) -> None:
    """Over-long but 64-bit varints are read; whatever the specification does not allow is malformed."""
    schema = _schema([kind])
    neighbour = encoded({"f0": {"string": "é", "boolean": True}.get(kind, 1)}, schema)
    columns = _decode(schema, [neighbour, record, neighbour])
    assert columns.malformed.tolist() == [False, value is None, False]
    assert not columns.trailing.any()
    if value is not None:
        assert _row(schema, columns, 1) == {"f0": value}
    assert _accepted_by_the_walk(schema, record) == (value is not None)


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 50, b"\x80" * 12, bytes(50)])
def test_bad_records_leave_their_neighbours_columns_bit_equal(garbage: bytes) -> None:
    """The columns of good records stay the same."""
    records = [
        encoded(event(days_on_platform=n, minutes_watched=n / 3, event_id="é" * (n + 1))) for n in range(50)
    ]
    alone = _decode(_EVENT, records)
    mixed = _decode(_EVENT, [r for record in records for r in (garbage, record)])
    assert mixed.malformed.tolist() == [True, False] * 50 or garbage == bytes(50)
    for name, column in alone.numbers.items():
        assert mixed.numbers[name][1::2].tobytes() == column.tobytes()
    for name, begins in alone.texts.items():
        assert len(mixed.texts[name][1::2]) == len(begins)
    assert [_row(_EVENT, mixed, 2 * i + 1) for i in range(50)] == [_row(_EVENT, alone, i) for i in range(50)]


def test_no_records_decode_to_empty_columns() -> None:
    """An empty batch is a batch."""
    columns = _decode(_EVENT, [])
    assert columns.starts.shape == (0, 11)
    assert all(column.shape == (0,) for column in [*columns.numbers.values(), *columns.texts.values()])
    assert columns.malformed.shape == columns.trailing.shape == (0,)


@given(bits=st.integers(0, 2**64 - 1))
@example(bits=0x7FF0000000000001)
@example(bits=0x8000000000000000)
@settings(max_examples=50)
def test_doubles_keep_all_their_bits(bits: int) -> None:
    """Signs of zero and payloads of NaN included."""
    record = bits.to_bytes(8, "little")
    assert _decode(_schema(["double"]), [record]).numbers["f0"].tobytes() == record


def test_a_signalling_nan_is_read_without_a_warning() -> None:
    """Warnings are errors here, and noise in production; a producer chooses these bytes."""
    columns = _decode(_schema(["float"]), [b"\x01\x00\x80\x7f"])
    assert np.isnan(columns.numbers["f0"]).all()
    assert not columns.malformed.any()


def test_a_nested_record_is_flattened_in_wire_order() -> None:
    """Predictions are decoded with the same columns, their features by dotted names."""
    assert field_plan(parsed(definition("purchase_prediction")))[-2:] == [
        ("features.practice_exams_passed", "long"),
        ("features.minutes_spent_on_exams", "double"),
    ]


@pytest.mark.parametrize("kind", ["null", "bytes", ["null", "int"], {"type": "array", "items": "int"}])
def test_a_schema_beyond_primitives_has_no_plan(kind: object) -> None:
    """The error names the field."""
    schema = parsed({"type": "record", "name": "R", "fields": [{"name": "odd", "type": kind}]})
    with pytest.raises(ValueError, match="field odd"):
        field_plan(schema)
