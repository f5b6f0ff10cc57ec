"""Schemas that would let a few bytes exhaust the reader are refused when they are loaded."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import SchemaError
from schemas.repository import AvroSchema
from schemas.safety import MAX_DEPTH


def _record(*types: Any, name: str = "R") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{i}", "type": kind} for i, kind in enumerate(types)],
    }


def _nested(levels: int) -> Any:
    """Return a record with arrays inside each other: an int that many levels below it."""
    kind: Any = "int"
    for _ in range(levels - 1):
        kind = {"type": "array", "items": kind}
    return _record(kind)


def _chained(length: int, leaf: str, times: int) -> Any:
    """Return a flat record of types that each hold the one before, by its name, so many times."""
    first = _record(leaf, name="T0")
    return _record(
        first, *(_record(*[f"T{n - 1}"] * times, name=f"T{n}") for n in range(1, length)), name="Top"
    )


EMPTY = _record(name="Empty")


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        pytest.param(_record(["null", "R"]), "recursive", id="a list of itself"),
        pytest.param(
            _record(_record({"type": "array", "items": "R"}, name="I")), "recursive", id="by way of"
        ),
        pytest.param(_record({"type": "map", "values": "R"}), "recursive", id="a map of itself"),
        pytest.param(_record({"type": "array", "items": "null"}), "no bytes", id="array of null"),
        pytest.param(_record({"type": "array", "items": EMPTY}), "no bytes", id="array of empty records"),
        pytest.param(
            _record(EMPTY, {"type": "array", "items": "Empty"}), "no bytes", id="array of empty, by name"
        ),
        pytest.param(
            _record({"type": "array", "items": _record("null", EMPTY, name="N")}),
            "no bytes",
            id="nulls inside",
        ),
        pytest.param(
            _record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
            "no bytes",
            id="array of fixed 0",
        ),
        pytest.param(_nested(MAX_DEPTH + 1), "deeper than 32", id="33 levels"),
        pytest.param(_chained(60, "int", 1), "deeper than 32", id="deep by names"),
        pytest.param(_chained(30, "null", 2), "more than 1000 values", id="a billion laughs"),
        pytest.param(_record({"type": "fixed", "name": "F", "size": -1}), "negative size", id="fixed of -1"),
    ],
)
def test_an_unsafe_schema_is_refused(definition: Any, reason: str) -> None:
    """The error says what is unsafe about it."""
    with pytest.raises(SchemaError, match=reason):
        AvroSchema.parse(definition)


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param(_nested(MAX_DEPTH), id="32 levels"),
        pytest.param(_record("null", EMPTY, {"type": "map", "values": "null"}), id="nulls outside arrays"),
        pytest.param(_record({"type": "array", "items": ["null", "int"]}), id="array of nullable"),
        pytest.param(_record(_record("int", name="I"), "I", {"type": "array", "items": "I"}), id="by name"),
        pytest.param(_record({"type": "enum", "name": "E", "symbols": ["A"]}, "E"), id="enum by name"),
        pytest.param(_record({"type": "fixed", "name": "F", "size": 4}, "F"), id="fixed by name"),
    ],
)
def test_an_honest_schema_is_accepted(definition: Any) -> None:
    """Nesting, nulls and names are no offence by themselves."""
    assert AvroSchema.parse(definition).name == "R"
