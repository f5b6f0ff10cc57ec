"""Python's and C's ways with memory, told what kind of program this is.

A batch is tens of thousands of small objects, and arrays and texts of some megabytes, that are all in
use at once, go together, and are needed again by the next batch.

None of the objects is part of a cycle: they go when their last reference does. With its default
threshold of 700 the collector of cycles looks through them, and through all that the imports and the
model left, many times per batch for nothing: a third of the time of a scorer.

What is freed C's library gives back to the kernel as soon as it is more than 128 KiB, and the kernel has
to find and clear it anew for the next batch: a third of the time that the audit log's lines take.

Small pieces that are freed it sets aside as they are, and joins them with their neighbours before it
looks for a larger one. The Kafka client frees thousands of them in a thread of its own, and it is our
thread that then waits for them to be joined: a tenth of its time where dead letters are written.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

YOUNGEST_OBJECTS: Final = 200_000
"""So many more allocations than releases make a collection due: several batches' worth. Cycles still go."""

KEPT_BYTES: Final = 32 * 1024**2
"""So much that is free stays with the process: more than a batch takes. (glibc allows no more for the
first of the two.)"""

_M_MXFAST: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of ``mallopt(3)``."""


def tune_gc_and_malloc() -> None:
    """Leave what exists out of collections, collect after more than a batch's objects, keep what is freed.

    Call it once, when everything that stays for the life of the process has been made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST_OBJECTS, 10, 10)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's; other C libraries have ways of their own
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MXFAST, 0)  # join whatever is freed at once, in the thread that frees it
