"""From produced to readable: what the CRM waits for."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from consumer.simulator.events import encode_event, student_inputs
from model_store.synthetic import generate_students


class Reader:
    """A read_committed reader of all partitions of a topic, as the CRM would be."""

    def __init__(self, servers: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "bench-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in partitions])
        self._consumer.consume(1, 1.0)  # the first fetch settles where the end is

    def read(self, wait_s: float) -> list[Any]:
        """Return what is readable now, or within ``wait_s`` if nothing is."""
        first = self._consumer.consume(1, wait_s)
        return [m for m in first + self._consumer.consume(10_000, 0) if m.error() is None] if first else []

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()


def paced_latency_ms(
    servers: str, events: str, predictions: str, partitions: int, *, rate: int, seconds: float
) -> dict[str, float]:
    """Send events one by one at an even pace, and read their predictions in another thread.

    Returns:
        The 50th, 99th and 99.9th percentile, in milliseconds.
    """
    count = int(rate * seconds)
    inputs = student_inputs(generate_students(1000, seed=3))
    template = {"student_id": "s", "occurred_at": int(time.time() * 1000)}
    values = [encode_event({"event_id": "e", **template, **row}) for row in inputs]
    sent_s, read_s = np.zeros(count), np.zeros(count)
    reader = Reader(servers, predictions)

    def read() -> None:
        seen, deadline_s = 0, time.monotonic() + seconds + 30
        while seen < count and time.monotonic() < deadline_s:
            for message in reader.read(0.2):
                read_s[int(message.key())] = time.monotonic()
                seen += 1

    thread = threading.Thread(target=read)
    thread.start()
    # The client's own linger, 5 ms, is part of the figure: without it a request for every few events
    # keeps the broker busier than the scorer does.
    producer = Producer({"bootstrap.servers": servers})
    began_s = time.monotonic()
    for i in range(count):
        due_s = began_s + i / rate
        while (now_s := time.monotonic()) < due_s:
            time.sleep(min(due_s - now_s, 0.001))
        sent_s[i] = time.monotonic()
        producer.produce(events, values[i % len(values)], str(i).encode(), i % partitions)
        if i % 50 == 0:
            producer.poll(0)
    producer.flush(10)
    thread.join()
    reader.close()
    if (read_s == 0).any():
        raise TimeoutError(f"{int((read_s == 0).sum())} of {count} predictions were not read")
    p50, p99, p999 = np.percentile((read_s - sent_s) * 1000, [50, 99, 99.9])
    return {"p50": float(p50), "p99": float(p99), "p99.9": float(p999)}
