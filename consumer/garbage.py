"""Python's collector of reference cycles, told what kind of program this is.

A batch is tens of thousands of small objects that are all in use at once and none of which is part of
a cycle: they go when their last reference does. With its default threshold of 700 the collector looks
through them, and through all that the imports and the model left, many times per batch for nothing:
a third of the time of a scorer.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNGEST_OBJECTS: Final = 200_000
"""So many more allocations than releases make a collection due: several batches' worth. Cycles still go."""


def collect_seldom() -> None:
    """Leave what exists out of collections from now on, and collect after more than a batch's objects.

    Call it once, when everything that stays for the life of the process has been made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST_OBJECTS, 10, 10)
