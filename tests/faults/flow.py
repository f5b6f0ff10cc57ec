"""A stream of events that lasts as long as a test needs it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from consumer.simulator.producer import EventProducer, Sent


@dataclass(frozen=True)
class Flow:
    """A producer of events that runs until :meth:`result` is called.

    Attributes:
        stream: Sends more events at once.
        events: The smallest number of events to send.
        upstream: The producer.
        sent: The result of the producer.
    """

    stream: Callable[[int], Future[Sent]]
    events: int
    upstream: EventProducer
    sent: Future[Sent]

    def result(self) -> None:
        """Stop the producer, send the events that are still missing, and wait for all acknowledgements."""
        self.upstream.stop()
        wanting = self.events - self.sent.result().events
        if wanting > 0:
            self.stream(wanting).result()
