"""Dead letters as the page shows them: counted by code, and the last of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumer.pipeline.dead_letter import message
from consumer.pipeline.rejections import Code

ROWS_SHOWN: Final = 10
_OTHER: Final = "other"
_CODES: Final = frozenset(Code)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRejection:
    """One dead letter.

    Attributes:
        rejected_at: as it says, RFC 3339.
        code: its code, or ``other`` if it is none of ours.
        detail: what is wrong, in a line.
        event_id: where the event could be decoded.
        student_id: likewise.
        source: topic, partition and offset of the event, in one text.
    """

    rejected_at: str
    code: str
    detail: str
    event_id: str
    student_id: str
    source: str


class RejectionLog:
    """Counts dead letters and keeps the last."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last: list[RecentRejection] = []

    def add(self, values: Sequence[bytes | None], *, counted: Sequence[bool]) -> None:
        """Take in dead letters in their order.

        Args:
            values: their values.
            counted: whether each one counts; those from before we began are only shown.
        """
        shown = []
        for value, counts in zip(values, counted, strict=True):
            if value is None:
                continue
            shown.append(_shown(value))
            if counts:
                self._counts[shown[-1].code] += 1
        self._last = [*reversed(shown), *self._last][:ROWS_SHOWN]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of each code, the most frequent first."""
        return dict(self._counts.copy().most_common())

    @property
    def last(self) -> Sequence[RecentRejection]:
        """The last ones, newest first."""
        return self._last


def _shown(value: bytes) -> RecentRejection:
    """Read a dead letter; whatever else lies in the topic is shown as it can be."""
    letter = _mapping(_parsed(value))
    source, event = _mapping(letter.get("source")), _mapping(letter.get("event"))
    code = letter.get("code")
    return RecentRejection(
        rejected_at=str(letter.get("rejected_at", "")),
        code=code if isinstance(code, str) and code in _CODES else _OTHER,
        detail=_detail(letter.get("detail")),
        event_id=str(event.get("event_id", "")),
        student_id=str(event.get("student_id", source.get("key") or "")),
        source=f"{source.get('topic', '?')}[{source.get('partition', '?')}]@{source.get('offset', '?')}",
    )


def _parsed(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _detail(detail: Any) -> str:
    try:
        return message(detail) if isinstance(detail, str | list) else ""
    except (KeyError, IndexError, TypeError):
        return str(detail)
