"""Writer schemas as platforms have them, and what becomes of their events."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer

from consumer.pipeline.walk import encode_long
from schemas.avro import AvroSchema
from schemas.repository import FOLDER
from tests.support.events import event

_SYNC: Final = bytes(range(16))


@dataclass(frozen=True)
class WriterCase:
    """A writer schema with events.

    Attributes:
        name: What is special about it.
        schema: The schema as JSON.
        events: What the platform sends, with the code of the dead letter, or ``None`` if it is accepted.
        verdict: What ``schemas check`` says of the schema.
        prefix: Bytes before each record (the branch of a union).
        encodes: The schema that the events are encoded with, if it is not the whole.
        references: Schemas of named types, by subject, that the schema uses.
    """

    name: str
    schema: Any = field(repr=False)
    events: list[tuple[dict[str, Any], str | None]] = field(repr=False)
    verdict: str
    prefix: bytes = b""
    encodes: Any = field(default=None, repr=False)
    references: dict[str, Any] = field(default_factory=dict, repr=False)

    def parsed(self) -> AvroSchema:
        """Return the schema as we parse it."""
        return AvroSchema.parse(self.schema, self.references.values())

    def records(self) -> list[bytes]:
        """Return the encoded events."""
        named: dict[str, Any] = {}
        for reference in self.references.values():
            parse_schema(reference, named)
        schema = parse_schema(self.encodes or self.schema, named)
        records = []
        for fields, _ in self.events:
            out = BytesIO()
            schemaless_writer(out, schema, fields)
            records.append(self.prefix + out.getvalue())
        return records

    def codes(self) -> list[str | None]:
        """Return what becomes of each event."""
        return [code for _, code in self.events]

    def container(self) -> bytes:
        """Return an Avro container with the events."""
        records = self.records()
        header = {"avro.schema": json.dumps(self.parsed().parsed).encode(), "avro.codec": b"null"}
        metadata = b"".join(
            map(_bytes, (part for name, value in header.items() for part in (name.encode(), value)))
        )
        block = b"".join(records)
        return b"".join(
            [
                b"Obj\x01",
                encode_long(len(header)) + metadata + encode_long(0) + _SYNC,
                encode_long(len(records)) + encode_long(len(block)) + block + _SYNC,
            ]
        )


def _bytes(part: bytes) -> bytes:
    return encode_long(len(part)) + part


def published() -> Any:
    """Return EngagementEvent as it is published."""
    return json.loads((FOLDER / "engagement_event.avsc").read_text("utf-8"))


def _changed(change: Callable[[dict[str, Any]], object]) -> Any:
    schema = published()
    change({spec["name"]: spec for spec in schema["fields"]} | {"": schema})
    return schema


def _typed(**types: Any) -> Any:
    """Return the schema with other types for fields; a new name adds a field at the start."""
    schema = published()
    names = [spec["name"] for spec in schema["fields"]]
    for name, kind in types.items():
        if name in names:
            schema["fields"][names.index(name)]["type"] = kind
        else:
            schema["fields"].insert(0, {"name": name, "type": kind})
            names.insert(0, name)
    return schema


def _case(
    name: str, schema: Any, verdict: str = "ok", /, code: str | None = None, **fields: Any
) -> WriterCase:
    return WriterCase(name, schema, [(event(**fields), code)], verdict)


def _time(logical: str, kind: str = "long") -> Any:
    return {"type": kind, "logicalType": logical}


def _renamed(spec: dict[str, Any], name: str) -> None:
    spec["name"] = name


def _without(name: str) -> Any:
    schema = published()
    schema["fields"] = [spec for spec in schema["fields"] if spec["name"] != name]
    return schema


_NOW_MS = 1_700_000_000_123
_LOGIN = {
    "type": "record",
    "name": "Login",
    "namespace": "platform",
    "fields": [{"name": "u", "type": "string"}],
}
_PLAN = {"type": "enum", "name": "Plan", "namespace": "platform", "symbols": ["FREE", "PAID"]}
_DEVICE = {
    "type": "record",
    "name": "Device",
    "namespace": "platform",
    "fields": [{"name": "plan", "type": "Plan"}, {"name": "model", "type": ["null", "string"]}],
}
_COMMENT = {
    "type": "record",
    "name": "Comment",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "replies", "type": {"type": "array", "items": "Comment"}},
    ],
}
_THREAD = {"text": "a", "replies": [{"text": "b", "replies": []}, {"text": "c", "replies": []}]}

CASES: Final = [
    _case("as published", published()),
    _case("without docs and logical types", _typed(occurred_at="long")),
    _case("in another namespace", _changed(lambda f: f[""].update(namespace="com.platform"))),
    _case("fields in another order", _changed(lambda f: f[""]["fields"].reverse())),
    _case("counts are ints", _typed(days_on_platform="int", courses_started="int")),
    _case("minutes are floats", _typed(minutes_watched="float"), minutes_watched=0.5),
    _case("minutes are ints", _typed(minutes_watched="int"), minutes_watched=7),
    _case("minutes are longs", _typed(minutes_watched="long"), minutes_watched=2**40),
    _case("ids are bytes", _typed(event_id="bytes"), event_id="é".encode()),
    _case("an id of string or bytes", _typed(event_id=["string", "bytes"])),
    WriterCase(
        "nullable counts",
        _typed(courses_started=["null", "long"], event_id=["string", "null"]),
        [
            (event(), None),
            (event(courses_started=None), "field_invalid"),
            (event(courses_started=None, event_id=None, minutes_watched=-1.0), "field_invalid"),
        ],
        "some",
    ),
    WriterCase(
        "days as a number or a text",
        _typed(days_on_platform=["int", "string"]),
        [(event(), None), (event(days_on_platform="30"), "undecodable")],
        "some",
    ),
    _case("an added nullable field", _typed(campus=["null", "string"]), campus=None),
    _case("an added map", _typed(tags={"type": "map", "values": "string"}), tags={"a": "b"}),
    _case("an added array", _typed(scores={"type": "array", "items": "int"}), scores=[1, 2]),
    _case("an added enum", _typed(plan=_PLAN), plan="PAID"),
    _case("an added fixed", _typed(digest={"type": "fixed", "name": "D", "size": 2}), digest=b"ab"),
    _case(
        "an added decimal",
        _typed(price={"type": "bytes", "logicalType": "decimal", "precision": 4}),
        price=b"\x01",
    ),
    _case("an added recursive record", _typed(thread=_COMMENT), thread=_THREAD),
    WriterCase(
        "references to other schemas",
        _typed(device="platform.Device"),
        [(event(device={"plan": "FREE", "model": "x"}), None)],
        "ok",
        references={"plan": _PLAN, "device": _DEVICE},
    ),
    WriterCase(
        "a union with another record",
        [_LOGIN, published()],
        [(event(), None), (event(days_on_platform=-1), "field_invalid")],
        "some",
        prefix=b"\x02",
        encodes=published(),
    ),
    WriterCase(
        "the other record of a union",
        [_LOGIN, published()],
        [({"u": "a"}, "undecodable")],
        "some",
        b"\x00",
        _LOGIN,
    ),
    _case("local milliseconds", _typed(occurred_at=_time("local-timestamp-millis"))),
    _case("microseconds", _typed(occurred_at=_time("timestamp-micros")), occurred_at=_NOW_MS * 1000),
    _case("nanoseconds", _typed(occurred_at=_time("timestamp-nanos")), occurred_at=_NOW_MS * 10**6),
    _case(
        "local microseconds", _typed(occurred_at=_time("local-timestamp-micros")), occurred_at=_NOW_MS * 1000
    ),
    _case("a date", _typed(occurred_at=_time("date", "int")), occurred_at=19_675),
    _case("a time of day", _typed(occurred_at=_time("time-micros")), "no", code="undecodable"),
    _case(
        "days as a timestamp", _typed(days_on_platform=_time("timestamp-millis")), "no", code="undecodable"
    ),
    WriterCase("a field is missing", _without("event_id"), [(event(), "undecodable")], "no"),
    WriterCase(
        "a field has another name",
        _changed(lambda f: _renamed(f["minutes_watched"], "minutes")),
        [(event(minutes=1.5), "undecodable")],
        "no",
    ),
    _case(
        "the record has another name", _changed(lambda f: _renamed(f[""], "Event")), "no", code="undecodable"
    ),
    _case(
        "a count is a boolean",
        _typed(courses_started="boolean"),
        "no",
        code="undecodable",
        courses_started=True,
    ),
    _case(
        "a count is a double", _typed(courses_started="double"), "no", code="undecodable", courses_started=2.0
    ),
    _case(
        "minutes are a text", _typed(minutes_watched="string"), "no", code="undecodable", minutes_watched="1"
    ),
    _case(
        "the country is an enum",
        _typed(student_country={"type": "enum", "name": "C", "symbols": ["US"]}),
        "no",
        code="undecodable",
    ),
    WriterCase("a text instead of a record", "string", [("hello", "undecodable")], "no"),  # type: ignore[list-item]
]
