"""Dead letters: the JSON and headers of the contract, and the original bytes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.batch import Headers, RawBatch
from consumer.pipeline.dead_letter import DeadLetter, dead_letters, summarize_detail
from consumer.pipeline.rejections import Code, Rejection, Rejections
from tests.support.dead_letters import ALL_BROKEN, OWN_HEADERS, PROBLEM, letter_of
from tests.support.events import TOPIC, event, good, raw_batch


def test_the_value_is_the_json_of_the_contract() -> None:
    """Keys, order and types."""
    letter = letter_of()
    assert orjson.loads(letter.value) == {
        "status": 422,
        "code": "field_invalid",
        "detail": [PROBLEM],
        "rejected_at": "2023-11-14T22:13:21.234Z",
        "source": {
            "topic": TOPIC,
            "partition": 4,
            "offset": 42,
            "timestamp": 1_700_000_000_500,
            "key": "s-1",
        },
        "event": event(minutes_watched=-1.0),
        "raw": base64.b64encode(b"original").decode(),
        "raw_truncated": False,
        "raw_sha256": hashlib.sha256(b"original").hexdigest(),
    }
    assert list(orjson.loads(letter.value)) == [
        *("status", "code", "detail", "rejected_at", "source", "event", "raw", "raw_truncated", "raw_sha256")
    ]
    assert (letter.row, letter.key) == (1, b"s-1")


def test_our_headers_stand_after_the_original_ones() -> None:
    """Original headers as they came, repeated names and null values included; ours are text."""
    original: Headers = [("trace", b"\xff\x00"), ("trace", None), ("dlq.error.code", b"forged"), ("", b"")]
    letter = letter_of(headers=original)
    assert letter.headers == [
        *original,
        ("__dlq.errors.topic", TOPIC.encode()),
        ("__dlq.errors.partition", b"4"),
        ("__dlq.errors.offset", b"42"),
        ("__dlq.errors.group", b"purchase-stream"),
        ("__dlq.errors.message", b"minutes_watched: Input should be greater than or equal to 0"),
        ("dlq.error.code", b"field_invalid"),
        ("dlq.error.status", b"422"),
    ]


@pytest.mark.parametrize("code", Code)
def test_a_status_shows_whose_fault_it_was(code: Code) -> None:
    """500 if we are at fault, 422 if the event is."""
    body = orjson.loads(letter_of(Rejection(1, code, "why")).value)
    ours = {"model_failed", "publish_refused"}
    assert (body["code"], body["status"], body["detail"]) == (code.value, 500 if code in ours else 422, "why")


def test_a_tombstone_has_no_raw_value() -> None:
    """There are no bytes to keep."""
    body = orjson.loads(letter_of(Rejection(1, Code.TOMBSTONE, "none"), value=None).value)
    assert (body["raw"], body["raw_truncated"], body["raw_sha256"], body["event"]) == (
        None,
        False,
        None,
        None,
    )


def test_an_empty_value_is_not_a_tombstone() -> None:
    """Its raw is the empty text."""
    body = orjson.loads(letter_of(value=b"").value)
    assert (body["raw"], body["raw_truncated"]) == ("", False)
    assert body["raw_sha256"] == hashlib.sha256(b"").hexdigest()


def test_a_record_without_timestamp_says_null() -> None:
    """Kafka's -1 is not a time."""
    assert orjson.loads(letter_of(timestamp_ms=-1).value)["source"]["timestamp"] is None
    assert orjson.loads(letter_of(timestamp_ms=0).value)["source"]["timestamp"] == 0


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (None, None),
        (b"", ""),
        ("é".encode(), "é"),
        (b"a\xff\xfe", "a\\xff\\xfe"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_a_key_is_shown_as_text_and_kept_as_bytes(key: bytes | None, shown: str | None) -> None:
    """Bytes that are no UTF-8 are escaped in the JSON; the record's own key is untouched."""
    letter = letter_of(key=key)
    assert letter.key == key
    assert orjson.loads(letter.value)["source"]["key"] == shown


def test_a_detail_is_summarized_in_one_line() -> None:
    """The header has room for a sentence."""
    other = PROBLEM | {"loc": ["event", "courses_started"]}
    said = "Input should be greater than or equal to 0"
    assert summarize_detail([PROBLEM, other]) == f"minutes_watched: {said}; courses_started: {said}"
    assert summarize_detail("as it is") == "as it is"


def test_letters_come_in_the_order_of_their_rejections() -> None:
    """One dead letter per rejection, for its row."""
    raw = raw_batch([good(), b"x", None], keys=[b"a", b"b", b"c"])
    rejections = Rejections.of([Rejection(2, Code.TOMBSTONE, "t"), Rejection(1, Code.UNKNOWN_FRAMING, "f")])
    letters = list(dead_letters(rejections, raw, group="g", rejected_at_ms=0, max_bytes=10_000))
    assert [(letter.row, letter.key) for letter in letters] == [(1, b"b"), (2, b"c")]
    assert orjson.loads(letters[0].value)["rejected_at"] == "1970-01-01T00:00:00.000Z"


_DETAILS = (
    [PROBLEM],
    [PROBLEM],  # equal to the one before, and not the same
    ALL_BROKEN,
    "as it is",
    'zitiert "“€”" \\ \n',
)
_FIELDS = st.sampled_from(["e-1", "", 'a":null,"b', "é\x00€𝄞"]).map(
    lambda identity: orjson.dumps(event(event_id=identity))
)
_LETTERS = st.lists(
    st.tuples(
        st.sampled_from(Code),
        st.sampled_from(_DETAILS),
        st.none() | _FIELDS,
        st.none() | st.binary(max_size=200),
        st.none() | st.binary(max_size=12),
        st.lists(st.tuples(st.sampled_from(["h", "é"]), st.none() | st.binary(max_size=5)), max_size=2),
    ),
    max_size=8,
)


@given(letters=_LETTERS, offset=st.integers(0, 2**63 - 10), timestamp_ms=st.sampled_from([-1, 0, 2**62]))
@settings(max_examples=300)
def test_each_dead_letter_is_what_it_would_be_alone(
    letters: list[tuple[Any, ...]], offset: int, timestamp_ms: int
) -> None:
    """Fragments are shared; the JSON and the headers are byte for byte those of one call."""
    raw = raw_batch(
        [value for *_, value, _, _ in letters],
        keys=[key for *_, key, _ in letters],
        headers=[headers for *_, headers in letters],
        partitions=[row % 3 for row in range(len(letters))],
        first_offset=offset,
        timestamp_ms=timestamp_ms,
    )
    rejections = [
        Rejection(row, code, detail, fields) for row, (code, detail, fields, *_) in enumerate(letters)
    ]
    built = dead_letters(
        Rejections.of(rejections), raw, group="g€", rejected_at_ms=1_700_000_001_234, max_bytes=100_000
    )
    assert list(built) == [_plainly(rejection, raw) for rejection in rejections]


def _plainly(rejection: Rejection, raw: RawBatch) -> DeadLetter:
    """Build a complete dead letter as the contract words it, with no thought of its cost."""
    row, code, detail, fields = rejection
    value, key, (timestamp_ms,) = raw.values[row], raw.keys[row], raw.timestamps_ms([row])
    status = 500 if code in ("model_failed", "publish_refused") else 422
    body = {
        "status": status,
        "code": code.value,
        "detail": detail,
        "rejected_at": "2023-11-14T22:13:21.234Z",
        "source": {
            "topic": TOPIC,
            "partition": raw.partitions[row],
            "offset": raw.offsets[row],
            "timestamp": timestamp_ms if timestamp_ms >= 0 else None,
            "key": None if key is None else key.decode(errors="backslashreplace"),
        },
        "event": fields and orjson.loads(fields),
        "raw": None if value is None else base64.b64encode(value).decode(),
        "raw_truncated": False,
        "raw_sha256": None if value is None else hashlib.sha256(value).hexdigest(),
    }
    said = detail if isinstance(detail, str) else "; ".join(f"{p['loc'][-1]}: {p['msg']}" for p in detail)
    own = [
        TOPIC,
        str(raw.partitions[row]),
        str(raw.offsets[row]),
        "g€",
        said,
        code.value,
        str(status),
    ]
    headers = [(name, text.encode()) for name, text in zip(OWN_HEADERS, own, strict=True)]
    return DeadLetter(row, key, orjson.dumps(body), [*raw.headers([row])[0], *headers])
