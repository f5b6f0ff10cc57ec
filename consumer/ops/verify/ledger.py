"""Count how often, and in which order, a view of a topic shows each offset of the topic. Pure.

There are two ledgers: one of the events, shown by predictions and dead letters, and one of the
predictions, shown by the audit log. A ledger takes seven bytes per offset and keeps no record.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MAX_TIMES_SEEN: Final = 255
"""The largest count; further repeats are not counted."""


@dataclass(frozen=True, slots=True)
class _PartitionOffsets:
    """The ledger of one partition. Index i of each array is offset ``start + i``.

    Attributes:
        start: The first offset that the topic still has.
        expected: Whether there is a record (a transaction marker is not one), bool.
        excused: Whether the view need not show it, because it was removed on purpose, bool.
        times_seen: How often the view shows it, uint8.
        digests: The digest that the view must repeat, uint32.
    """

    start: int
    expected: NDArray[np.bool_]
    excused: NDArray[np.bool_]
    times_seen: NDArray[np.uint8]
    digests: NDArray[np.uint32]


@dataclass(slots=True)
class SeenReport:
    """The result for n rows of a view; each attribute lists row numbers.

    Attributes:
        known: Rows that show an existing record.
        out_of_order: Known rows that show a record for the first time, after a row with a later record.
        altered: Known rows whose digest differs from the record's.
        unknown: Rows that show an offset without a record.
    """

    known: list[int] = field(default_factory=list)
    out_of_order: list[int] = field(default_factory=list)
    altered: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


class OffsetLedger:
    """The ledger of one topic.

    Args:
        ranges: The first offset and the end (exclusive) of each partition.
    """

    def __init__(self, ranges: dict[int, tuple[int, int]]) -> None:
        self._partitions = {
            partition: _PartitionOffsets(
                start,
                np.zeros(stop - start, np.bool_),
                np.zeros(stop - start, np.bool_),
                np.zeros(stop - start, np.uint8),
                np.zeros(stop - start, np.uint32),
            )
            for partition, (start, stop) in ranges.items()
        }
        self._highest: dict[tuple[Hashable, int], int] = {}

    def expect(self, partition: int, offsets: NDArray[np.int64], digests: NDArray[np.uint32]) -> None:
        """Add records of the topic. They must be within its range.

        Args:
            partition: The partition of all records.
            offsets: The records' offsets, int64 (n,).
            digests: The digests that a view must repeat, uint32 (n,).
        """
        ledger = self._partitions[partition]
        ledger.expected[offsets - ledger.start] = True
        ledger.digests[offsets - ledger.start] = digests

    def excuse(self, partition: int, offsets: NDArray[np.int64]) -> None:
        """Note that a view need not show these records of the topic, int64 (n,), all within its range."""
        ledger = self._partitions[partition]
        ledger.excused[offsets - ledger.start] = True

    def record_seen(
        self,
        sequence: Hashable,
        partitions: NDArray[np.int64],
        offsets: NDArray[np.int64],
        digests: NDArray[np.uint32],
        comparable: NDArray[np.bool_] | None = None,
    ) -> SeenReport:
        """Add the rows of a view, after all records were added.

        Rows with an offset outside the partition's range are ignored.

        Args:
            sequence: The name of an ordered sequence of rows, in which the offsets of each partition must
                rise.
            partitions: The partition of the record that each row shows, int64 (n,).
            offsets: The offset of the record that each row shows, int64 (n,).
            digests: The digest in each row, uint32 (n,).
            comparable: Whether each digest can be compared, bool (n,); by default all can.
        """
        report = SeenReport()
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            ledger = self._partitions.get(partition)
            if ledger is None:
                report.unknown += rows.tolist()
                continue
            indices = offsets[rows] - ledger.start
            inside = (indices >= 0) & (indices < len(ledger.expected))
            rows, indices = rows[inside], indices[inside]
            exists = ledger.expected[indices]
            report.unknown += rows[~exists].tolist()
            rows, indices = rows[exists], indices[exists]
            report.known += rows.tolist()
            same = digests[rows] == ledger.digests[indices]
            if comparable is not None:
                same |= ~comparable[rows]
            report.altered += rows[~same].tolist()
            report.out_of_order += rows[self._late(sequence, partition, ledger, indices)].tolist()
            _count(ledger, indices)
        return report

    def _late(
        self, sequence: Hashable, partition: int, ledger: _PartitionOffsets, indices: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the rows (k,) that come after a higher index of their sequence and are not repeats.

        For the indices 3 5 4 5 the highest index before each row is -1 3 5 5: row 2 is late.
        """
        if not len(indices):
            return indices
        before = self._highest.get((sequence, partition), -1)
        highest = np.maximum.accumulate(np.concatenate(([before], indices)))
        self._highest[sequence, partition] = int(highest[-1])
        late = np.flatnonzero(indices < highest[:-1])
        if not len(late):
            return late
        first_rows = np.unique(indices, return_index=True)[1]
        new: NDArray[np.bool_] = np.isin(late, first_rows) & (ledger.times_seen[indices[late]] == 0)
        return np.compress(new, late)

    def missing(self, limit: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the number of records that no view shows, and the first positions (partition, offset)."""
        return self._select(
            limit, lambda ledger: ledger.expected & (ledger.times_seen == 0) & ~ledger.excused
        )

    def excused_missing(self) -> int:
        """Return the number of excused records in no view."""
        return self._select(0, lambda ledger: ledger.expected & (ledger.times_seen == 0) & ledger.excused)[0]

    def doubled(self, limit: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the number of records seen more than once, and the first positions (partition, offset)."""
        return self._select(limit, lambda ledger: ledger.times_seen > 1)

    def missing_at_end(self) -> int:
        """Return the number of missing records after the last record that was seen in their partition."""
        total = 0
        for ledger in self._partitions.values():
            seen = np.flatnonzero(ledger.times_seen)
            after = slice(seen[-1] + 1 if len(seen) else 0, None)
            total += int((ledger.expected[after] & ~ledger.excused[after]).sum())
        return total

    def _select(
        self, limit: int, rule: Callable[[_PartitionOffsets], NDArray[np.bool_]]
    ) -> tuple[int, list[tuple[int, int]]]:
        count, first = 0, []
        for partition, ledger in sorted(self._partitions.items()):
            indices = np.flatnonzero(rule(ledger))
            count += len(indices)
            first += [(partition, index + ledger.start) for index in indices[:limit].tolist()]
        return count, first[:limit]


def _count(ledger: _PartitionOffsets, indices: NDArray[np.int64]) -> None:
    unique, times = np.unique(indices, return_counts=True)
    ledger.times_seen[unique] = np.minimum(ledger.times_seen[unique] + times, _MAX_TIMES_SEEN)
