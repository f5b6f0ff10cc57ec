"""Single dead letters, for the tests of what they say and of how large they get."""

from __future__ import annotations

from typing import Any, Final

import orjson

from consumer.core.batch import Headers
from consumer.core.dead_letter import DeadLetter, dead_letters
from consumer.core.rejections import Code, Rejection, Rejections
from tests.builders import event, raw_batch

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
