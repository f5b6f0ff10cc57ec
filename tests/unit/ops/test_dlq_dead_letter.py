"""A dead letter gives its event back byte for byte, or says why it cannot."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops.dlq.dead_letter import OTHER, DeadLetterRecord, NotReplayable, original_event, parse_body
from consumer.ops.dlq.topic import list_dead_letters
from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import dead_letters
from consumer.pipeline.rejections import Code, Rejection, Rejections
from tests.support.events import TOPIC, raw_batch

BYTES = st.binary(max_size=600)


def letter_of(
    value: bytes | None = b"original",
    *,
    key: bytes | None = b"s-1",
    headers: Headers | None = None,
    code: Code = Code.UNDECODABLE,
    max_bytes: int = 1_000_000,
    offset: int = 7,
) -> DeadLetterRecord:
    """Return the dead letter of an event, as it would be read back."""
    raw = raw_batch([value], keys=[key], headers=[headers or []], partitions=[4], first_offset=41)
    (made,) = dead_letters(
        Rejections.of([Rejection(0, code, "why")]),
        raw,
        group="g",
        rejected_at_ms=1_700_000_000_000,
        max_bytes=max_bytes,
    )
    return DeadLetterRecord(
        0, offset, 1_700_000_000_000, made.key, made.value, made.headers, parse_body(made.value)
    )


@given(
    value=st.none() | BYTES,
    key=st.none() | BYTES,
    headers=st.lists(st.tuples(st.sampled_from(["h", "trace"]), st.none() | BYTES), max_size=3),
    max_bytes=st.integers(700, 4000),
)
def test_the_event_comes_back_as_it_was_or_not_at_all(
    value: bytes | None, key: bytes | None, headers: Headers, max_bytes: int
) -> None:
    """Whatever the dead letter had to leave out, it never passes for another event."""
    letter = letter_of(value, key=key, headers=headers, max_bytes=max_bytes)
    whole = letter_of(value, key=key, headers=headers)
    assert letter.body is not None
    assert whole.body is not None
    kept = (letter.key, letter.headers, letter.body | {"event": 0})
    if kept == (key, whole.headers, whole.body | {"event": 0}):
        event = original_event(letter, TOPIC)
        assert (event.partition, event.key, event.value, event.headers) == (4, key, value, headers)
    else:
        with pytest.raises(NotReplayable, match="4:41"):
            original_event(letter, TOPIC)


def test_headers_of_the_event_stay_and_those_of_dead_letters_go() -> None:
    """Also ones that the event brought from an earlier dead letter."""
    brought: Headers = [("a", b"1"), ("__dlq.errors.topic", b"x"), ("dlq.error.code", b"y"), ("a", None)]
    assert original_event(letter_of(headers=brought), TOPIC).headers == [("a", b"1"), ("a", None)]


def changed(**changes: Any) -> DeadLetterRecord:
    """Return a dead letter whose body somebody changed."""
    letter = letter_of()
    assert letter.body is not None
    value = orjson.dumps({**letter.body, **changes})
    return DeadLetterRecord(0, 7, 0, letter.key, value, letter.headers, parse_body(value))


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        (changed(raw="AAAA"), "not those of its raw_sha256"),
        (changed(raw="no base64!"), "not those of its raw_sha256"),
        (changed(raw=None), "not those of its raw_sha256"),
        (changed(raw_sha256=None), "not those of its raw_sha256"),
        (changed(raw_truncated=True), "truncated"),
        (changed(raw_truncated=None), "truncated"),
        (changed(source={"topic": "else", "partition": 0, "offset": 0}), "of topic else"),
        (letter_of(headers=[("dlq.error.headers", b"unreadable")]), "headers could not be read"),
        (DeadLetterRecord(0, 7, 0, None, b"plain text", [], parse_body(b"plain text")), "not a dead letter"),
        (DeadLetterRecord(0, 7, 0, None, None, [], parse_body(None)), "not a dead letter"),
    ],
)
def test_what_is_not_whole_is_refused_with_the_reason(letter: DeadLetterRecord, why: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(NotReplayable, match=why):
        original_event(letter, TOPIC)


@given(
    st.none()
    | BYTES
    | st.recursive(
        st.none() | st.integers(-9, 9) | st.text(),
        lambda s: st.dictionaries(
            st.sampled_from(["code", "detail", "source", "topic", "partition", "offset", "raw"]), s
        ),
        max_leaves=12,
    ).map(orjson.dumps)
)
def test_foreign_records_are_read_without_an_exception(value: bytes | None) -> None:
    """Whatever lies in the topic can be listed."""
    letter = DeadLetterRecord(0, 0, 0, None, value, [], parse_body(value))
    assert letter.as_json()["letter"] is letter.body
    assert isinstance(letter.reason, str)
    assert letter.source
    assert letter.code


def test_a_raw_is_checked_against_its_digest() -> None:
    """The digest is of the value itself."""
    letter = changed(raw=base64.b64encode(b"z").decode(), raw_sha256=hashlib.sha256(b"z").hexdigest())
    assert original_event(letter, TOPIC).value == b"z"


def test_the_newest_are_listed_first_and_all_are_counted() -> None:
    """A limit limits what is shown, never what is counted; a foreign record counts as other."""
    letters = [letter_of(offset=n, code=Code.TOMBSTONE if n % 3 else Code.UNDECODABLE) for n in range(9)]
    letters.append(DeadLetterRecord(0, 9, 0, None, b"?", [], None))
    found = list_dead_letters(letters, [], 2)
    assert found.counts == {Code.TOMBSTONE: 6, Code.UNDECODABLE: 3, OTHER: 1}
    assert [letter.offset for letter in found.newest] == [8, 7]
    assert list_dead_letters(letters, [Code.UNDECODABLE], 0).counts == {Code.UNDECODABLE: 3}
