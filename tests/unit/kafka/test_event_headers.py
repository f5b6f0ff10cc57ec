"""Headers that the client cannot decode do not prevent a dead letter."""

from __future__ import annotations

from typing import Any

from consumer.kafka.consumer import headers_of


class Message:
    """A message with the headers of the test."""

    def __init__(self, headers: Any) -> None:
        self._headers = headers

    def headers(self) -> Any:
        """Return the headers, or raise as the client does for a name that is not UTF-8."""
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers


def test_headers_keep_their_order_and_a_record_may_have_none() -> None:
    """Repeated names and null values are kept."""
    pairs = [("a", b"1"), ("a", None)]
    assert headers_of(Message(pairs)) == pairs  # type: ignore[arg-type]  # a stand-in
    assert headers_of(Message(None)) == []  # type: ignore[arg-type]  # a stand-in


def test_a_name_that_is_not_utf8_makes_the_headers_unreadable() -> None:
    """The event is rejected for its own reason, and its dead letter says what is missing."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert headers_of(Message(error)) == [("dlq.error.headers", b"unreadable")]  # type: ignore[arg-type]  # a stand-in
