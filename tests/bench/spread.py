"""How much of the machine others have used while we measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final

_IDLE_FIELDS: Final = (3, 4)
_FIRST_GUEST_FIELD: Final = 8
"""Of the line ``cpu`` in /proc/stat: idle and waiting for a disk; what follows is counted before it."""


class Others:
    """Counts the CPU time that went to none of our processes, from when it is made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy_s = _busy_s()
        self._ours_s = _ours_s()

    def ratio(self) -> float:
        """Return the share of all cores that others have had, when all our processes have ended."""
        others_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        return max(others_s, 0.0) / ((time.monotonic() - self._began_s) * (os.cpu_count() or 1))


def _busy_s() -> float:
    """Return the seconds that all cores together were busy since the start of the machine."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    counted = [n for i, n in enumerate(fields[:_FIRST_GUEST_FIELD]) if i not in _IDLE_FIELDS]
    return sum(counted) / os.sysconf("SC_CLK_TCK")


def _ours_s() -> float:
    """Return the CPU time of this process and of all that it has started and seen the end of."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
