"""Schemas are parsed as strictly as the specification asks, and refused in our own words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro import MAX_DEPTH, AvroSchema, SchemaError


def record(*types: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    """Return a record with fields ``f0``, ``f1`` and so on."""
    fields = [{"name": f"f{i}", "type": kind} for i, kind in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields, **more}


def field(**attributes: Any) -> dict[str, Any]:
    """Return a record with one field."""
    return {"type": "record", "name": "R", "fields": [{"name": "f", "type": "int"} | attributes]}


def enum(*symbols: Any, **more: Any) -> dict[str, Any]:
    """Return a record with an enum."""
    return record({"type": "enum", "name": "E", "symbols": list(symbols), **more})


def nested(levels: int) -> Any:
    """Return an int inside this many arrays."""
    kind: Any = "int"
    for _ in range(levels):
        kind = {"type": "array", "items": kind}
    return kind


FIXED = {"type": "fixed", "name": "F", "size": 4}

BROKEN = [
    (5, "5 is not a schema"),
    (None, "null is not a schema"),
    ({}, "{} has no type"),
    ({"type": 5}, "5 is not the name of a type"),
    ({"type": ["null", "int"]}, "a union stands where the name of a type is needed"),
    ("nonsense", 'the type "nonsense" is not defined'),
    (record("Nonsense"), 'the type "Nonsense" is not defined'),
    (record({"type": "array"}), "R.f0: the array has no items"),
    (record({"type": "map"}), "R.f0: the map has no values"),
    ({"type": "record", "name": "R"}, "R has no list of fields"),
    ({"type": "record", "name": "R", "fields": {}}, "R has no list of fields"),
    ({"type": "record", "fields": []}, "the record has no name"),
    ({"type": "record", "name": "R\ud800", "fields": []}, "is not a valid name"),
    ({"type": "record", "name": "9", "fields": []}, '"9" is not a valid name'),
    ({"type": "record", "name": "a..b", "fields": []}, '"a..b" is not a valid name'),
    ({"type": "record", "name": "R", "namespace": 5, "fields": []}, "has the namespace 5"),
    ({"type": "record", "name": "string", "fields": []}, "string is the name of a primitive type"),
    (record("int", aliases="A"), "R has aliases that are not a list of names"),
    (field(name="a-b"), 'R has a field without a valid name: "a-b"'),
    (field(name=None), "R has a field without a valid name"),
    ({"type": "record", "name": "R", "fields": [5]}, "R has a field without a valid name: 5"),
    ({"type": "record", "name": "R", "fields": [{"name": "f"}]}, "R.f has no type"),
    ({"type": "record", "name": "R", "fields": [{"name": "f", "type": "int"}] * 2}, "two fields named f"),
    (field(order="random"), 'R.f has the order "random"'),
    (field(aliases=["a b"]), "R.f has aliases"),
    (field(default="1"), 'R.f has the default "1", which is not int'),
    (field(default=2**31), "which is not int"),
    (field(default=True), "which is not int"),
    (field(type=["null", "int"], default="x"), "which is not null or int"),
    (field(type={"type": "map", "values": "int"}, default={"a": None}), "R.f has the default"),
    (record(["int", "int"]), "R.f0: a union contains int twice"),
    (record(["int", ["null"]]), "R.f0: a union contains a union"),
    (record([]), "R.f0: a union has no branch"),
    (record([{"type": "array", "items": "int"}, {"type": "array", "items": "long"}]), "array twice"),
    (record(FIXED, FIXED), "R.f1: F is defined twice"),
    (record(record("int", name="R")), "R.f0: R is defined twice"),
    (record({"type": "fixed", "name": "F", "size": -1}), "the fixed F has the size -1"),
    (record({"type": "fixed", "name": "F", "size": "4"}), 'the fixed F has the size "4"'),
    (record({"type": "fixed", "name": "F"}), "the fixed F has the size null"),
    (enum(), "the enum E has no list of symbols"),
    (enum("A", "A"), "the enum E has the symbol A twice"),
    (enum("a b"), 'the enum E has the symbol "a b"'),
    (enum(5), "the enum E has the symbol 5"),
    (enum("A", default="B"), 'the default of the enum E, "B", is not one of its symbols'),
    (record(nested(MAX_DEPTH)), "nests deeper than 64 levels"),
    (nested(5000), "nests deeper than 64 levels"),
]


@pytest.mark.parametrize(("definition", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_what_breaks_the_specification_is_refused(definition: Any, reason: str) -> None:
    """For every fault in a registry or a file, the error is our own and says what is wrong."""
    with pytest.raises(SchemaError) as caught:
        AvroSchema.parse(definition)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200


VALID = [
    "string",
    ["null", "string"],
    {"type": "array", "items": "int"},
    {"type": "enum", "name": "E", "symbols": ["A"]},
    record({"type": "int"}, {"type": "string", "avro.java.string": "String"}),
    record("int", name="a.b.R", namespace="ignored"),
    record(record("int", name="Inner"), "Inner", ["null", "Inner"], namespace="a.b"),
    record(["null", "R"], {"type": "map", "values": "R"}),
    record(FIXED, "F", {"type": "enum", "name": "x.E", "symbols": ["A", "B"], "default": "A"}, "x.E"),
    record({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}),
    record({"type": "long", "logicalType": "timestamp-micros"}, {"type": "string", "logicalType": "uuid"}),
    field(type=["null", "int"], default=None, aliases=["old"], order="ignore", doc="d"),
    field(type={"type": "array", "items": "int"}, default=[1, 2]),
    field(type="double", default=1),
    record(nested(MAX_DEPTH - 2)),
]


@pytest.mark.parametrize("definition", VALID, ids=range(len(VALID)))
def test_a_valid_schema_has_the_canonical_form_of_fastavro(definition: Any) -> None:
    """And its fingerprint; what was parsed is a schema of the same form."""
    ours = AvroSchema.parse(definition)
    expected = to_parsing_canonical_form(parse_schema(definition))
    assert json.loads(ours.canonical) == json.loads(expected)
    assert ours.canonical == expected
    assert ours.fingerprint.hex() == fingerprint(expected, "CRC-64-AVRO")
    assert AvroSchema.parse(ours.parsed).canonical == ours.canonical


def test_an_empty_namespace_is_none() -> None:
    """Also inside a record that has one; fastavro would inherit it."""
    schema = AvroSchema.parse(record(record("int", name="Inner", namespace=""), "Inner", namespace="a"))
    assert list(schema.named) == ["a.R", "Inner"]


def test_a_type_inside_a_type_is_that_type() -> None:
    """Some generators write it so."""
    assert AvroSchema.parse({"type": {"type": "int"}}).canonical == AvroSchema.parse("int").canonical


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["int", "record", "R", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "fields", "items", "values", "symbols", "size", "default"]),
            inner,
        )
    ),
)


@given(_JSON)
def test_any_json_is_a_schema_or_refused(definition: Any) -> None:
    """No JSON value makes anything but a verdict."""
    try:
        AvroSchema.parse(definition)
    except SchemaError:
        return
