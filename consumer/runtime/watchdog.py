"""End a process whose main loop hangs.

A call into librdkafka can block forever without raising: for example ``send_offsets_to_transaction`` while
the group coordinator is down (librdkafka issue 5456). The supervisor then restarts the process, and the
restart fences what was left open.

The watchdog measures silence in ticks of its own thread, one per second, not with a clock. A process
that was suspended or got no CPU has missed those ticks as well, so it is not ended.
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
"""How long the loop may be silent. The longest call that is known to return, fetching committed offsets,
takes 10 s, and a rebalance may need two of them in a row."""

COMMIT_MARGIN_S: Final = 5.0
"""How much longer than the transaction timeout a commit or abort may take. By then the broker has aborted
the transaction or soon will, so waiting longer is useless. If that is wrong, it costs one restart."""

_TICK_S: Final = 1.0


class Watchdog:
    """Ends the process when its main loop is silent for too long.

    Args:
        limit_s: The longest silence.
    """

    def __init__(self, limit_s: float = STALL_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._current_limit_s = limit_s
        self._ticks = 0
        self._ticks_at_beat = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Report that the main loop runs."""
        self._ticks_at_beat = self._ticks

    @contextmanager
    def limited(self, limit_s: float) -> Iterator[None]:
        """Replace the limit inside the block. Only one thread at a time may use it; any may beat."""
        self._current_limit_s = limit_s
        self.beat()
        try:
            yield
        finally:
            self.beat()
            self._current_limit_s = self._limit_s

    def stalled_for_s(self) -> float | None:
        """Return the length of the silence if it exceeds half of the limit."""
        silent_s = self._silent_s()
        return silent_s if silent_s > max(self._limit_s, self._current_limit_s) / 2 else None

    def start(self) -> None:
        """Start watching."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _silent_s(self) -> float:
        return (self._ticks - self._ticks_at_beat) * _TICK_S

    def _watch(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self._tick()

    def _tick(self) -> None:
        self._ticks += 1
        silent_s = self._silent_s()
        if silent_s > self._current_limit_s:
            sys.stderr.write(f"the main loop has not turned for {silent_s:.0f} s; ending the process\n")
            faulthandler.dump_traceback(all_threads=True)
            os._exit(FatalError.exit_code)
