"""Tune CPython's garbage collector and glibc's malloc for batches.

A batch is tens of thousands of small objects and some megabytes of arrays and texts. All are freed together
and allocated again for the next batch. docs/performance.md has the measurements.

* None of the objects is part of a cycle, so frequent collections find nothing. Collect rarely.
* glibc returns large freed blocks to the kernel, which must map and clear them again. Keep them.
* glibc defers the merging of small freed blocks to whichever thread allocates next. The Kafka client frees
  thousands of them in its own thread. Merge them there at once.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

GC_THRESHOLD: Final = 200_000
"""The number of allocations, net of releases, that triggers a collection: several batches' worth."""

KEPT_BYTES: Final = 32 * 1024**2
"""Free memory that stays with the process: more than one batch needs, and glibc's maximum for the mmap
threshold."""

_M_MXFAST: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of ``mallopt(3)``."""


def tune_gc_and_malloc() -> None:
    """Exclude the existing objects from collections, collect rarely and keep freed memory.

    Call it once, after everything that lives as long as the process has been created.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only in glibc
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MXFAST, 0)
