"""The registry's client against a registry of the test's own, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.errors import StartupError, Unavailable
from consumer.kafka.schema_registry import UNKNOWN_FOR_S, RegistrySchemas
from consumer.pipeline.batch import Headers
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code
from schemas.avro import AvroSchema
from schemas.repository import (
    CONFLUENT_HEADER_BYTES,
    SCHEMA_ID_HEADER,
    BundledSchemas,
    confluent_header,
    engagement_event,
    purchase_prediction,
)

OLDER: dict[str, Any] = {
    "type": "record",
    "name": "purchase_stream.EngagementEvent",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "student_id", "type": "string"},
        {"name": "occurred_at", "type": "long"},
        {"name": "student_country", "type": "string"},
        {"name": "days_on_platform", "type": "int"},
        {"name": "minutes_watched", "type": "float"},
        {"name": "courses_started", "type": "int"},
        {"name": "practice_exams_started", "type": "int"},
        {"name": "practice_exams_passed", "type": "int"},
        {"name": "minutes_spent_on_exams", "type": "float"},
        {"name": "campus", "type": ["null", "string"], "default": None},
    ],
}
EVENT: dict[str, Any] = {
    "event_id": "e",
    "student_id": "s",
    "occurred_at": 1_700_000_000_123,
    "student_country": "NA",
    "days_on_platform": 1,
    "minutes_watched": 2.5,
    "courses_started": 1,
    "practice_exams_started": 0,
    "practice_exams_passed": 0,
    "minutes_spent_on_exams": 0.0,
    "campus": "north",
}


GUID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
REFERENCED: dict[str, Any] = {
    "plans": {"type": "enum", "name": "platform.Plan", "symbols": ["FREE", "PAID"]},
}


class Registry:
    """What the stub answers with, and how often it was asked."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {7: {"schema": json.dumps(OLDER)}}
        self.failing = False
        self.registered: list[tuple[str, Any]] = []
        self.asked = 0
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Answer a look-up."""
        self.asked += 1
        path = path.split("?", maxsplit=1)[0]
        if self.failing:
            return 500, {"error_code": 50001, "message": "down"}
        if path.startswith("/subjects/"):
            _, _, subject, _, version = path.split("/")
            definition = json.dumps(REFERENCED[subject])
            return 200, {"subject": subject, "version": int(version), "id": 1, "schema": definition}
        schema_id = path.rsplit("/", 1)[1]
        schema_id = {str(GUID): "7"}.get(schema_id, schema_id)
        if schema_id.isdecimal() and int(schema_id) in self.schemas:
            return 200, self.schemas[int(schema_id)]
        if "/api/" in path:
            return 404, {"message": "no such page"}
        return 404, {"error_code": 40403, "message": "Schema not found"}


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry on a free port."""
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*state.answer(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.registered.append((self.path, json.loads(body["schema"])))
            self._send(200, {"id": 42})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def framed(schema_id: int) -> bytes:
    """Return the event in Confluent framing, written with the older schema."""
    out = BytesIO()
    fastavro.schemaless_writer(out, OLDER, EVENT)
    return confluent_header(schema_id) + out.getvalue()


def test_an_event_in_confluent_framing_is_read_with_its_writers_schema(registry: Registry) -> None:
    """Int becomes long, float becomes double, a field that we do not know is skipped."""
    decoder = Decoder(engagement_event(), RegistrySchemas(registry.url, {}))
    events, rejections = decoder.decode([framed(7), framed(7)])
    assert not rejections
    assert events.record(1) == {name: value for name, value in EVENT.items() if name != "campus"}
    assert registry.asked == 1


def test_an_id_that_the_registry_does_not_have_is_asked_for_once_a_minute(registry: Registry) -> None:
    """It is unknown_schema, remembered, and found once it is there."""
    now_s = 0.0
    writers = RegistrySchemas(registry.url, {}, monotonic_s=lambda: now_s)
    decoder = Decoder(engagement_event(), writers)
    for _ in range(3):
        _, (rejection,) = decoder.decode([framed(8)])
        assert rejection.code is Code.UNKNOWN_SCHEMA
    assert registry.asked == 1
    registry.schemas[8] = registry.schemas[7]
    now_s = UNKNOWN_FOR_S + 1
    assert not decoder.decode([framed(8)])[1]


def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(registry: Registry) -> None:
    """Protobuf, a bare string schema, and one that lacks a type."""
    registry.schemas |= {
        1: {"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"},
        2: {"schema": '"string"'},
        3: {"schema": json.dumps({"type": "record", "name": "R", "fields": [{"name": "r", "type": "S"}]})},
    }
    writers = RegistrySchemas(registry.url, {})
    decoder = Decoder(engagement_event(), writers)
    _, rejections = decoder.decode([framed(n) for n in (1, 2, 3)])
    protobuf, text, incomplete = ((one.code.value, str(one.detail)) for one in rejections)
    assert protobuf == (
        "unknown_schema",
        "The schema with id 1 cannot be used: it is a PROTOBUF schema, and only AVRO is read.",
    )
    assert text[0] == "undecodable"
    assert text[1].endswith(": string where the record EngagementEvent is needed.")
    assert incomplete[0] == "unknown_schema"
    assert 'id 3 cannot be used: the type "S" is not defined' in incomplete[1]


@pytest.mark.parametrize(
    "named", [bytes(3) + bytes([0, 7]), b"\x01" + GUID.bytes], ids=["id in a header", "GUID in a header"]
)
def test_a_bare_body_is_read_by_the_schema_that_a_header_names(registry: Registry, named: bytes) -> None:
    """As Confluent's newer serializers send it."""
    decoder = Decoder(engagement_event(), RegistrySchemas(registry.url, {}))
    body = framed(7)[CONFLUENT_HEADER_BYTES:]
    headers: Headers = [("other", b"x"), (SCHEMA_ID_HEADER, named)]
    events, rejections = decoder.decode([None, body], lambda rows: [headers for _ in rows])
    assert [rejection.code for rejection in rejections] == [Code.TOMBSTONE]
    assert events.record(0)["student_country"] == "NA"
    _, (rejection,) = Decoder(engagement_event(), BundledSchemas()).decode(
        [body], lambda rows: [headers for _ in rows]
    )
    assert rejection.detail == "The header __value_schema_id names the schema, but no schema registry is set."


def test_references_are_looked_up(registry: Registry) -> None:
    """By subject and version."""
    older = OLDER | {"fields": [*OLDER["fields"], {"name": "plan", "type": "platform.Plan"}]}
    reference = {"name": "platform.Plan", "subject": "plans", "version": 1}
    registry.schemas[9] = {"schema": json.dumps(older), "references": [reference]}
    found = RegistrySchemas(registry.url, {}).by_id(9)
    assert isinstance(found, AvroSchema)
    assert "platform.Plan" in found.named


def test_a_url_that_is_no_registrys_is_an_outage(registry: Registry) -> None:
    """Its 404 does not mean that the id is unknown, so no event is rejected for it."""
    with pytest.raises(Unavailable, match=r"answers with HTTP status 404; is this the URL of its API\?"):
        RegistrySchemas(f"{registry.url}/api", {}).by_id(8)


def test_an_outage_of_the_registry_is_no_ones_fault(registry: Registry) -> None:
    """It fails the batch as a whole; schemas that were looked up before still work."""
    writers = RegistrySchemas(registry.url, {"max.retries": 0})
    decoder = Decoder(engagement_event(), writers)
    decoder.decode([framed(7)])
    registry.failing = True
    assert not decoder.decode([framed(7)])[1]
    with pytest.raises(Unavailable, match="schema registry") as caught:
        decoder.decode([framed(7), framed(9)])
    assert caught.value.condition == "schema_registry"


def test_our_schema_is_registered_under_the_topic(registry: Registry) -> None:
    """Docs and logical types included, and it is still the same schema."""
    assert RegistrySchemas(registry.url, {}).register("predictions", purchase_prediction()) == 42
    ((path, definition),) = registry.registered
    assert "/subjects/predictions-value/versions" in path
    assert type(purchase_prediction()).parse(definition).fingerprint == purchase_prediction().fingerprint
    assert all("doc" in field for field in definition["fields"])


def test_a_url_that_is_none_is_a_wrong_setting() -> None:
    """Said at the start, not with the first event."""
    with pytest.raises(StartupError, match="schema_registry"):
        RegistrySchemas("nowhere", {})


def test_the_command_registers_what_we_write_and_other_schemas_only_by_name(registry: Registry) -> None:
    """A subject that the platform writes is not touched unless it is asked for."""
    url = ["--set", f"schema_registry.url={registry.url}", "schemas", "register"]
    told = CliRunner().invoke(app, url)
    assert told.stdout == "purchase-predictions-value: purchase_stream.PurchasePrediction has id 42\n"
    assert [path.split("?")[0] for path, _ in registry.registered] == [
        "/subjects/purchase-predictions-value/versions"
    ]
    CliRunner().invoke(app, [*url, "EngagementEvent"])
    assert "/subjects/engagement-events-value/" in registry.registered[1][0]
