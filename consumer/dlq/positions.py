"""How far a replay has come in one partition of the dead-letter topic, code by code. Pure.

A replay of one code passes the others over, and they must not count as replayed. So a group's committed
offset says from where on there is anything left, and its metadata from where on for each code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import orjson

from consumer.dlq.letter import CODES

_NEXT: Final = "next"


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to replay, for each of :data:`CODES`."""

    next_offsets: Mapping[str, int]

    @classmethod
    def at(cls, offset: int) -> Self:
        """Return the position in front of an offset."""
        return cls(dict.fromkeys(CODES, offset))

    @classmethod
    def read(cls, offset: int, metadata: str | None) -> Self:
        """Read a position as it was committed; a code that is not named is at the offset.

        Metadata that is not ours means nothing: whoever resets the group's offset resets it for all.
        """
        try:
            told = orjson.loads(metadata or "")[_NEXT]
            known = {code: int(told[code]) for code in CODES if code in told}
        except (ValueError, KeyError, TypeError):
            known = {}
        return cls({code: max(known.get(code, offset), offset) for code in CODES})

    @property
    def offset(self) -> int:
        """From here on there may be something left; this is what is committed."""
        return min(self.next_offsets.values())

    @property
    def metadata(self) -> str:
        """What is committed beside the offset: the codes that are further."""
        ahead = {code: at for code, at in self.next_offsets.items() if at > self.offset}
        return orjson.dumps({_NEXT: ahead}).decode() if ahead else ""

    def is_due(self, code: str, offset: int) -> bool:
        """Tell whether a dead letter was not replayed yet."""
        return offset >= self.next_offsets[code]

    def first_due(self, codes: Iterable[str]) -> int:
        """Return from where on there may be something left of these codes."""
        return min(self.next_offsets[code] for code in codes)

    def after(self, codes: Iterable[str], offset: int) -> Position:
        """Return the position once all dead letters of these codes before an offset are replayed."""
        moved = {code: max(self.next_offsets[code], offset) for code in codes}
        return Position({**self.next_offsets, **moved})
