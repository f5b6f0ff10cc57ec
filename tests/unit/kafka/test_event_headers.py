"""Headers that the client cannot decode must not keep a dead letter from being written."""

from __future__ import annotations

from typing import Any

from consumer.kafka.consumer import headers_of


class Message:
    """A message whose headers are what the test says."""

    def __init__(self, headers: Any) -> None:
        self._headers = headers

    def headers(self) -> Any:
        """Return the headers, or raise as the client does for a name that is not UTF-8."""
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers


def test_headers_are_passed_on_in_order_and_none_are_none() -> None:
    """Repeated names and null values included."""
    pairs = [("a", b"1"), ("a", None)]
    assert headers_of(Message(pairs)) == pairs  # type: ignore[arg-type]  # a stand-in
    assert headers_of(Message(None)) == []  # type: ignore[arg-type]  # a stand-in


def test_a_name_that_is_not_utf8_is_said_to_be_unreadable() -> None:
    """The event is rejected for its own reason, and its dead letter says what is missing."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert headers_of(Message(error)) == [("dlq.error.headers", b"unreadable")]  # type: ignore[arg-type]  # a stand-in
