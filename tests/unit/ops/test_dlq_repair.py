"""A repair changes what it says and nothing else, and dead letters with one cause share a signature."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from consumer.errors import UsageError
from consumer.ops.dlq.dead_letter import (
    DeadLetterRecord,
    NotReplayable,
    Signature,
    collect_signatures,
    parse_body,
    signature_of,
)
from consumer.ops.dlq.plan import RejectionPreview
from consumer.ops.dlq.repair import Repair
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import dead_letters
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Rejections
from consumer.pipeline.validate import validate
from schemas.repository import BundledSchemas, engagement_event
from tests.support.events import TOPIC, event, good, raw_batch


def rejected(values: list[bytes | None], headers: Headers | None = None) -> list[DeadLetterRecord]:
    """Return the dead letters of events, all of which must be wrong."""
    raw = raw_batch(values, keys=[b"k"] * len(values), headers=[headers or []] * len(values))
    decoded, undecodable = Decoder(engagement_event(), BundledSchemas()).decode(values)
    rejections = Rejections.merged([undecodable, validate(decoded)[1]])
    made = dead_letters(rejections, raw, group="g", rejected_at_ms=0, max_bytes=100_000)
    found = [
        DeadLetterRecord(0, n, n, item.key, item.value, item.headers, parse_body(item.value))
        for n, item in enumerate(made)
    ]
    assert len(found) == len(values)
    return found


def repaired(value: bytes, **change: Any) -> dict[str, Any]:
    """Return the fields of a repaired event, which must be accepted now."""
    (dead_letter,) = rejected([value])
    restored = Repair(**change).restore(dead_letter, TOPIC)
    assert RejectionPreview(BundledSchemas())([restored]) == [None]
    decoded, _ = Decoder(engagement_event(), BundledSchemas()).decode([restored.value])
    assert (restored.partition, restored.key) == (0, b"k")
    return decoded.record(0)


def test_a_field_that_was_wrong_gets_a_value() -> None:
    """All others stay as they were, to the last bit."""
    before = event(minutes_spent_on_exams=0.1)
    assert repaired(good(**before | {"minutes_watched": math.nan}), set={"minutes_watched": 7.5}) == (
        before | {"minutes_watched": 7.5}
    )


def test_json_is_cast_to_the_schema() -> None:
    """Numbers as text, an integer as a float, a time as text; a foreign field is dropped."""
    fields = event() | {
        "days_on_platform": "12",
        "courses_started": 3.0,
        "minutes_watched": "2.50",
        "extra": 1,
    }
    fields["occurred_at"] = "2026-01-31T12:00:00Z"
    change = {
        "cast": ["days_on_platform", "courses_started", "minutes_watched", "occurred_at"],
        "drop": ["extra"],
    }
    assert repaired(orjson.dumps(fields), **change) == event() | {
        "days_on_platform": 12,
        "courses_started": 3,
        "minutes_watched": 2.5,
        "occurred_at": 1_769_860_800_000,
    }


@pytest.mark.parametrize(
    ("value", "change", "word"),
    [
        (b"no JSON", {}, "could not be decoded"),
        (b"[1]", {}, "could not be decoded"),
        (orjson.dumps(event() | {"extra": 1}), {}, "--drop extra"),
        (orjson.dumps({"event_id": "a"}), {}, "student_id is missing"),
        (orjson.dumps(event() | {"days_on_platform": "12"}), {}, "--cast days_on_platform"),
        (orjson.dumps(event() | {"days_on_platform": True}), {}, "--cast days_on_platform"),
        (orjson.dumps(event() | {"days_on_platform": "1.5"}), {"cast": ["days_on_platform"]}, "'1.5'"),
        (orjson.dumps(event() | {"minutes_watched": None}), {"cast": ["minutes_watched"]}, "None"),
        (orjson.dumps(event() | {"days_on_platform": 2**63}), {}, "days_on_platform"),
    ],
)
def test_what_cannot_be_repaired_says_why(value: bytes, change: dict[str, Any], word: str) -> None:
    """And what to add."""
    (dead_letter,) = rejected([value])
    with pytest.raises(NotReplayable, match=word):
        Repair(**change).restore(dead_letter, TOPIC)


@pytest.mark.parametrize(
    "options",
    [
        ([], [], []),
        ([], ["minuts"], []),
        ([], [], ["minutes_watched"]),
        ([], [], ["days_on_platform=x"]),
        ([], [], ["x=1"]),
    ],
)
def test_wrong_options_are_refused(options: tuple[list[str], list[str], list[str]]) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match="--"):
        Repair.parse(*options)


def test_the_difference_names_each_changed_field() -> None:
    """With its value before and after."""
    (dead_letter,) = rejected([orjson.dumps(event() | {"days_on_platform": "12", "extra": "\x1b[2J"})])
    change = Repair.parse(["extra"], ["days_on_platform"], ["minutes_watched=1"])
    assert sorted(change.difference(dead_letter, TOPIC)) == [
        'days_on_platform: "12" -> 12',
        'extra: "\\u001b[2J" -> absent',
        f"minutes_watched: {event()['minutes_watched']} -> 1.0",
    ]


def test_a_signature_names_code_field_schema_and_producer() -> None:
    """Each part is "-" if the dead letter does not show it."""
    headers: Headers = [("ce_source", b"/app/ios"), ("ce_source", b"second")]
    values = [
        good(minutes_watched=-1.0, days_on_platform=-1),
        good(practice_exams_started=1, practice_exams_passed=2),
        b"\xc3\x01" + b"\xff" * 8 + b"rest",
        b"\x00\x00\x00\x00\x2a" + b"rest",
        None,
        b"{}",
    ]
    found = [signature_of(dead_letter) for dead_letter in rejected(values, headers)]
    own = f"fingerprint {engagement_event().fingerprint.hex()}"
    assert found[:3] == [
        Signature("field_invalid", "days_on_platform+minutes_watched", own, "/app/ios"),
        Signature("rule_violated", "practice_exams_passed", own, "/app/ios"),
        Signature("unknown_schema", "-", "fingerprint ffffffffffffffff", "/app/ios"),
    ]
    assert found[3].schema == "id 42"
    assert [(found[n].code, found[n].schema) for n in (4, 5)] == [
        ("tombstone", "-"),
        ("unknown_framing", "-"),
    ]
    foreign = DeadLetterRecord(0, 0, 0, None, b"?", [], None)
    assert signature_of(foreign) == Signature("other", "-", "-", "-")


def test_signatures_add_up() -> None:
    """The most frequent first, each with its oldest and newest dead letter."""
    found = collect_signatures(
        rejected([good(minutes_watched=-1.0), None, None, good(minutes_watched=-1.0), None])
    )
    assert [(signature.code, stats.count) for signature, stats in found.items()] == [
        ("tombstone", 3),
        ("field_invalid", 2),
    ]
    assert [(stats.first, stats.last) for stats in found.values()] == [("0:1", "0:4"), ("0:0", "0:3")]
