"""Start what runs beside a main loop, stop it again, and stop on signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol


class Background(Protocol):
    """Something with a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""


@contextmanager
def running(*threads: Background) -> Iterator[None]:
    """Start what runs beside the main loop; stop it afterwards, the last first."""
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.stop)
        yield


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM and SIGINT; the second one ends the process as usual."""

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
