"""The headers of records that were read, as far as the client can tell them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from confluent_kafka import Message

from consumer.core.batch import Headers


def headers_of(message: Message) -> Headers:
    """Return a record's headers; ones whose names are not UTF-8 cannot be had from the client."""
    try:
        return list(message.headers() or ())  # type: ignore[arg-type]  # a list, of bytes
    except UnicodeDecodeError:
        return [("dlq.error.headers", b"unreadable")]


def headers_of_all(messages: Sequence[Message]) -> list[Headers]:
    """Return the headers of each record; hardly any has some, which one look tells."""
    with contextlib.suppress(UnicodeDecodeError):
        if not any(map(Message.headers, messages)):
            return [[]] * len(messages)
    return list(map(headers_of, messages))
