"""Single dead letters, for the tests of what they say and of how large they get.

Rejected events and their dead letters, put into a topic by hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson
from confluent_kafka import Producer

from consumer.pipeline.batch import Headers
from consumer.pipeline.dead_letter import DeadLetter, dead_letters
from consumer.pipeline.rejections import Code, Rejection, Rejections
from tests.support.events import event, raw_batch

PROBLEM: Final[dict[str, Any]] = {
    "type": "greater_than_equal",
    "loc": ["event", "minutes_watched"],
    "msg": "Input should be greater than or equal to 0",
}
ALL_BROKEN: Final = [PROBLEM | {"loc": ["event", name]} for name in event()]
NEGATIVE_MINUTES: Final = Rejection(
    1, Code.FIELD_INVALID, [PROBLEM], orjson.dumps(event(minutes_watched=-1.0))
)
OWN_HEADERS: Final = [
    "__dlq.errors.topic",
    "__dlq.errors.partition",
    "__dlq.errors.offset",
    "__dlq.errors.group",
    "__dlq.errors.message",
    "dlq.error.code",
    "dlq.error.status",
]


def letter_of(
    rejection: Rejection | None = None,
    *,
    value: bytes | None = b"original",
    key: bytes | None = b"s-1",
    headers: Headers | None = None,
    timestamp_ms: int = 1_700_000_000_500,
    max_bytes: int = 1_000_000,
) -> DeadLetter:
    """Return the dead letter of one rejection, the second row of a batch."""
    raw = raw_batch(
        [b"other", value],
        keys=[b"k", key],
        headers=[[], headers or []],
        partitions=[0, 4],
        first_offset=41,
        timestamp_ms=timestamp_ms,
    )
    (letter,) = dead_letters(
        Rejections.of([rejection or NEGATIVE_MINUTES]),
        raw,
        group="purchase-stream",
        rejected_at_ms=1_700_000_001_234,
        max_bytes=max_bytes,
    )
    return letter


HEADERS: Headers = [("trace", b"t-1"), ("trace", None), ("bin", b"\xff\x00")]
KINDS = (Code.UNKNOWN_SCHEMA, Code.TOMBSTONE, Code.FIELD_INVALID)

Event = tuple[int, bytes | None, bytes | None, Headers]


def reject(service: Any, events: list[tuple[Event, Code]], *, max_bytes: int = 1_000_000) -> None:
    """Write the dead letters of events that need not be in the events topic."""
    producer = Producer({"bootstrap.servers": service.servers, "message.max.bytes": 2_000_000})
    for offset, ((partition, key, value, headers), code) in enumerate(events):
        raw = raw_batch([value], keys=[key], headers=[headers], partitions=[partition], first_offset=offset)
        raw = replace(raw, topic=service.topics["EVENTS"])
        (letter,) = dead_letters(
            Rejections.of([Rejection(0, code, f"{code} it is")]),
            raw,
            group="g",
            rejected_at_ms=1_790_000_000_000,
            max_bytes=max_bytes,
        )
        producer.produce(
            service.topics["DEAD_LETTERS"], letter.value, letter.key, 0, headers=[*letter.headers]
        )
    assert producer.flush(20) == 0


def events_of(count: int) -> list[tuple[Event, Code]]:
    """Return rejected events of every kind, over two partitions."""
    kinds = [KINDS[n % 3] for n in range(count)]
    return [
        ((n % 2, b"\xffkey-%d" % n, None if code is Code.TOMBSTONE else b"raw-%d" % n, HEADERS), code)
        for n, code in enumerate(kinds)
    ]


def replayed(service: Any, count: int) -> list[Event]:
    """Return what committed readers find in the events topic, which must be this many."""
    found = service.read(service.topics["EVENTS"], count)
    return [(record.partition(), record.key(), record.value(), record.headers() or []) for record in found]


def in_order(events: list[Event]) -> list[Event]:
    """Sort by partition, and keep the order inside each."""
    return sorted(events, key=lambda event: event[0])
