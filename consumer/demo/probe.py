"""Count the stream's committed outputs, and measure their latency."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from fastavro import parse_schema, schemaless_reader

from consumer.kafka.reader import PolledRecords, TopicFollower
from consumer.runtime.readiness import Readiness
from schemas.framing import CONFLUENT_HEADER_BYTES, SINGLE_OBJECT_HEADER_BYTES, SINGLE_OBJECT_MARKER
from schemas.repository import purchase_prediction

_MAX_RECORDS: Final = 10_000
_WAIT_S: Final = 0.1


class OutputProbe:
    """Counts predictions and dead letters on threads of its own, and measures latency on request.

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
        """Arrival of the newest record, in seconds of the monotonic clock."""
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
