"""The schemas in the folder: their fingerprints, their fields, and that every field is explained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.avro import AvroSchema, SchemaError
from schemas.repository import (
    FOLDER,
    BundledSchemas,
    confluent_header,
    engagement_event,
    known_schemas,
    purchase_outcome,
    purchase_prediction,
    read_schema,
    read_schemas,
    single_object_header,
)

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = [
    ("student_country", "string"),
    ("days_on_platform", "long"),
    ("minutes_watched", "double"),
    ("courses_started", "long"),
    ("practice_exams_started", "long"),
    ("practice_exams_passed", "long"),
    ("minutes_spent_on_exams", "double"),
]
TIME = {"type": "long", "logicalType": "timestamp-millis"}


@pytest.mark.parametrize(
    ("primitive", "published"),
    [("null", 0x63DD24E7CC258F8A), ("int", 0x7275D51A3F395C8F)],
)
def test_fingerprints_are_those_that_avro_publishes(primitive: str, published: int) -> None:
    """CRC-64-AVRO of a canonical form, little-endian, is the value in Avro's own test data."""
    canonical = to_parsing_canonical_form(primitive)
    assert bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")) == published.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("schema", "pinned"),
    [
        (engagement_event, "97ada3c08c3c4470"),
        (purchase_prediction, "a02451fb222aee2a"),
        (purchase_outcome, "4818d330a36887e2"),
    ],
)
def test_a_published_schema_never_changes(schema: Any, pinned: str) -> None:
    """Records in topics name their schema by this fingerprint, so a file that changes orphans them."""
    assert schema().fingerprint.hex() == pinned, (
        f"{schema().name} is not the schema that was published. Records written with that one can no longer "
        "be read: put the new schema in a file of its own, and keep the old file as it was."
    )


def _documented(node: Any, where: str) -> list[str]:
    """Return the places without a doc."""
    missing = [] if node.get("doc") else [where]
    for field in node["fields"]:
        place = f"{where}.{field['name']}"
        missing += [] if field.get("doc") else [place]
        if isinstance(field["type"], dict) and field["type"]["type"] == "record":
            missing += [p for p in _documented(field["type"], place) if p != place]
    return missing


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.avsc")), ids=lambda path: path.stem)
def test_every_record_and_field_is_documented(path: Path) -> None:
    """Whoever reads the schema alone learns what each field means."""
    assert _documented(json.loads(path.read_text("utf-8")), path.stem) == []


def _fields(name: str) -> list[tuple[str, Any]]:
    definition = json.loads((FOLDER / f"{name}.avsc").read_text("utf-8"))
    return [(field["name"], field["type"]) for field in definition["fields"]]


def test_an_event_has_the_fields_of_the_contract_in_its_order() -> None:
    """EngagementEvent is ids, time, then the seven inputs."""
    expected = [("event_id", "string"), ("student_id", "string"), ("occurred_at", TIME), *INPUTS]
    assert _fields("engagement_event") == expected


def test_a_prediction_has_the_fields_of_the_contract_in_its_order() -> None:
    """PurchasePrediction ends with the seven inputs as a record."""
    *flat, (name, features) = _fields("purchase_prediction")
    assert flat == [
        ("event_id", "string"),
        ("student_id", "string"),
        ("predicted_purchase_probability", "double"),
        ("predicted_purchase", "int"),
        ("threshold", "double"),
        ("model_version", "string"),
        ("occurred_at", TIME),
        ("scored_at", TIME),
        ("source_partition", "int"),
        ("source_offset", "long"),
    ]
    assert name == "features"
    assert [(field["name"], field["type"]) for field in features["fields"]] == INPUTS


def test_an_outcome_has_the_fields_of_the_contract() -> None:
    """PurchaseOutcome is student, verdict, time."""
    assert _fields("purchase_outcome") == [
        ("student_id", "string"),
        ("purchased", "boolean"),
        ("observed_at", TIME),
    ]


def test_every_file_in_the_folder_is_found_by_its_fingerprint() -> None:
    """A record of any published version, in whichever sub-folder, can be read."""
    known = known_schemas()
    assert len({schema.name for schema in known.values()}) == len(list(FOLDER.rglob("*.avsc")))
    assert all(fingerprint in schema.fingerprints for fingerprint, schema in known.items())


