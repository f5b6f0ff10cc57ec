"""Which offsets of a topic there are, and how often, and in what order, a view of it shows each. Pure.

The same book is kept twice: events as seen in predictions and dead letters, and predictions as seen in
the audit log. It takes six bytes per offset and keeps no record.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MOST_SIGHTINGS: Final = 255
"""More are counted as so many."""


@dataclass(frozen=True, slots=True)
class _PartitionOffsets:
    """One partition from offset ``begin`` on; all arrays have a place per offset.

    Attributes:
        begin: first offset that the topic still has.
        expected: bool, whether there is a record (a transaction's marker is none).
        sightings: uint8, how often the view shows it.
        digests: uint32, of what the view must repeat.
    """

    begin: int
    expected: NDArray[np.bool_]
    sightings: NDArray[np.uint8]
    digests: NDArray[np.uint32]


@dataclass(slots=True)
class SeenReport:
    """What n rows of a view gave; each attribute lists rows.

    Attributes:
        known: they show a record that is there.
        out_of_order: of these, first to show theirs, after a row that showed a later record.
        altered: of these, with a digest that is not the original's.
        unknown: they show an offset at which there is no record.
    """

    known: list[int] = field(default_factory=list)
    out_of_order: list[int] = field(default_factory=list)
    altered: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


class OffsetLedger:
    """The book of one topic.

    Args:
        ranges: first offset and end (exclusive) of each partition.
    """

    def __init__(self, ranges: dict[int, tuple[int, int]]) -> None:
        self._pages = {
            partition: _PartitionOffsets(
                begin,
                np.zeros(end - begin, np.bool_),
                np.zeros(end - begin, np.uint8),
                np.zeros(end - begin, np.uint32),
            )
            for partition, (begin, end) in ranges.items()
        }
        self._highest: dict[tuple[Hashable, int], int] = {}

    def expect(self, partition: int, offsets: NDArray[np.int64], digests: NDArray[np.uint32]) -> None:
        """Note records of the topic, all within its range.

        Args:
            partition: theirs.
            offsets: int64 (n,).
            digests: uint32 (n,), of what a view must repeat.
        """
        page = self._pages[partition]
        page.expected[offsets - page.begin] = True
        page.digests[offsets - page.begin] = digests

    def record_seen(
        self,
        sequence: Hashable,
        partitions: NDArray[np.int64],
        offsets: NDArray[np.int64],
        digests: NDArray[np.uint32],
        comparable: NDArray[np.bool_] | None = None,
    ) -> SeenReport:
        """Note what a view shows, after everything was expected.

        Rows that show an offset before the first or after the last of the range are left out.

        Args:
            sequence: names an ordered run of rows in which each partition's offsets must rise.
            partitions: int64 (n,), of the originals.
            offsets: int64 (n,), of the originals.
            digests: uint32 (n,), of what the view repeats.
            comparable: bool (n,), whether the digest is there to compare; by default always.
        """
        found = SeenReport()
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            page = self._pages.get(partition)
            if page is None:
                found.unknown += rows.tolist()
                continue
            places = offsets[rows] - page.begin
            inside = (places >= 0) & (places < len(page.expected))
            rows, places = rows[inside], places[inside]
            there = page.expected[places]
            found.unknown += rows[~there].tolist()
            rows, places = rows[there], places[there]
            found.known += rows.tolist()
            same = digests[rows] == page.digests[places]
            if comparable is not None:
                same |= ~comparable[rows]
            found.altered += rows[~same].tolist()
            found.out_of_order += rows[self._late(sequence, partition, page, places)].tolist()
            _count(page, places)
        return found

    def _late(
        self, sequence: Hashable, partition: int, page: _PartitionOffsets, places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return which of the rows, (n,), come after a higher one of their sequence and are no repeats."""
        if not len(places):
            return places
        before = self._highest.get((sequence, partition), -1)
        highest = np.maximum.accumulate(np.concatenate(([before], places)))
        self._highest[sequence, partition] = int(highest[-1])
        late = np.flatnonzero(places < highest[:-1])
        if not len(late):
            return late
        first_rows = np.unique(places, return_index=True)[1]
        new: NDArray[np.bool_] = np.isin(late, first_rows) & (page.sightings[places[late]] == 0)
        return np.compress(new, late)

    def missing(self, limit: int) -> tuple[int, list[tuple[int, int]]]:
        """Return how many records are in no view, and the first partitions and offsets."""
        return self._select(limit, lambda page: page.expected & (page.sightings == 0))

    def doubled(self, limit: int) -> tuple[int, list[tuple[int, int]]]:
        """Return how many records are there more than once, and the first partitions and offsets."""
        return self._select(limit, lambda page: page.sightings > 1)

    def missing_at_end(self) -> int:
        """Return how many of the missing come after the last seen one of their partition."""
        total = 0
        for page in self._pages.values():
            seen = np.flatnonzero(page.sightings)
            total += int(page.expected[seen[-1] + 1 if len(seen) else 0 :].sum())
        return total

    def _select(
        self, limit: int, rule: Callable[[_PartitionOffsets], NDArray[np.bool_]]
    ) -> tuple[int, list[tuple[int, int]]]:
        count, first = 0, []
        for partition, page in sorted(self._pages.items()):
            places = np.flatnonzero(rule(page))
            count += len(places)
            first += [(partition, int(place) + page.begin) for place in places[:limit]]
        return count, first[:limit]


def _count(page: _PartitionOffsets, places: NDArray[np.int64]) -> None:
    unique, times = np.unique(places, return_counts=True)
    page.sightings[unique] = np.minimum(page.sightings[unique] + times, _MOST_SIGHTINGS)
