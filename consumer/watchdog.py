"""Ends a process whose main loop has stopped turning.

A call into librdkafka can block for ever (``send_offsets_to_transaction`` while the group
coordinator is down, librdkafka issue 5456); no exception ever comes of that. A supervisor restarts
us, and the restart fences what was left open.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import Final

from consumer.errors import FatalError

STALL_LIMIT_S: Final = 30.0
"""Three times the longest call that is known to return: a commit takes at most the transaction's timeout
(10 s) and a look at committed offsets 10 s. One that does not return costs this, so no more than that."""

_LOOK_EVERY_S: Final = 1.0


class Watchdog:
    """Watches for a heartbeat.

    Args:
        limit_s: how long it may fail to appear.
    """

    def __init__(self, limit_s: float = STALL_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._last_s = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Say that the main loop is alive."""
        self._last_s = time.monotonic()

    def stalled_for_s(self) -> float | None:
        """Return for how long the loop has not turned, if longer than half the limit."""
        silent_s = time.monotonic() - self._last_s
        return silent_s if silent_s > self._limit_s / 2 else None

    def start(self) -> None:
        """Begin to watch."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            silent_s = time.monotonic() - self._last_s
            if silent_s > self._limit_s:
                sys.stderr.write(f"the main loop has not turned for {silent_s:.0f} s; ending the process\n")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(FatalError.exit_code)
