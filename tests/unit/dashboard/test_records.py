"""The pages of single records, past windows and the search."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from consumer.dashboard.records import RAW_SHOWN_BYTES, RecordPages, StoredRecord
from consumer.dashboard.routes import page_routes
from consumer.errors import Unavailable
from consumer.monitor.audit.removals import Erasure, Removals
from consumer.monitor.recent import RejectionLog
from consumer.monitor.view import window_answer
from consumer.pipeline.decode import Decoder
from consumer.settings import AuditSettings, Settings, TopicSettings
from model_store.inputs import INPUT_NAMES
from schemas.repository import BundledSchemas, purchase_prediction
from tests.support.events import prediction
from tests.unit.dashboard.test_page import (
    DRIFT_SETTINGS,
    EVIL,
    data_of,
    explain,
    letter,
    model_snapshot,
)
from tests.unit.dashboard.test_search import lines


def client_of(value: bytes | None, *, headers: list[tuple[str, bytes | None]] | None = None) -> TestClient:
    """Return a client of a dashboard whose Kafka has one record at 0:17 of each topic."""

    def read(topic: str, partition: int, offset: int) -> StoredRecord | None:
        if (partition, offset) != (0, 17):
            return None
        return StoredRecord(
            topic=topic,
            partition=0,
            offset=17,
            timestamp_ms=1_769_860_800_000,
            key=b"s-1",
            value=value,
            headers=headers or [],
        )

    return TestClient(Starlette(routes=page_routes(Settings(), data_of(dict, read))))


def test_a_rejection_shows_its_event() -> None:
    """Reason, decoded fields, raw bytes, headers, and the commands that say more."""
    raw = b"\xc3\x01 the event's bytes"
    detail = [
        {"type": "greater_than_equal", "loc": ["event", "minutes_watched"], "msg": "Input should be ≥ 0"}
    ]
    body = letter(
        code="field_invalid",
        status=422,
        detail=detail,
        event={"event_id": "e-1", "minutes_watched": -3.5, "student_country": "NA"},
        raw=base64.b64encode(raw).decode(),
        raw_truncated=False,
        raw_sha256=hashlib.sha256(raw).hexdigest(),
    )
    answer = client_of(body, headers=[("traceparent", b"00-ab"), ("odd", b"\xff\0"), ("none", None)]).get(
        "/rejections/0/17"
    )
    assert answer.status_code == 200
    assert "unsafe" not in answer.headers["content-security-policy"]
    for text in (
        "field_invalid",
        "event.minutes_watched",
        "Input should be ≥ 0",
        "-3.5",
        "purchase-stream dlq show 0:17",
        "purchase-stream why 1:7",
        "purchase-stream dlq replay --code field_invalid --dry-run",
        "00000000  c3 01 20 74",
        base64.b64encode(raw).decode(),
        hashlib.sha256(raw).hexdigest(),
        "traceparent",
        "00-ab",
        r"\xff\x00",
        "2026-01-31 12:00:00 UTC",
    ):
        assert text in answer.text, text


def test_a_large_value_is_shown_in_part() -> None:
    """A page shows the start of a large value, and how long the value is."""
    raw = bytes(range(256)) * 4000
    long = "x" * 1_000_000
    html = (
        client_of(
            letter(
                raw=base64.b64encode(raw).decode(), raw_truncated=True, event={"event_id": long}, detail=long
            )
        )
        .get("/rejections/0/17")
        .text
    )
    assert "1,024,000 bytes" in html
    assert f"first {RAW_SHOWN_BYTES:,} bytes" in html
    assert "holds only the start" in html
    assert len(html) < 60_000


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'{"source": 1, "event": [], "detail": [{}, 1, {"loc": 1}], "code": {}}',
        b'{"code": "undecodable", "detail": [[{}]], "raw": 5, "source": {"partition": true, "offset": -1}}',
        b'{"code": "tombstone", "detail": null, "raw": null, "rejected_at": 5}',
    ],
)
def test_every_record_of_the_dead_letter_topic_has_a_page(value: bytes | None) -> None:
    """A record that is no dead letter is shown as far as it can be."""
    answer = client_of(value).get("/rejections/0/17")
    assert answer.status_code == 200
    assert "purchase-stream dlq show 0:17" in answer.text
    assert "purchase-stream why" not in answer.text


def test_foreign_text_is_text_on_a_rejection() -> None:
    """Markup in any part of a dead letter is shown as text."""
    evil = letter(
        code="field_invalid",
        status=EVIL,
        detail=[{"type": EVIL, "loc": [EVIL], "msg": EVIL}],
        event={EVIL: EVIL},
        source={"topic": EVIL, "partition": EVIL, "offset": EVIL},
        raw_sha256=EVIL,
        raw="",
        rejected_at=EVIL,
    )
    html = client_of(evil, headers=[(EVIL, EVIL.encode())]).get("/rejections/0/17").text
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert html.count("&lt;script&gt;alert(1)") >= 11
    assert " style=" not in html


def test_a_prediction_shows_its_inputs() -> None:
    """Inputs as received, score, model, and the command that explains the event."""
    answer = client_of(prediction()).get("/predictions/0/17")
    assert answer.status_code == 200
    assert "purchase-stream why " in answer.text
    assert "Minutes spent on exams" in answer.text
    assert "Will buy" in answer.text


def test_a_prediction_shows_its_reasons() -> None:
    """Each input with its amount, the largest first; a version that was removed is said."""
    answer = client_of(prediction()).get("/predictions/0/17").text
    amounts = re.findall(r"<td>([+-][\d.]+)</td>", answer)
    assert amounts == ["-0.350", "-1.250", "+0.500", "+0.000", "-1.100"]
    assert "Days on platform adds +0.000" in answer
    removed = client_of(prediction(model_version="v0")).get("/predictions/0/17")
    assert removed.status_code == 200
    assert "The reasons are not known: no version v0" in removed.text


def test_records_that_are_not_there_are_not_found() -> None:
    """An offset without a record, and a record that is no prediction, have no page."""
    client = client_of(b"no prediction")
    for path in ("/rejections/0/18", "/predictions/3/0", "/predictions/0/17", f"/rejections/0/{10**30}"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "has expired or never existed" in answer.text
    assert client.get("/rejections/0/x").status_code == 404
    assert client.get("/rejections/-1/0").status_code == 404


def test_a_missing_broker_is_said() -> None:
    """While Kafka is away a record's page says so, with a status that a program understands."""

    def read(_topic: str, _partition: int, _offset: int) -> StoredRecord | None:
        raise Unavailable("no Kafka answers at localhost:9092")

    answer = TestClient(Starlette(routes=page_routes(Settings(), data_of(dict, read)))).get(
        "/rejections/0/17"
    )
    assert answer.status_code == 503
    assert "no Kafka answers at localhost:9092" in answer.text


