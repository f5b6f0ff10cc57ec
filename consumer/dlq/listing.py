"""Counts dead letters by code, and keeps the newest of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop

from consumer.dlq.letter import Letter


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is.

    Attributes:
        counts: dead letters by code, the most frequent first.
        newest: the newest of them, the newest first.
    """

    counts: dict[str, int]
    newest: Sequence[Letter]


def listing(letters: Iterable[Letter], codes: Sequence[str], limit: int) -> Listing:
    """Go through dead letters once.

    Args:
        letters: all that there are.
        codes: which count; empty means all.
        limit: how many of the newest to keep.
    """
    counts: Counter[str] = Counter()
    heap: list[tuple[int, int, int, Letter]] = []
    for letter in letters:
        if codes and letter.code not in codes:
            continue
        counts[letter.code] += 1
        # Where it is makes it unique: two dead letters are never compared themselves.
        entry = (letter.timestamp_ms, letter.offset, letter.partition, letter)
        if len(heap) < limit:
            heappush(heap, entry)
        elif limit:
            heappushpop(heap, entry)
    return Listing(dict(counts.most_common()), [entry[-1] for entry in sorted(heap, reverse=True)])
