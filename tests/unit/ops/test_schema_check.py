"""Whether a platform's schema fits is what the Avro specification says, and what the decoder then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.errors import BadInputError, StartupError, UsageError
from consumer.ops.schema_check import Readability, check_schema, unread_fields
from consumer.pipeline.decode import Decoder
from consumer.pipeline.validate import validate
from schemas.avro import AvroSchema
from schemas.repository import engagement_event
from tests.support.events import Writers, definition, encoded, event, framed

ENUM = {"type": "enum", "name": "C", "symbols": ["US", "NA"]}


def platform(name: str = "purchase_stream.EngagementEvent", **types: Any) -> AvroSchema:
    """Return our schema with other types for some fields; ``None`` leaves one out."""
    schema = definition()
    schema["name"], schema["namespace"] = name.rpartition(".")[2], name.rpartition(".")[0]
    schema["fields"] = [
        {"name": field["name"], "type": types.get(field["name"], field["type"])}
        for field in schema["fields"]
        if types.get(field["name"], "") is not None
    ]
    schema["fields"] += [{"name": n, "type": t} for n, t in types.items() if t and n not in event()]
    return AvroSchema.parse(schema)


def verdict_of(writer: AvroSchema, field: str) -> tuple[Readability, str]:
    """Return what is said of one field."""
    return next(
        (one.verdict, one.what) for one in check_schema(writer, engagement_event()) if one.field == field
    )


@pytest.mark.parametrize(
    ("field", "theirs", "verdict"),
    [
        ("event_id", "string", Readability.YES),
        ("event_id", "bytes", Readability.YES),
        ("event_id", "long", Readability.NO),
        ("event_id", ENUM, Readability.NO),
        ("event_id", ["null", "string"], Readability.SOME),
        ("event_id", ["string", "bytes"], Readability.YES),
        ("event_id", ["null", "long"], Readability.NO),
        ("days_on_platform", "int", Readability.YES),
        ("days_on_platform", "double", Readability.NO),
        ("days_on_platform", "boolean", Readability.NO),
        ("days_on_platform", ["int", "string"], Readability.SOME),
        ("minutes_watched", "int", Readability.YES),
        ("minutes_watched", "long", Readability.YES),
        ("minutes_watched", "float", Readability.YES),
        ("minutes_watched", "string", Readability.NO),
        ("minutes_watched", {"type": "array", "items": "double"}, Readability.NO),
        ("minutes_watched", None, Readability.NO),
        ("occurred_at", {"type": "long", "logicalType": "timestamp-micros"}, Readability.YES),
        ("occurred_at", {"type": "long", "logicalType": "time-micros"}, Readability.NO),
        ("occurred_at", {"type": "long", "logicalType": "timestamp-millis"}, Readability.YES),
        ("occurred_at", "long", Readability.YES),
    ],
)
def test_promotions_are_those_of_the_specification(field: str, theirs: Any, verdict: Readability) -> None:
    """Avro 1.12, "Schema Resolution"; and a unit that would silently be taken for another is refused."""
    assert verdict_of(platform(**{field: theirs}), field)[0] is verdict


def test_what_is_said_to_fit_is_decoded() -> None:
    """The same event from the platform's bytes; a null is field_invalid, with the event in its letter."""
    writer = platform(
        student_id=["null", "string"], days_on_platform="int", minutes_watched="float", campus=ENUM
    )
    assert {one.verdict for one in check_schema(writer, engagement_event())} == {
        Readability.YES,
        Readability.SOME,
    }
    assert unread_fields(writer, engagement_event()) == ["campus"]

    values = [
        framed(encoded(event(campus="NA", student_id=student), writer.parsed), writer)
        for student in ("s", None)
    ]
    decoder = Decoder(engagement_event(), Writers({1: writer}), keep_nulls=True)
    valid, invalid = validate(decoder.decode(values)[0])
    assert valid.record(0) == event(student_id="s")
    (rejection,) = invalid
    assert (rejection.row, rejection.code) == (1, "field_invalid")
    assert rejection.detail == [
        {"type": "string_type", "loc": ["event", "student_id"], "msg": "Input should be a valid string"}
    ]
    assert orjson.loads(rejection.event or b"") == event(student_id=None)


def test_a_record_of_another_name_is_refused_for_its_name() -> None:
    """Each field would fit."""
    (whole,) = check_schema(platform("purchase_stream.Other"), engagement_event())
    assert (whole.verdict, "named purchase_stream.Other" in whole.what) == (Readability.NO, True)


def test_a_field_of_nearly_the_name_is_pointed_at() -> None:
    """It is what such mistakes usually are."""
    writer = platform(minutes_watched=None, minutes_watch="double")
    assert verdict_of(writer, "minutes_watched")[1].endswith("is it minutes_watch?")


def test_a_field_that_is_read_as_another_is_not_pointed_at() -> None:
    """The student's id is no candidate for the missing id of the event."""
    assert verdict_of(platform(event_id=None), "event_id")[1] == "missing, and it has no default"


def run(*arguments: str) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["schemas", *arguments])


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """List, show, fingerprint and check agree with each other; failures have the contract's kind."""
    monkeypatch.chdir(tmp_path)
    ours = engagement_event().fingerprint[::-1].hex()
    listed = {entry["name"]: entry["fingerprint"] for entry in json.loads(run("list", "--json").stdout)}
    assert listed["purchase_stream.EngagementEvent"] == ours
    file = tmp_path / "own.avsc"
    file.write_text(run("show", "engagement_event").stdout)
    assert run("fingerprint", str(file)).stdout == run("fingerprint", "EngagementEvent").stdout
    assert f"c3 01 {bytes.fromhex(ours)[::-1].hex(' ')}" in run("fingerprint", str(file)).stdout
    assert run("check", str(file)).exit_code == 0
    assert isinstance(run("check", str(file), "--against", "PurchaseOutcome").exception, BadInputError)
    file.write_text("[]")
    assert isinstance(run("check", str(file)).exception, BadInputError)
    assert isinstance(run("show", "Nothing").exception, UsageError)
    assert isinstance(run("register").exception, StartupError)
