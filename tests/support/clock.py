"""A clock for tests of what depends on time."""

from __future__ import annotations


class Clock:
    """Tells the time it was set to."""

    now_s = 100.0

    def __call__(self) -> float:
        """Tell it."""
        return self.now_s