def test_older_versions_in_sub_folders_are_found(tmp_path: Path) -> None:
    """Versions may be sorted into folders."""
    path = tmp_path / "old" / "thing.avsc"
    path.parent.mkdir()
    path.write_text('{"type": "record", "name": "Thing", "fields": []}')
    assert "Thing" in {schema.name for schema in known_schemas(tmp_path).values()}
    bundled = BundledSchemas(tmp_path)
    thing = read_schema(path)
    assert bundled.by_fingerprint(thing.fingerprint[::-1]) is not None
    assert bundled.by_fingerprint(engagement_event().fingerprint) is engagement_event()


def test_the_bundled_schemas_know_fingerprints_and_no_ids() -> None:
    """Without a registry there is nobody to ask about a Confluent id."""
    bundled = BundledSchemas()
    event = engagement_event()
    assert bundled.by_fingerprint(event.fingerprint) is known_schemas()[event.fingerprint]
    assert bundled.by_fingerprint(bytes(8)) is None
    assert bundled.by_id(1) is None
    assert not bundled.reads_confluent


def test_docs_and_logical_types_do_not_change_a_fingerprint() -> None:
    """The canonical form keeps only what decides the bytes."""
    plain = {"type": "record", "name": "R", "fields": [{"name": "t", "type": "long"}]}
    told = {"type": "record", "name": "R", "doc": "d", "fields": [{"name": "t", "type": TIME, "doc": "d"}]}
    assert AvroSchema.parse(plain).fingerprint == AvroSchema.parse(told).fingerprint


FINGERPRINTS = {
    "specification": "97ada3c08c3c4470",
    "type as an object": "903b8f221629bf1d",
    "logical type kept": "2ebdd83fc53fd2c7",
}


@pytest.mark.parametrize("published", FINGERPRINTS.values(), ids=FINGERPRINTS)
def test_a_schema_is_known_by_the_fingerprint_of_every_library(published: str) -> None:
    """Java and Node; Rust and goavro; hamba/avro: in either byte order, they name the same schema."""
    for crc in (bytes.fromhex(published), bytes.fromhex(published)[::-1]):
        assert BundledSchemas().by_fingerprint(crc) is engagement_event()
    assert engagement_event().fingerprints[0].hex() == FINGERPRINTS["specification"]


def test_two_schemas_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """By the specification, microseconds have the fingerprint of milliseconds."""
    text = (FOLDER / "engagement_event.avsc").read_text("utf-8")
    copy = tmp_path / "copy.avsc"
    copy.write_text(text)
    assert BundledSchemas(tmp_path).by_fingerprint(bytes(8)) is None
    other = tmp_path / "other" / "micros.avsc"
    other.parent.mkdir()
    other.write_text(text.replace("timestamp-millis", "timestamp-micros"))
    with pytest.raises(SchemaError, match=r"micros\.avsc.*cannot be told apart"):
        BundledSchemas(other.parent)


def test_files_may_use_each_others_types(tmp_path: Path) -> None:
    """In whatever order they are given; a type that no file defines is named."""
    user = {"type": "record", "name": "a.User", "fields": [{"name": "plan", "type": "a.Plan"}]}
    event = {"type": "record", "name": "Event", "namespace": "a", "fields": [{"name": "u", "type": "User"}]}
    plan = {"type": "enum", "name": "Plan", "namespace": "a", "symbols": ["FREE"]}
    for name, definition in (("event", event), ("user", user), ("plan", plan)):
        (tmp_path / f"{name}.avsc").write_text(json.dumps(definition))
    found = read_schemas([tmp_path / "event.avsc", tmp_path / "user.avsc", tmp_path / "plan.avsc"])
    whole = event | {"fields": [{"name": "u", "type": user | {"fields": [{"name": "plan", "type": plan}]}}]}
    assert found[tmp_path / "event.avsc"].canonical == AvroSchema.parse(whole).canonical
    assert len(read_schemas([tmp_path])) == 3
    with pytest.raises(SchemaError, match=r'event\.avsc: the type "User" is not defined'):
        read_schema(tmp_path / "event.avsc")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_an_unusable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """The error says which file is missing or wrong."""
    path = tmp_path / "broken.avsc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"broken\.avsc"):
        read_schema(path)


def test_headers_are_laid_out_as_their_specifications_say() -> None:
    """C3 01 and the fingerprint as it is; 00 and the id in big-endian."""
    assert single_object_header(bytes(range(8))) == b"\xc3\x01" + bytes(range(8))
    assert confluent_header(0x01020304) == b"\x00\x01\x02\x03\x04"
