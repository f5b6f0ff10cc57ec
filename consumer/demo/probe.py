"""Count the stream's committed outputs, and measure their latency."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from confluent_kafka import Consumer, Message, TopicPartition
from fastavro import parse_schema, schemaless_reader

from consumer.kafka.reader import committed_ranges
from schemas.framing import CONFLUENT_HEADER_BYTES, SINGLE_OBJECT_HEADER_BYTES, SINGLE_OBJECT_MARKER
from schemas.repository import purchase_prediction

_MANY: Final = 10_000
_WAIT_S: Final = 0.1


class OutputProbe:
    """Counts predictions and dead letters on its own thread, and measures latency on request.

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
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": "purchase-stream-demo-probe",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, begin)
                for topic in self._counts
                for partition, (begin, _) in committed_ranges(client_config, topic).items()
            ]
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="probe", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the consumer."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

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

    def _watch(self) -> None:
        while not self._stopping.is_set():
            first = self._consumer.poll(_WAIT_S)  # returns at the first record; consume() would wait for more
            if first is None:
                continue
            arrived_ms = time.time_ns() // 1_000_000
            self.last_at_s = time.monotonic()
            for message in (first, *self._consumer.consume(_MANY, timeout=0)):
                if message.error() is None:
                    self._observe(message, arrived_ms)

    def _observe(self, message: Message, arrived_ms: int) -> None:
        topic = message.topic() or ""
        self._counts[topic] += 1
        if self._since_ms is not None and topic == self._predictions:
            occurred_ms = _occurred_at_ms(message.value() or b"")
            if occurred_ms >= self._since_ms:
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
