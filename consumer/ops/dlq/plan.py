"""Decide which dead letters a replay sends, and remember which ones it has handled. Pure.

The progress of a replay is committed as a consumer group's offset in each partition of the dead-letter
topic. A replay may handle dead letters out of order: only one code, only one dead letter, or only those
that would be accepted now. So the commit's metadata holds the handled offsets of each code exactly.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Final, Self
from zlib import compress, decompress
from zlib import error as zlib_error

import orjson

from consumer.errors import BadInputError, StartupError
from consumer.kafka.admin import Ranges
from consumer.ops.dlq.dead_letter import CODES, DeadLetterRecord, NotReplayable, OriginalEvent
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.pipeline import find_rejections
from schemas.repository import engagement_event

METADATA_MAX_BYTES: Final = 4096
"""A broker's default limit (offset.metadata.max.bytes)."""

_COMPRESS_FROM: Final = 500


@dataclass(frozen=True, slots=True)
class OffsetSet:
    """A set of offsets, as sorted ranges that do not touch.

    >>> handled = OffsetSet().add(0, 5).add(7, 9).add(5, 6)
    >>> handled
    OffsetSet(ranges=((0, 6), (7, 9)))
    >>> 6 in handled, 7 in handled, handled.first_missing
    (False, True, 6)
    """

    ranges: tuple[tuple[int, int], ...] = ()

    def __contains__(self, offset: int) -> bool:
        index = bisect_right(self.ranges, offset, key=lambda part: part[0])
        return index > 0 and offset < self.ranges[index - 1][1]

    @property
    def first_missing(self) -> int:
        """The first offset that is not in the set."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    def add(self, start: int, stop: int) -> OffsetSet:
        """Return the set with a range added."""
        if start >= stop:
            return self
        first = bisect_left(self.ranges, start, key=lambda part: part[1])
        last = bisect_right(self.ranges, stop, key=lambda part: part[0])
        if first < last:  # ranges that overlap or touch
            start, stop = min(start, self.ranges[first][0]), max(stop, self.ranges[last - 1][1])
        return OffsetSet((*self.ranges[:first], (start, stop), *self.ranges[last:]))


@dataclass(frozen=True, slots=True)
class ReplayPosition:
    """The handled offsets of one partition of the dead-letter topic, for each of :data:`CODES`.

    For a code, an offset counts as handled when it has no dead letter of this code.
    """

    handled: Mapping[str, OffsetSet]

    @classmethod
    def at(cls, offset: int) -> Self:
        """Return the position at which everything before an offset is handled."""
        return cls(dict.fromkeys(CODES, OffsetSet().add(0, offset)))

    @classmethod
    def parse(cls, offset: int, metadata: str | None) -> Self:
        """Parse a committed position.

        Metadata of another program is ignored, so resetting the group's offset resets it for all codes.
        """
        try:
            committed = _decode(metadata or "")
            nexts, handled = committed.get("next", {}), committed.get("handled", {})
            return cls(
                {
                    code: _from_steps([0, max(offset, int(nexts.get(code, 0))), *handled.get(code, ())])
                    for code in CODES
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError, zlib_error):
            return cls.at(offset)

    @property
    def offset(self) -> int:
        """The offset to commit: the first offset that may not be handled."""
        return min(offsets.first_missing for offsets in self.handled.values())

    @property
    def stop(self) -> int:
        """The end of the handled offsets (exclusive)."""
        return max((offsets.ranges[-1][1] for offsets in self.handled.values() if offsets.ranges), default=0)

    @property
    def metadata(self) -> str:
        """The metadata to commit: the handled offsets of each code beyond :attr:`offset`."""
        position: dict[str, dict[str, object]] = {}
        for code, offsets in self.handled.items():
            if offsets.first_missing > self.offset:
                position.setdefault("next", {})[code] = offsets.first_missing
            if len(offsets.ranges) > (offsets.first_missing > 0):
                position.setdefault("handled", {})[code] = _to_steps(offsets)
        return _encode(position) if position else ""

    def is_due(self, code: str, offset: int) -> bool:
        """Return whether a dead letter is not handled yet."""
        return offset not in self.handled[code]

    def first_due(self, codes: Iterable[str]) -> int:
        """Return the first offset that may not be handled for some of these codes."""
        return min(self.handled[code].first_missing for code in codes)

    def add(self, codes: Iterable[str], start: int, stop: int) -> ReplayPosition:
        """Return the position after these codes are handled in a range of offsets."""
        added = {code: self.handled[code].add(start, stop) for code in codes}
        return ReplayPosition({**self.handled, **added})


def _to_steps(offsets: OffsetSet) -> list[int]:
    """Return the ranges after the first missing offset as steps: gap, length, gap, length, …."""
    bounds = [offsets.first_missing]
    for start, stop in offsets.ranges:
        if start > 0:
            bounds += [start, stop]
    return [stop - start for start, stop in pairwise(bounds)]


def _from_steps(steps: Sequence[int]) -> OffsetSet:
    """Return the ranges described by gap, length, gap, length, …."""
    bounds = list(accumulate(steps))
    offsets = OffsetSet()
    for start, stop in zip(bounds[::2], bounds[1::2], strict=True):
        offsets = offsets.add(start, stop)
    return offsets


def _encode(position: object) -> str:
    text = orjson.dumps(position)
    if len(text) < _COMPRESS_FROM:
        return text.decode()
    return orjson.dumps({"z": b85encode(compress(text, 9)).decode()}).decode()


def _decode(metadata: str) -> dict[str, Any]:
    position: dict[str, Any] = orjson.loads(metadata)
    if "z" in position:
        position = orjson.loads(decompress(b85decode(position["z"])))
    return position


OnRefused = Callable[[DeadLetterRecord, str], None]
"""Called once with each dead letter that cannot be replayed, and the reason."""

Restore = Callable[[DeadLetterRecord], OriginalEvent]
"""Returns the event to send for a dead letter; raises :class:`NotReplayable` if there is none."""

Preview = Callable[[Sequence[OriginalEvent]], Sequence[str | None]]
"""Returns the code with which each event would be rejected now; ``None`` if it would be accepted."""


def accept_all(events: Sequence[OriginalEvent]) -> Sequence[None]:
    """Predict that every event is accepted."""
    return [None] * len(events)


class RejectionPreview:
    """Predicts rejections by running the scorers' own checks.

    Args:
        writers: Resolves writer schemas; with the scorers' settings, these are the scorers' schemas.
    """

    def __init__(self, writers: WriterSchemas) -> None:
        self._decoder = Decoder(engagement_event(), writers, keep_nulls=True)

    def __call__(self, events: Sequence[OriginalEvent]) -> list[str | None]:
        """Return the code with which each event would be rejected; ``None`` if it would be accepted.

        Raises:
            Unavailable: The schema registry is down.
        """
        codes: list[str | None] = [None] * len(events)
        for rejection in find_rejections(
            self._decoder,
            [event.value for event in events],
            lambda rows: [events[row].headers for row in rows],
        ):
            codes[rejection.row] = rejection.code.value
        return codes


@dataclass(slots=True)
class Replayed:
    """The numbers of dead letters that a replay has handled, by result.

    Attributes:
        sent: Events sent, by the code of their dead letter; in a dry run, events that would be sent.
        held: Events not sent because they would be rejected again, by old and new code. They stay due.
        stale: Events skipped because their student has sent a newer one, by code.
        refused: Dead letters that cannot be replayed, by code.
        passed: Dead letters whose code is not selected.
        expired: Ranges of dead letters whose retention ended before they were replayed.
    """

    sent: Counter[str] = field(default_factory=Counter)
    held: Counter[tuple[str, str]] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    expired: list[str] = field(default_factory=list)

    def copy(self) -> Replayed:
        """Return an independent copy."""
        return replace(
            self,
            sent=Counter(self.sent),
            held=Counter(self.held),
            stale=Counter(self.stale),
            refused=Counter(self.refused),
            expired=list(self.expired),
        )


@dataclass(frozen=True, slots=True)
class ReplayItem:
    """A dead letter to replay now, and its event."""

    dead_letter: DeadLetterRecord
    event: OriginalEvent


@dataclass(frozen=True, slots=True)
class PlanState:
    """A saved progress, which is restored if a transaction is aborted."""

    positions: Mapping[int, ReplayPosition]
    unread: Mapping[tuple[int, str], int]
    replayed: Replayed
    left: int | None


class ReplayPlan:
    """Selects the dead letters to replay: those of the selected codes that are not handled yet.

    Args:
        codes: The selected codes, of :data:`consumer.ops.dlq.dead_letter.CODES`; empty means all.
        limit: The largest number of events to send.
        restore: Returns the event of a dead letter.
        preview: Returns which events would be rejected again. Those are not sent, and stay due.
        is_stale: Returns whether an event's student has sent a newer one. Those count as handled.
        on_refused: Called with each dead letter that cannot be replayed.
        keep_refused: Whether such dead letters stay due. Otherwise they count as handled.
    """

    def __init__(
        self,
        *,
        codes: Sequence[str] = (),
        limit: int | None = None,
        restore: Restore,
        preview: Preview = accept_all,
        is_stale: Callable[[ReplayItem], bool] = lambda _: False,
        on_refused: OnRefused = lambda _, __: None,
        keep_refused: bool = False,
    ) -> None:
        self.codes = tuple(codes) or CODES
        self.replayed = Replayed()
        self.left = limit
        self._positions: dict[int, ReplayPosition] = {}
        self._unread: dict[tuple[int, str], int] = {}
        """By partition and code: the end of the offsets that this run has marked as handled."""
        self._restore = restore
        self._preview = preview
        self._is_stale = is_stale
        self._on_refused = on_refused
        self._keep_refused = keep_refused
        self._reported: set[str] = set()

    def resume_from(
        self,
        topic: str,
        ranges: Ranges,
        committed: Mapping[int, tuple[int, str | None]],
        selected: Ranges | None = None,
    ) -> dict[int, tuple[int, int]]:
        """Resume from the committed positions; return the ranges to read.

        Args:
            topic: The dead-letter topic.
            ranges: The first offset and end (exclusive) of each partition.
            committed: The committed offset and metadata of each partition that has them.
            selected: The ranges to replay; by default all.

        Raises:
            StartupError: A position is beyond the end of its partition.
        """
        to_read = {}
        for partition, (selected_start, stop) in (ranges if selected is None else selected).items():
            first, end = ranges[partition]
            position = ReplayPosition.parse(*committed.get(partition, (first, None)))
            if position.stop > end:
                raise StartupError(
                    f"the replay has come to offset {position.stop} of {topic}[{partition}], which ends at"
                    f" {end}; if the topic was created again, delete the replay's consumer group"
                )
            first_due = position.first_due(self.codes)
            if first_due < first:
                self.replayed.expired.append(f"{partition}:{first_due} to {partition}:{first - 1}")
                position = position.add(self.codes, first_due, first)
            self._positions[partition] = position
            start = max(position.first_due(self.codes), selected_start)
            to_read[partition] = (start, stop)
            self._unread |= {(partition, code): start for code in self.codes}
        return to_read

    def advance(self, dead_letters: Sequence[DeadLetterRecord]) -> list[ReplayItem]:
        """Handle dead letters, in order within each partition; return the events to send.

        Stops after the last event that the limit allows.
        """
        restored = self._restore_due(dead_letters)
        items = {where: item for where, item in restored.items() if isinstance(item, ReplayItem)}
        codes = dict(zip(items, self._preview([item.event for item in items.values()]), strict=True))
        to_send: list[ReplayItem] = []
        read: dict[int, int] = {}
        for dead_letter in dead_letters:
            if self.left == 0:
                break
            where, code = (dead_letter.partition, dead_letter.offset), dead_letter.code
            read[dead_letter.partition] = dead_letter.offset + 1
            item = restored.get(where)
            if item is None:
                self.replayed.passed += code not in self.codes
            elif isinstance(item, NotReplayable):
                self.refuse(dead_letter, str(item))
                if self._keep_refused:
                    self._hold(dead_letter)
            elif (new_code := codes[where]) is not None:
                self.replayed.held[code, new_code] += 1
                self._hold(dead_letter)
            elif self._is_stale(item):
                self.replayed.stale[code] += 1
            else:
                to_send.append(item)
                self.replayed.sent[code] += 1
                self.left = None if self.left is None else self.left - 1
        for partition, stop in read.items():
            self.mark_read(partition, stop)
        return to_send

    def _restore_due(
        self, dead_letters: Sequence[DeadLetterRecord]
    ) -> dict[tuple[int, int], ReplayItem | NotReplayable]:
        """Return the events of the due dead letters, by partition and offset."""
        restored: dict[tuple[int, int], ReplayItem | NotReplayable] = {}
        for dead_letter in dead_letters:
            where = dead_letter.partition, dead_letter.offset
            position = self._positions[dead_letter.partition]
            if dead_letter.code in self.codes and position.is_due(dead_letter.code, dead_letter.offset):
                try:
                    restored[where] = ReplayItem(dead_letter, self._restore(dead_letter))
                except NotReplayable as reason:
                    restored[where] = reason
        return restored

    def refuse(self, dead_letter: DeadLetterRecord, reason: str) -> None:
        """Count a dead letter that cannot be replayed, and report it once."""
        self.replayed.refused[dead_letter.code] += 1
        if dead_letter.position not in self._reported:
            self._reported.add(dead_letter.position)
            self._on_refused(dead_letter, reason)

    def _hold(self, dead_letter: DeadLetterRecord) -> None:
        """Keep a dead letter due."""
        partition, code = dead_letter.partition, dead_letter.code
        unread = self._unread[partition, code]
        self._positions[partition] = self._positions[partition].add([code], unread, dead_letter.offset)
        self._unread[partition, code] = dead_letter.offset + 1

    def mark_read(self, partition: int, stop: int) -> None:
        """Mark every offset before ``stop`` as handled, except those that were held."""
        position = self._positions[partition]
        for code in self.codes:
            position = position.add([code], self._unread[partition, code], stop)
        self._positions[partition] = position

    def save(self) -> PlanState:
        """Return the present progress, for :meth:`restore_state`."""
        return PlanState(dict(self._positions), dict(self._unread), self.replayed.copy(), self.left)

    def restore_state(self, state: PlanState) -> None:
        """Restore a saved progress."""
        self._positions, self._unread = dict(state.positions), dict(state.unread)
        self.replayed, self.left = state.replayed.copy(), state.left

    def committable(self) -> dict[int, tuple[int, str]]:
        """Return the offset and the metadata to commit, by partition.

        Raises:
            BadInputError: The metadata is longer than a broker accepts.
        """
        found = {p: (position.offset, position.metadata) for p, position in self._positions.items()}
        for partition, (_, metadata) in found.items():
            if len(metadata) > METADATA_MAX_BYTES:
                raise BadInputError(
                    f"partition {partition}: too many dead letters stay due between those that are replayed"
                    " for the group's metadata; select one --code, or add --include-rejected"
                )
        return found
