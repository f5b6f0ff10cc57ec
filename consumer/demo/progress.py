"""Count the stream's committed outputs, measure their latency, and show the progress.

The progress is a table that is redrawn on a terminal, and a line per second elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Final, Self

from fastavro import parse_schema, schemaless_reader
from rich.console import Console
from rich.live import Live
from rich.table import Table

from consumer.kafka.reader import PolledRecords, TopicFollower
from consumer.runtime.readiness import Readiness
from schemas.repository import (
    CONFLUENT_HEADER_BYTES,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
    purchase_prediction,
)

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


_MAX_RECORDS: Final = 10_000
_WAIT_S: Final = 0.1


class OutputProbe:
    """Counts predictions and dead letters in its own threads, and measures latency on request.

    Args:
        client_config: The configuration of every client.
        predictions: The predictions topic.
        dead_letters: The dead-letter topic.
    """

    def __init__(self, client_config: Mapping[str, Any], predictions: str, dead_letters: str) -> None:
        self._predictions = predictions
        self._counts = {predictions: 0, dead_letters: 0}
        self._latencies_ms: list[int] = []
        self._since_ms: int | None = None
        self.last_at_s = 0.0
        """The arrival time of the newest record, in monotonic seconds."""
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._watch,
                args=(topic, TopicFollower(client_config, topic, {}, Readiness(time.time))),
                name=f"probe {topic}",
                daemon=True,
            )
            for topic in self._counts
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and close their consumers."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of predictions and dead letters so far."""
        predictions, dead_letters = self._counts.values()
        return predictions, dead_letters

    def start_latency(self) -> None:
        """Measure the latency of the predictions of all events that occur from now on."""
        self._since_ms = time.time_ns() // 1_000_000

    @property
    def latencies_ms(self) -> list[int]:
        """Milliseconds from each event's ``occurred_at`` to the arrival of its prediction."""
        return list(self._latencies_ms)

    def _watch(self, topic: str, follower: TopicFollower) -> None:
        with contextlib.closing(follower):
            while not self._stopping.is_set():
                records = follower.poll(_MAX_RECORDS, _WAIT_S, fill=False)
                if records is not None:
                    arrived_ms = time.time_ns() // 1_000_000
                    self.last_at_s = time.monotonic()
                    self._counts[topic] += len(records)
                    if topic == self._predictions and self._since_ms is not None:
                        self._add_latencies(records, arrived_ms, self._since_ms)

    def _add_latencies(self, records: PolledRecords, arrived_ms: int, since_ms: int) -> None:
        for value in records.values:
            occurred_ms = _occurred_at_ms(value or b"")
            if occurred_ms >= since_ms:
                self._latencies_ms.append(arrived_ms - occurred_ms)


def _occurred_at_ms(value: bytes) -> int:
    single_object = value.startswith(SINGLE_OBJECT_MARKER)
    stream = io.BytesIO(value)
    stream.seek(SINGLE_OBJECT_HEADER_BYTES if single_object else CONFLUENT_HEADER_BYTES)
    prediction: Any = schemaless_reader(stream, _schema(), None)
    return int(prediction["occurred_at"])


@cache
def _schema() -> Any:
    """Return the schema without logical types, so that times stay milliseconds."""
    return parse_schema(json.loads(purchase_prediction().canonical))