def test_a_rejection_whose_json_is_deep_or_wide_has_a_page() -> None:
    """Values of any JSON type are shown as JSON."""
    body = json.loads(letter()) | {"event": {"a": [1, {"b": None}], "c": 1e300, "d": True}}
    html = client_of(json.dumps(body).encode()).get("/rejections/0/17").text
    assert "[1,{&#34;b&#34;:null}]" in html
    assert "<bdi>true</bdi>" in html


def test_a_search_lists_predictions_and_rejections(tmp_path: Path) -> None:
    """Both are listed with links to their pages; the text that was searched for stays text."""
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(("e-1", "s-1"), ("e-2", "s-2")))
    rejections = RejectionLog()
    rejections.add([letter(), letter(event={"student_id": "s-9"})], [(3, 40), (3, 41)], counted=[True, True])
    settings = Settings(audit=AuditSettings(path=log))
    client = TestClient(
        Starlette(routes=page_routes(settings, data_of(dict, find_rejections=rejections.find)))
    )
    html = client.get("/search", params={"q": " s-1 "}).text
    assert 'href="/predictions/0/0"' in html
    assert 'href="/predictions/0/1"' not in html
    assert 'href="/rejections/3/40"' in html
    assert 'href="/rejections/3/41"' not in html
    assert 'value="s-1"' in html
    html = client.get("/search", params={"q": EVIL}).text
    assert "<script>alert" not in html
    assert "Nothing found for" in html
    assert "Nothing found" not in client.get("/search").text


def test_a_past_window_has_a_page(trained: Any, predict: Any) -> None:
    """A recent window is shown with its own verdicts; any other number is not found."""
    drifted = np.argsort(trained.students[:, INPUT_NAMES.index("days_on_platform")])[-500:].tolist()
    model = model_snapshot(trained.store, predict(range(500)), predict(drifted))

    def window(number: int) -> dict[str, Any] | None:
        return window_answer(model, DRIFT_SETTINGS, number)

    client = TestClient(Starlette(routes=page_routes(Settings(), data_of(dict, window=window))))
    assert "▲" not in client.get("/windows/1").text
    assert "▲" in client.get("/windows/2").text
    assert client.get("/windows/2").text.count("<article") == 9
    for number in (0, 3, 10**30):
        assert client.get(f"/windows/{number}").status_code == 404


def test_records_of_an_erased_student_have_no_page() -> None:
    """Neither by their key nor by their content, and the list of dead letters leaves them out."""
    removals = Removals()
    removals = removals.with_erasure(
        Erasure(student=removals.hashed(b"s-9"), erased_at="2026-01-31T12:00:00.000Z", before={}, lines=1)
    )

    def pages(key: bytes, value: bytes, timestamp_ms: int) -> RecordPages:
        def read(topic: str, partition: int, offset: int) -> StoredRecord:
            return StoredRecord(
                topic=topic,
                partition=partition,
                offset=offset,
                timestamp_ms=timestamp_ms,
                key=key,
                value=value,
                headers=[],
            )

        decoder = Decoder(purchase_prediction(), BundledSchemas())
        return RecordPages(read, TopicSettings(), decoder, explain, removals)

    dead_letter = letter(event={"student_id": "s-9"}, rejected_at="2026-01-31T11:00:00.000Z")
    erased_at_ms = removals.erased_at_ms(b"s-9")
    assert erased_at_ms is not None
    for key, student, at_ms, shown in [
        (b"s-9", "s-1", erased_at_ms, False),
        (b"k", "s-9", erased_at_ms, False),
        (b"s-9", "s-9", erased_at_ms + 1, True),
        (b"s-1", "s-1", 0, True),
    ]:
        prediction_page = pages(key, prediction(student_id=student), at_ms).prediction(0, 1)
        assert (prediction_page is not None) == shown, (key, student)
    assert pages(b"k", dead_letter, erased_at_ms).rejection(0, 1) is None
    assert pages(b"k", dead_letter, erased_at_ms + 1).rejection(0, 1) is not None
    rejections = RejectionLog(removals)
    rejections.add([dead_letter], [(0, 1)], counted=[True])
    assert (rejections.find("s-9"), sum(rejections.counts.values())) == ([], 1)
