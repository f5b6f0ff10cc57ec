"""A dead letter always fits: what it gives up, in which order, and that it uses the room there is."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.kafka import client_config
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import DROPPED_HEADER, DeadLetter
from consumer.pipeline.rejections import Code, Rejection
from tests.support.dead_letters import ALL_BROKEN, OWN_HEADERS, PROBLEM, letter_of
from tests.support.events import event


def _wire_bytes(letter: DeadLetter) -> int:
    """Return what a record batch with this one record takes (Kafka protocol, magic 2)."""

    def varint(value: int) -> int:
        return max(1, -(-(2 * value).bit_length() // 7))

    fields = [
        letter.key or b"",
        letter.value,
        *(part for n, v in letter.headers for part in (n.encode(), v or b"")),
    ]
    record = 3 + varint(len(letter.headers)) + sum(varint(len(field)) + len(field) for field in fields)
    return 61 + varint(record) + record


REJECTIONS = st.sampled_from(
    [
        Rejection(1, Code.FIELD_INVALID, ALL_BROKEN, orjson.dumps(event(event_id="x" * 3000))),
        Rejection(1, Code.UNDECODABLE, "Not a record of " + "x" * 2000),
        Rejection(1, Code.UNDECODABLE, '"€' * 300),
        Rejection(1, Code.RULE_VIOLATED, "short", orjson.dumps(event())),
    ]
)
_SIZES = st.integers(0, 20) | st.integers(0, 5000)
_BYTES = st.builds(lambda n, byte: byte * n, _SIZES, st.sampled_from([b"a", b"\xff", b"\x00"]))


@given(
    rejection=REJECTIONS,
    value=st.none() | _BYTES,
    key=st.none() | _BYTES,
    headers=st.lists(st.tuples(st.sampled_from(["h", "é" * 60]), st.none() | _BYTES), max_size=4),
    max_bytes=st.integers(700, 12_000),
)
@settings(max_examples=300)
def test_a_dead_letter_always_fits_and_says_what_it_left_out(
    rejection: Rejection, value: bytes | None, key: bytes | None, headers: Headers, max_bytes: int
) -> None:
    """Whatever is large, the record fits its topic, and raw is a prefix of the value."""
    letter = letter_of(rejection, value=value, key=key, headers=headers, max_bytes=max_bytes)
    assert _wire_bytes(letter) <= max_bytes
    body = orjson.loads(letter.value)
    kept = None if body["raw"] is None else base64.b64decode(body["raw"])
    if value is None:
        assert (kept, body["raw_truncated"], body["raw_sha256"]) == (None, False, None)
    else:
        assert kept is not None
        assert value.startswith(kept)
        assert body["raw_truncated"] == (kept != value)
        assert body["raw_sha256"] == hashlib.sha256(value).hexdigest()
    assert letter.key in (key, None)
    gone = [name for name, lost in (("headers", headers), ("key", key is not None)) if lost]
    kept_headers = letter.headers[: len(headers)] == headers
    assert (
        dict(letter.headers).get(DROPPED_HEADER, b"")
        == ",".join(
            name for name in gone if not (kept_headers if name == "headers" else letter.key is not None)
        ).encode()
    )
    assert (body["source"]["key"] is None) == (letter.key is None)
    assert [name for name, _ in letter.headers][-2:] == OWN_HEADERS[-2:]
    assert body["code"] == rejection.code


def _what_is_left(letter: DeadLetter) -> tuple[bool, bool, bool, bool]:
    body: dict[str, Any] = orjson.loads(letter.value)
    return (
        body["event"] is not None,
        not body["raw_truncated"],
        letter.headers[0][0] == "mine",
        letter.key is not None,
    )


@pytest.mark.parametrize(
    ("value_bytes", "header_bytes", "key_bytes", "left"),
    [
        (100, 100, 100, (True, True, True, True)),
        (3000, 100, 100, (False, False, True, True)),
        (100, 4000, 100, (False, True, False, True)),
        (100, 100, 4000, (False, True, False, False)),
        (4000, 4000, 4000, (False, False, False, False)),
    ],
)
def test_what_is_dropped_first_is_what_matters_least(
    value_bytes: int, header_bytes: int, key_bytes: int, left: tuple[bool, bool, bool, bool]
) -> None:
    """Fields and the end of raw, then original headers, then the key."""
    letter = letter_of(
        value=b"v" * value_bytes,
        headers=[("mine", b"h" * header_bytes)],
        key=b"k" * key_bytes,
        max_bytes=3500,
    )
    assert _what_is_left(letter) == left


def test_a_truncated_value_uses_the_room_there_is() -> None:
    """At most a few bytes of room stay unused."""
    letter = letter_of(value=bytes(100_000), max_bytes=50_000)
    assert 49_800 < _wire_bytes(letter) <= 50_000


def test_a_key_that_is_too_large_costs_none_of_our_headers() -> None:
    """They and the full detail go only where nothing else is left to drop."""
    letter = letter_of(key=b"k" * 4000, max_bytes=3500)
    assert [name for name, _ in letter.headers] == [DROPPED_HEADER, *OWN_HEADERS]
    assert orjson.loads(letter.value)["detail"] == [PROBLEM]


def test_a_value_that_only_just_fits_costs_neither_headers_nor_key() -> None:
    """At every limit around the size of the value."""
    for max_bytes in range(1500, 2500):
        letter = letter_of(value=bytes(1000), headers=[("mine", b"h")], max_bytes=max_bytes)
        assert letter.headers[0] == ("mine", b"h")
        assert letter.key == b"s-1"


def test_a_large_key_is_kept_beside_a_larger_value() -> None:
    """By default, the client produces a value of 600 kB with a key of 300 kB; the value is truncated."""
    letter = letter_of(
        value=bytes(600_000), key=b"k" * 300_000, max_bytes=client_config.DEFAULT_MAX_MESSAGE_BYTES
    )
    assert letter.key == b"k" * 300_000
    assert orjson.loads(letter.value)["source"]["key"] == "k" * 300_000
    assert orjson.loads(letter.value)["raw_truncated"]
    assert DROPPED_HEADER not in dict(letter.headers)
    assert _wire_bytes(letter) <= client_config.DEFAULT_MAX_MESSAGE_BYTES
