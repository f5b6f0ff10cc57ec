"""Finds where something lies among records that are sorted by it, without reading them all. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Probe = Callable[[int, int], tuple[int, int] | None]
"""Given a begin and an end, return where in between the first record that matters is, and its number."""

READ_THROUGH: Final = 500
"""A range of so many positions is read through rather than cut in halves again."""


def narrowed(probe: Probe, begin: int, end: int, wanted: int, enough: int = READ_THROUGH) -> tuple[int, int]:
    """Return the part of a range in which the record with a number is, if it is anywhere.

    The numbers rise. Where they fall back and rise through the same numbers again, as they do when an
    at-least-once writer repeats itself, one of the records with the number is in the part.

    Args:
        probe: looks at a part of the range.
        begin: of the range.
        end: of the range, exclusive.
        wanted: the number.
        enough: a part of so many positions is small enough.
    """
    while end - begin > enough:
        middle = (begin + end) // 2
        seen = probe(middle, end)
        if seen is None or seen[1] > wanted:
            end = middle
        else:
            begin = seen[0]
    return begin, end
