"""The stream, ``schemas check`` and ``events check`` agree on every kind of writer schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.ops.event_check import read_events
from consumer.ops.schema_check import Readability, check_schema, summarize
from consumer.pipeline.batch import Headers
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import find_rejections
from consumer.pipeline.resolution import Resolution
from schemas.repository import (
    SCHEMA_ID_HEADER,
    BundledSchemas,
    confluent_header,
    engagement_event,
    single_object_header,
)
from tests.support.events import Writers
from tests.support.writer_schemas import CASES, WriterCase

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _streamed(case: WriterCase, frame: bytes, *, in_header: bool = False) -> list[str | None]:
    """Return what the stream says of each event."""

    def headers(rows: object) -> list[Headers]:
        assert isinstance(rows, list)
        return [[(SCHEMA_ID_HEADER, confluent_header(7))] if in_header else [] for _ in rows]

    decoder = Decoder(engagement_event(), Writers({7: case.parsed()}), keep_nulls=True)
    codes: list[str | None] = [None] * len(case.events)
    for rejection in find_rejections(decoder, [frame + record for record in case.records()], headers):
        codes[rejection.row] = rejection.code.value
    return codes


@EACH
def test_the_stream_reads_the_events_by_registry_id(case: WriterCase) -> None:
    """In Confluent framing, and with the id in a header."""
    assert _streamed(case, confluent_header(7)) == case.codes()
    assert _streamed(case, b"", in_header=True) == case.codes()


@EACH
def test_the_stream_reads_the_events_by_every_fingerprint(case: WriterCase) -> None:
    """Of Java, Rust, goavro and hamba/avro. Only a time in another unit needs its logical type for that."""
    writer, own = case.parsed(), engagement_event()
    for fingerprint in writer.fingerprints:
        if fingerprint in own.fingerprints and not Resolution(writer, own).is_identity:
            continue
        assert _streamed(case, single_object_header(fingerprint)) == case.codes()


@EACH
def test_events_check_says_the_same(case: WriterCase, tmp_path: Path) -> None:
    """From a container with the same events."""
    path = tmp_path / "events.avro"
    path.write_bytes(case.container())
    checked = read_events(path, None).check(BundledSchemas())
    assert [rejection and rejection.code.value for _, rejection in checked] == case.codes()


@EACH
def test_schemas_check_says_the_same(case: WriterCase) -> None:
    """All, some or no events are read."""
    verdict = summarize(check_schema(case.parsed(), engagement_event(), by_fingerprint=False))
    assert verdict == case.verdict
    if verdict is Readability.YES:
        assert case.codes() == [None] * len(case.events)
    if verdict is Readability.NO:
        assert None not in case.codes()


@pytest.mark.parametrize("name", ["microseconds", "nanoseconds", "local microseconds"])
def test_a_unit_that_a_frame_cannot_show_is_noticed(name: str) -> None:
    """By the bounds of occurred_at; schemas check says so before."""
    case = next(one for one in CASES if one.name == name)
    assert _streamed(case, single_object_header(case.parsed().fingerprint)) == ["field_invalid"]
    assert summarize(check_schema(case.parsed(), engagement_event())) is Readability.SOME
