"""Start and stop background threads of a role, and stop it on a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol


class Background(Protocol):
    """A part of a role that has its own thread."""

    def start(self) -> None:
        """Start the thread."""

    def stop(self) -> None:
        """Stop the thread."""


@contextmanager
def running(*threads: Background) -> Iterator[None]:
    """Start the threads, and stop them in reverse order when the block ends."""
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.stop)
        yield


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first SIGTERM or SIGINT. A second signal ends the process as usual."""

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
