"""Ends a process whose main loop has stopped turning.

A call into librdkafka can block for ever (``send_offsets_to_transaction`` while the group
coordinator is down, librdkafka issue 5456); no exception ever comes of that. A supervisor restarts
us, and the restart fences what was left open.

Silence is counted in looks of the watchdog's own thread, one a second, not read off a clock: a
process that was suspended, or gets no CPU, has not looked either. So neither ends it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from consumer.errors import FatalError

STALL_LIMIT_S: Final = 30.0
"""How long the loop may go without turning. The longest call that is known to return, a look at committed
offsets, takes 10 s; there may be two of them in a row while partitions change hands."""

COMMIT_MARGIN_S: Final = 5.0
"""How much longer than a transaction may last one of the calls that end it may take. By then the broker
has aborted it or is about to, so there is nothing left to wait for: ended in error, we lose a restart."""

_LOOK_EVERY_S: Final = 1.0


class Watchdog:
    """Watches for a heartbeat.

    Args:
        limit_s: how long it may fail to appear.
    """

    def __init__(self, limit_s: float = STALL_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._limit_in_force_s = limit_s
        self._looks = 0
        self._looks_at_beat = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Say that the main loop is alive."""
        self._looks_at_beat = self._looks

    @contextmanager
    def limited(self, limit_s: float) -> Iterator[None]:
        """Replace the limit for a while, in one thread at a time; others may beat meanwhile."""
        self._limit_in_force_s = limit_s
        self.beat()
        try:
            yield
        finally:
            self.beat()
            self._limit_in_force_s = self._limit_s

    def stalled_for_s(self) -> float | None:
        """Return for how long the loop has not turned, if longer than half of what it may."""
        silent_s = self._silent_s()
        return silent_s if silent_s > max(self._limit_s, self._limit_in_force_s) / 2 else None

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _silent_s(self) -> float:
        return (self._looks - self._looks_at_beat) * _LOOK_EVERY_S

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        self._looks += 1
        silent_s = self._silent_s()
        if silent_s > self._limit_in_force_s:
            sys.stderr.write(f"the main loop has not turned for {silent_s:.0f} s; ending the process\n")
            faulthandler.dump_traceback(all_threads=True)
            os._exit(FatalError.exit_code)
