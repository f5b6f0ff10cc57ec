"""Which dead letters a replay takes, and how far it has come. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.dlq.letter import CODES, Letter, Original, Unreplayable, original
from consumer.dlq.positions import Position
from consumer.errors import StartupError

Refused = Callable[[Letter, str], None]
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
class Due:
    """A dead letter that is to be replayed now, and the event that it was."""

    letter: Letter
    event: Original


class Selection:
    """Which dead letters are due: of the codes that are asked for, and not replayed before.

    Args:
        events_topic: where the events came from, and go.
        codes: to replay, of :data:`consumer.dlq.letter.CODES`; empty means all.
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
        self.positions: dict[int, Position] = {}
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
            position = Position.read(*committed.get(partition, (begin, None)))
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

    def take(self, letters: Sequence[Letter]) -> list[Due]:
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
                    due.append(Due(letter, self._event_of(letter)))
                except Unreplayable as why:
                    self.refuse(letter, str(why))
                else:
                    self.replayed.sent[code] += 1
                    self.left = None if self.left is None else self.left - 1
            self.pass_(letter.partition, letter.offset + 1)
        return due

    def refuse(self, letter: Letter, why: str) -> None:
        """Count a dead letter that cannot be replayed, and tell it unless that was done."""
        self.replayed.refused[letter.code] += 1
        if letter.place not in self._told:
            self._told.add(letter.place)
            self._on_refused(letter, why)

    def snapshot(self) -> tuple[dict[int, Position], Replayed, int | None]:
        """Return the state, to be restored if what was taken could not be published."""
        counted = self.replayed
        copied = Replayed(Counter(counted.sent), Counter(counted.refused), counted.passed, counted.expired)
        return dict(self.positions), copied, self.left

    def restore(self, state: tuple[dict[int, Position], Replayed, int | None]) -> None:
        """Return to a state."""
        self.positions, self.replayed, self.left = state

    def pass_(self, partition: int, offset: int) -> None:
        """Note that everything before an offset was looked at."""
        self.positions[partition] = self.positions[partition].after(self.codes, offset)

    def committable(self) -> dict[int, tuple[int, str]]:
        """Return what is to be committed."""
        return {partition: (at.offset, at.metadata) for partition, at in self.positions.items()}

    def _event_of(self, letter: Letter) -> Original:
        event = original(letter, self._events_topic)
        if event.partition >= self._event_partitions:
            raise Unreplayable(f"{self._events_topic} has no partition {event.partition} any more")
        return event
