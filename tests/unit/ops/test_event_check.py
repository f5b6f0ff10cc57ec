"""Events in files get the answers that the stream would give them."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from consumer.cli import app
from consumer.cli.events import EXIT_SOME
from consumer.errors import BadInputError
from consumer.ops.event_check import read_events
from schemas.avro import AvroSchema
from schemas.repository import BundledSchemas, confluent_header
from tests.support.events import VALID_EVENTS, definition, encoded, event, framed, good

SCHEMA = AvroSchema.parse(definition())


def container(events: list[dict[str, Any]], schema: Any = None, codec: str = "null") -> bytes:
    """Return an Avro container as fastavro writes it, in several blocks."""
    out = BytesIO()
    fastavro.writer(out, schema or definition(), events, codec=codec, sync_interval=200)
    return out.getvalue()


def answers(path: Path, schema: AvroSchema | None = None) -> list[tuple[int, str | None]]:
    """Return the number and the code of each event."""
    checked = read_events(path, schema).check(BundledSchemas())
    return [(number, rejection and rejection.code.value) for number, rejection in checked]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_a_container_is_checked_record_by_record(tmp_path: Path, codec: str) -> None:
    """Whatever its codec and its writer schema."""
    schema = definition()
    schema["fields"][6]["type"] = ["null", "int"]
    schema["fields"].insert(0, {"name": "tags", "type": {"type": "array", "items": "string"}})
    events = [
        event(tags=["a", "b"]),
        event(tags=[], courses_started=None),
        event(tags=[], days_on_platform=-1),
    ]
    path = tmp_path / "events.avro"
    path.write_bytes(container(events * 20, schema, codec))
    assert answers(path) == [(n, None if n % 3 == 1 else "field_invalid") for n in range(1, 61)]


@pytest.mark.parametrize("codec", ["snappy", "zstandard"])
def test_a_codec_whose_package_is_missing_is_refused_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """And with the codecs that can be read without it."""
    path = tmp_path / "events.avro"
    path.write_bytes(container([event()], codec=codec))
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(BadInputError, match=rf"{codec} needs: pip install 'purchase-stream\[codecs\]'; or"):
        read_events(path, None)


def test_a_snappy_block_with_another_checksum_is_damaged(tmp_path: Path) -> None:
    """The CRC-32 of its content follows each block."""
    data = bytearray(container([event()], codec="snappy"))
    data[-17] ^= 1
    path = tmp_path / "events.avro"
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="damaged after record 0: the checksum of the block differs"):
        read_events(path, None)


def test_lines_are_sent_as_what_they_are(tmp_path: Path) -> None:
    """A text where a number is needed is not read; a missing field and a null are distinguished."""
    lines = [
        event(),
        event(minutes_watched=3, extra={"ignored": True}),
        event(courses_started="2"),
        event(courses_started=None),
        {name: value for name, value in event().items() if name != "event_id"},
        event(practice_exams_passed=9),
        event(occurred_at=1_700_000_000),
        event(days_on_platform=2**64),
        event(event_id="\ud800"),
        event(minutes_watched=float("nan")),
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    found = answers(path)
    assert [number for number, _ in found] == list(range(1, 20, 2))
    assert [code for _, code in found] == [
        None,
        None,
        "undecodable",
        "field_invalid",
        "undecodable",
        "rule_violated",
        "field_invalid",
        "undecodable",
        "undecodable",
        "field_invalid",
    ]
    details = [str(one.detail) for _, one in read_events(path, None).check(BundledSchemas()) if one]
    assert details[0].endswith(": courses_started: string where a long is needed.")
    assert "event_id: missing, and it has no default" in details[2]
    assert details[5].endswith(": days_on_platform: double where a long is needed.")


@pytest.mark.parametrize(
    ("value", "schema", "code"),
    [
        (good(), None, None),
        (good()[:-1], None, "undecodable"),
        (good() + b"?", None, "trailing_bytes"),
        (b"hello", None, "unknown_framing"),
        (b"", None, "unknown_framing"),
        (confluent_header(7) + encoded(event()), None, "unknown_framing"),
        (confluent_header(7) + encoded(event()), SCHEMA, None),
        (encoded(event()), SCHEMA, None),
        (encoded(event()), None, "unknown_framing"),
    ],
)
def test_a_single_value_is_checked_as_it_would_be_in_the_topic(
    tmp_path: Path, value: bytes, schema: AvroSchema | None, code: str | None
) -> None:
    """A schema for values that do not name one that is known."""
    path = tmp_path / "value.bin"
    path.write_bytes(value)
    assert answers(path, schema) == [(1, code)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"Obj\x01", "ends early"),
        (b'{"a": 1}\n{', "line 2 is not JSON"),
        (b"{}\n[]", "line 2 is not a JSON object"),
        (container([event()] * 20)[:-20], "ends early"),
        (container([event()] * 20)[:-1] + b"?", "end mark is missing"),
        (container([event()], codec="deflate").replace(b"deflate", b"unknown"), "the codec unknown cannot"),
        (container([event()], codec="deflate").replace(b"\x0edeflate", b"\x0csnappy"), "is not snappy data"),
        (container([event()], codec="xz").replace(b"\x04xz", b"\x12zstandard"), "is not zstandard data"),
        (
            b"Obj\x01\x00" + bytes(16),
            "not JSON",
        ),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """In our words, as bad input."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=reason) as caught:
        read_events(path, None)
    assert str(path) in str(caught.value)


@given(cut=st.integers(0, 2000), byte=st.integers(0, 255), at=st.integers(0, 2000))
@settings(max_examples=150)
def test_any_container_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, byte: int, at: int
) -> None:
    """No bytes make anything but answers or one sentence."""
    data = bytearray(container([event()] * 10))
    data[at % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "spoilt.avro"
    path.write_bytes(bytes(data[: max(4, cut)]))
    try:
        found = answers(path)
    except BadInputError:
        return
    assert len(found) <= 10


@given(events=st.lists(VALID_EVENTS, min_size=1, max_size=3))
@settings(max_examples=30)
def test_what_is_valid_is_accepted_from_every_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]]
) -> None:
    """Container, lines and values agree."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.avro").write_bytes(container(events))
    (folder / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    (folder / "a.bin").write_bytes(framed(encoded(events[0])))
    for name in ("a.avro", "a.jsonl", "a.bin"):
        assert all(code is None for _, code in answers(folder / name))


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers per event, a summary, and the exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(json.dumps(event()))
    (tmp_path / "bad.jsonl").write_text("\n".join(json.dumps(event(minutes_watched=m)) for m in (1.5, -1.5)))
    run = CliRunner().invoke
    clean = run(app, ["events", "check", "good.jsonl"])
    assert (clean.exit_code, clean.stdout) == (0, "0 of 1 events would be rejected\n")
    some = run(app, ["events", "check", "good.jsonl", "bad.jsonl"])
    assert some.exit_code == EXIT_SOME
    assert some.stdout == (
        "bad.jsonl: line 2: field_invalid: minutes_watched: Input should be greater than or equal to 0\n"
        "1 of 3 events would be rejected: 1 field_invalid\n"
    )
    lines = run(app, ["events", "check", "bad.jsonl", "--json"]).stdout.splitlines()
    assert [json.loads(line)["code"] for line in lines] == [None, "field_invalid"]
    assert isinstance(run(app, ["events", "check", "none.avro"]).exception, BadInputError)
    assert isinstance(
        run(app, ["events", "check", "good.jsonl", "--schema", "none"]).exception, BadInputError
    )
