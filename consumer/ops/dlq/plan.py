"""How far a replay has come in one partition of the dead-letter topic, code by code. Pure.

A replay of one code passes the others over, and they must not count as replayed. So a group's committed
offset says from where on there is anything left, and its metadata from where on for each code.

Which dead letters a replay takes, and how far it has come. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import orjson

from consumer.errors import StartupError
from consumer.ops.dlq.dead_letter import CODES, DeadLetterRecord, Original, Unreplayable, original

_NEXT: Final = "next"


@dataclass(frozen=True, slots=True)
class ReplayPosition:
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

    def after(self, codes: Iterable[str], offset: int) -> ReplayPosition:
        """Return the position once all dead letters of these codes before an offset are replayed."""
        moved = {code: max(self.next_offsets[code], offset) for code in codes}
        return ReplayPosition({**self.next_offsets, **moved})


Refused = Callable[[DeadLetterRecord, str], None]
"""Told of every dead letter that cannot be replayed, and why, before the replay passes it."""


@dataclass(slots=True)
class Replayed:
    """What became of the dead letters that were looked at.

    Attributes:
        sent: events by the code of their dead letter; what would be sent, of a dry run.
        refused: dead letters that cannot be replayed, by the code.
        passed: dead letters of other codes than were asked for.
        expired: where dead letters went before they were replayed: their retention was over.
    """

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    expired: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReplayItem:
    """A dead letter that is to be replayed now, and the event that it was."""

    letter: DeadLetterRecord
    event: Original


class ReplayPlan:
    """Which dead letters are due: of the codes that are asked for, and not replayed before.

    Args:
        events_topic: where the events came from, and go.
        codes: to replay, of :data:`consumer.ops.dlq.dead_letter.CODES`; empty means all.
        limit: at most so many events.
        on_refused: see :data:`Refused`.
        event_partitions: how many partitions the events topic has.
    """

    def __init__(
        self,
        events_topic: str,
        codes: Sequence[str],
        limit: int | None,
        on_refused: Refused,
        event_partitions: int,
    ) -> None:
        self.codes = tuple(codes) or CODES
        self.positions: dict[int, ReplayPosition] = {}
        self.replayed = Replayed()
        self.left = limit
        self._events_topic = events_topic
        self._on_refused = on_refused
        self._event_partitions = event_partitions
        self._told: set[str] = set()

    def begin(
        self,
        topic: str,
        ranges: Mapping[int, tuple[int, int]],
        committed: Mapping[int, tuple[int, str | None]],
    ) -> dict[int, tuple[int, int]]:
        """Take over what was committed; return what is to be read.

        Args:
            topic: the dead-letter topic.
            ranges: first offset and end (exclusive) of each partition.
            committed: offset and metadata of each partition that has any.

        Raises:
            StartupError: the topic does not go as far as the replay has come.
        """
        todo = {}
        for partition, (begin, end) in ranges.items():
            position = ReplayPosition.read(*committed.get(partition, (begin, None)))
            furthest, first = max(position.next_offsets.values()), position.first_due(self.codes)
            if furthest > end:
                raise StartupError(
                    f"the replay has come to offset {furthest} of {topic}[{partition}], which ends at {end};"
                    " if the topic was created anew, delete the replay's consumer group"
                )
            if first < begin:
                self.replayed.expired.append(f"{partition}:{first} to {partition}:{begin - 1}")
            self.positions[partition] = position
            todo[partition] = (max(first, begin), end)
        return todo

    def take(self, letters: Sequence[DeadLetterRecord]) -> list[ReplayItem]:
        """Return which of these are due, and pass all of them; none are passed behind the limit."""
        due = []
        for letter in letters:
            if self.left == 0:
                break
            code = letter.code
            if code not in self.codes:
                self.replayed.passed += 1
            elif self.positions[letter.partition].is_due(code, letter.offset):
                try:
                    due.append(ReplayItem(letter, self._event_of(letter)))
                except Unreplayable as why:
                    self.refuse(letter, str(why))
                else:
                    self.replayed.sent[code] += 1
                    self.left = None if self.left is None else self.left - 1
            self.pass_(letter.partition, letter.offset + 1)
        return due

    def refuse(self, letter: DeadLetterRecord, why: str) -> None:
        """Count a dead letter that cannot be replayed, and tell it unless that was done."""
        self.replayed.refused[letter.code] += 1
        if letter.place not in self._told:
            self._told.add(letter.place)
            self._on_refused(letter, why)

    def snapshot(self) -> tuple[dict[int, ReplayPosition], Replayed, int | None]:
        """Return the state, to be restored if what was taken could not be published."""
        counted = self.replayed
        copied = Replayed(Counter(counted.sent), Counter(counted.refused), counted.passed, counted.expired)
        return dict(self.positions), copied, self.left

    def restore(self, state: tuple[dict[int, ReplayPosition], Replayed, int | None]) -> None:
        """Return to a state."""
        self.positions, self.replayed, self.left = state

    def pass_(self, partition: int, offset: int) -> None:
        """Note that everything before an offset was looked at."""
        self.positions[partition] = self.positions[partition].after(self.codes, offset)

    def committable(self) -> dict[int, tuple[int, str]]:
        """Return what is to be committed."""
        return {partition: (at.offset, at.metadata) for partition, at in self.positions.items()}

    def _event_of(self, letter: DeadLetterRecord) -> Original:
        event = original(letter, self._events_topic)
        if event.partition >= self._event_partitions:
            raise Unreplayable(f"{self._events_topic} has no partition {event.partition} any more")
        return event
