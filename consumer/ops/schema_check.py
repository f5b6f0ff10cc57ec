"""Can records of a platform's schema be read as ours? Each field is tried out with the stream's own code."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer

from consumer.pipeline.resolution import DecodeError, Resolution
from schemas.repository import AvroSchema

_UNITS: Final = {"timestamp-millis", "local-timestamp-millis", None}
"""Logical types of a long that is milliseconds, or may be."""


class SchemaComparison(StrEnum):
    """Whether values of a field can be read as ours."""

    YES = "ok"
    SOME = "some"
    NO = "no"


@dataclass(frozen=True, slots=True)
class FieldVerdict:
    """What becomes of one of our fields, or of the record as a whole.

    Attributes:
        field: its name; the record's own for the whole.
        verdict: whether it can be read.
        what: why, or from what.
    """

    field: str
    verdict: SchemaComparison
    what: str


def compare_schemas(writer: AvroSchema, reader: AvroSchema) -> list[FieldVerdict]:
    """Tell for every field of the reader's whether it can be had from the writer's records.

    Args:
        writer: the platform's schema.
        reader: ours.
    """
    found = [_field(writer, reader, field) for field in reader.parsed["fields"]]
    if all(one.verdict is not SchemaComparison.NO for one in found):
        found += _whole(writer, reader)
    return found


def unread(writer: AvroSchema, reader: AvroSchema) -> list[str]:
    """Return the fields of the writer's that nobody reads here."""
    wanted = {
        name for field in reader.parsed["fields"] for name in (field["name"], *field.get("aliases", ()))
    }
    return [field["name"] for field in writer.parsed["fields"] if field["name"] not in wanted]


def _field(writer: AvroSchema, reader: AvroSchema, field: dict[str, Any]) -> FieldVerdict:
    name = field["name"]
    match = _match(writer, field)
    if match is None:
        if "default" in field:
            return FieldVerdict(name, SchemaComparison.YES, f"missing: always {field['default']!r}")
        theirs = [one["name"] for one in writer.parsed["fields"]]
        near = difflib.get_close_matches(name, theirs, 1)
        hint = f"; is it {near[0]}?" if near else ""
        return FieldVerdict(name, SchemaComparison.NO, f"missing, and ours has no default{hint}")
    unit = _logical(match["type"])
    if (_logical(field["type"]) or "").startswith("timestamp") and unit not in _UNITS:
        return FieldVerdict(name, SchemaComparison.NO, f"{unit} would be read as milliseconds")
    told = "" if match["name"] == name else f"from {match['name']}, "
    branches, readable = _branches(match), _readable(writer, reader, field, match)
    failed = [_name(branch) for branch in branches if branch not in readable]
    kinds = " or ".join(_name(branch) for branch in branches)
    if not readable:
        return FieldVerdict(
            name, SchemaComparison.NO, f"{told}{kinds} cannot be read as {_name(field['type'])}"
        )
    if failed:
        lost = " or ".join(failed)
        return FieldVerdict(
            name, SchemaComparison.SOME, f"{told}{kinds}; {lost} ends as a dead letter (undecodable)"
        )
    ours = _name(field["type"])
    return FieldVerdict(
        name, SchemaComparison.YES, f"{told}{kinds}" + ("" if kinds == ours else f" as {ours}")
    )


def _match(writer: AvroSchema, field: dict[str, Any]) -> dict[str, Any] | None:
    """Return the writer's field that one of ours is read from."""
    theirs: dict[str, dict[str, Any]] = {one["name"]: one for one in writer.parsed["fields"]}
    return next((theirs[n] for n in (field["name"], *field.get("aliases", ())) if n in theirs), None)


def _branches(field: dict[str, Any]) -> list[Any]:
    kind = field["type"]
    return kind if isinstance(kind, list) else [kind]


def _readable(
    writer: AvroSchema, reader: AvroSchema, field: dict[str, Any], match: dict[str, Any]
) -> list[Any]:
    """Return the branches of the writer's field that can be read as ours."""
    # The record's own name is left to the whole: here it should not hide what the field is like.
    only_this = {**reader.parsed, "name": writer.parsed["name"], "fields": [field]}
    return [b for b in _branches(match) if _why_not(writer, only_this, {match["name"]: b}) is None]


def _whole(writer: AvroSchema, reader: AvroSchema) -> Iterator[FieldVerdict]:
    """Notice what no single field shows, such as another name of the record."""
    chosen = {}
    for field in reader.parsed["fields"]:
        match = _match(writer, field)
        if match is not None:
            chosen[match["name"]] = _readable(writer, reader, field, match)[0]
    why = _why_not(writer, reader.parsed, chosen)
    if why is None:
        return
    ours, theirs = (schema.name.rpartition(".")[2] for schema in (reader, writer))
    if ours != theirs:
        why = f"the record is named {theirs}, and ours {ours}: Avro reads only records of the same name"
    yield FieldVerdict(writer.name, SchemaComparison.NO, why)


def _why_not(writer: AvroSchema, reader: Any, chosen: dict[str, Any]) -> str | None:
    """Write a record with these branches, and say why it cannot be read, or ``None``."""
    named: dict[str, Any] = {}
    value = {
        field["name"]: _sample(chosen.get(field["name"], field["type"]), named)
        for field in writer.parsed["fields"]
    }
    schema = parse_schema(_plain(writer.parsed))
    out = BytesIO()
    schemaless_writer(out, schema, value)
    try:
        Resolution(writer.parsed, reader).convert(out.getvalue())
    except DecodeError as malformed:
        return str(malformed)
    return None


def _sample(node: Any, named: dict[str, Any]) -> Any:  # noqa: C901, PLR0911, PLR0912 - one branch per Avro type
    """Return some value of a type."""
    if isinstance(node, list):
        return _sample(node[-1], named)
    kind = node if isinstance(node, str) else node["type"]
    if isinstance(kind, dict | list):
        return _sample(kind, named)
    if isinstance(node, dict) and "name" in node:
        named[node["name"]] = node
    if kind in named and kind not in ("record", "enum", "fixed"):
        return _sample(named[kind], named)
    match kind:
        case "null":
            return None
        case "boolean":
            return True
        case "int" | "long":
            return 1
        case "float" | "double":
            return 1.5
        case "bytes":
            return b"x"
        case "fixed":
            return bytes(node["size"])
        case "enum":
            return node["symbols"][0]
        case "array":
            return [_sample(node["items"], named)]
        case "map":
            return {"k": _sample(node["values"], named)}
        case "record" | "error":
            return {field["name"]: _sample(field["type"], named) for field in node["fields"]}
    return "x"


def _logical(node: Any) -> str | None:
    """Return the logical type of a field, of any branch of a union."""
    if isinstance(node, list):
        return next((logical for branch in node if (logical := _logical(branch))), None)
    return node.get("logicalType") if isinstance(node, dict) else None


def _name(node: Any) -> str:
    """Return a type's name as a person would say it."""
    if isinstance(node, list):
        return " or ".join(_name(branch) for branch in node)
    if isinstance(node, str):
        return node
    return str(node.get("name") or node.get("logicalType") or _name(node["type"]))


def _plain(node: Any) -> Any:
    """Drop logical types and fastavro's marks: values are written as the numbers that they are."""
    if isinstance(node, dict):
        return {k: _plain(v) for k, v in node.items() if k != "logicalType" and not k.startswith("__")}
    return [_plain(item) for item in node] if isinstance(node, list) else node
