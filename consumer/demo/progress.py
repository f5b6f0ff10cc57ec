"""Show the demo's progress: a table that is redrawn on a terminal, a line per second elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LINE_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of the stream at one moment.

    Attributes:
        phase: The name of the demo's phase.
        sent: The number of events sent.
        predictions: The number of predictions read back.
        dead_letters: The number of dead letters read back.
        audit_lines: The number of audit lines that the monitor reports.
        events_per_s: Events decided per second since the phase began.
    """

    phase: str
    sent: int
    predictions: int
    dead_letters: int
    audit_lines: int
    events_per_s: float

    @property
    def lag(self) -> int:
        """The number of events that are not decided yet."""
        return max(self.sent - self.predictions - self.dead_letters, 0)

    def cells(self) -> dict[str, str]:
        """Return the values to show, by title."""
        return {
            "phase": self.phase,
            "events sent": f"{self.sent}",
            "predictions": f"{self.predictions}",
            "dead letters": f"{self.dead_letters}",
            "lag": f"{self.lag}",
            "audit lines": f"{self.audit_lines}",
            "events/s": f"{self.events_per_s:.0f}",
        }

    def line(self) -> str:
        """Format the state as one line."""
        (_, phase), *counts = self.cells().items()
        return f"{phase}: " + ", ".join(f"{title} {value}" for title, value in counts)


class Display:
    """Shows progress while its context is open.

    Args:
        console: The output.
        now_s: A monotonic clock, in seconds.
    """

    def __init__(self, console: Console, now_s: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now_s = now_s
        self._shown_s = float("-inf")
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show the state; without a terminal, at most once per second."""
        if self._live is not None:
            self._live.update(_table(progress), refresh=True)
        elif self._now_s() - self._shown_s >= _LINE_EVERY_S:
            self._shown_s = self._now_s()
            self._console.print(progress.line(), highlight=False, soft_wrap=True)


def _table(progress: Progress) -> Table:
    table = Table()
    cells = progress.cells()
    for title in cells:
        table.add_column(title, justify="left" if title == "phase" else "right")
    table.add_row(*cells.values())
    return table
