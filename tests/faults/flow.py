"""Events that come for as long as a test has something to do to the service."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from consumer.simulator.producer import EventProducer, Sent


@dataclass(frozen=True)
class Flow:
    """An upstream that was asked for more events than anybody waits for.

    Attributes:
        stream: sends more of them at once.
        events: at least so many come.
        upstream: sends them meanwhile.
        sent: its result.
    """

    stream: Callable[[int], Future[Sent]]
    events: int
    upstream: EventProducer
    sent: Future[Sent]

    def result(self) -> None:
        """End the flow; wait until all that was sent, and what is wanting, is acknowledged."""
        self.upstream.stop()
        wanting = self.events - self.sent.result().events
        if wanting > 0:
            self.stream(wanting).result()
