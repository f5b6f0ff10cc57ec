"""A monitor on a real Kafka, predictions for it to read, and checks of its audit log.

Run as a program it is a monitor of its own process, to be killed: servers, topic, log.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.monitor.audit.hashed_ids import id_hasher
from consumer.monitor.audit.removals import read_removals
from consumer.monitor.audit.retention import Retention
from consumer.monitor.loop import Monitor, open_log_and_topic
from consumer.pipeline.decode import Decoder
from consumer.runtime.readiness import Readiness
from consumer.settings import AuditSettings, KafkaSettings, Settings, TopicSettings
from schemas.repository import BundledSchemas, purchase_prediction
from tests.support.events import decoded_prediction, prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consumer.monitor.loop import BatchStats

Line = tuple[int, int, str]
"""Output partition, output offset, event id."""


class ScorerProcess:
    """Publishes predictions in transactions, and aborts some of them."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        self._topic = topic
        self._partitions = partitions
        self._n = 0
        self._producer = Producer(
            {"bootstrap.servers": servers, "transactional.id": f"scorer of {topic}", "linger.ms": 0}
        )
        self._producer.init_transactions()

    def publish(self, n: int, *, abort: bool = False) -> None:
        """Publish n predictions in one transaction."""
        self._producer.begin_transaction()
        for _ in range(n):
            event_id = f"{'aborted' if abort else 'committed'}-{self._n}"
            self._producer.produce(
                self._topic, prediction(event_id=event_id), partition=self._n % self._partitions
            )
            self._n += 1
        self._producer.flush()
        if abort:
            self._producer.abort_transaction()
        else:
            self._producer.commit_transaction()


def settings_for(servers: str, topic: str, path: Path, rotate_bytes: int = 1 << 28) -> Settings:
    """Return the settings of a monitor of this topic."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=servers),
        topics=TopicSettings(predictions=topic),
        audit=AuditSettings(path=path, rotate_bytes=rotate_bytes),
    )


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Watched]:
    """Run a monitor in a thread until the context is left."""
    watched = Watched(settings)
    thread = threading.Thread(target=watched.run)
    thread.start()
    try:
        yield watched
    finally:
        watched.monitor.stop()
        thread.join(30)
        assert not thread.is_alive()


def open_monitor(
    settings: Settings, readiness: Readiness, on_batch: Callable[[BatchStats], None] = lambda _: None
) -> Monitor:
    """Return a monitor that keeps the audit log and nothing else."""
    audit_log, tail = open_log_and_topic(settings, readiness)
    return Monitor(
        tail=tail,
        audit_log=audit_log,
        decoder=Decoder(purchase_prediction(), BundledSchemas()),
        topics=settings.topics,
        readiness=readiness,
        removals=read_removals(settings.audit.path),
        hasher=id_hasher(settings.audit),
        retention=Retention(settings.audit),
        on_batch=on_batch,
    )


class Watched:
    """A monitor with its conditions, the counts of its batches, and the error that ended it."""

    def __init__(self, settings: Settings) -> None:
        self.readiness = Readiness(time.time)
        self.batches: list[BatchStats] = []
        self.error: Exception | None = None
        self.monitor = open_monitor(settings, self.readiness, self.batches.append)

    def run(self) -> None:
        """Run the monitor and keep what ends it."""
        try:
            self.monitor.run()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Wait until a condition is true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)


def logged(path: Path) -> list[Line]:
    """Return the lines of the log and its segments, in order; every line must be complete."""
    parts = [*sorted(path.parent.glob(f"{path.name}.0*")), path]
    lines = [orjson.loads(line) for part in parts for line in part.read_bytes().split(b"\n")[:-1]]
    return [(line["output"]["partition"], line["output"]["offset"], line["event_id"]) for line in lines]


def n_logged(path: Path) -> int:
    """Count the complete lines while the log is written; a log that is being rotated counts as 0."""
    n_lines = 0
    for part in [*path.parent.glob(f"{path.name}.0*"), path]:
        with contextlib.suppress(FileNotFoundError):
            n_lines += part.read_bytes().count(b"\n")
    return n_lines


def committed(servers: str, topic: str, partitions: int) -> list[Line]:
    """Read the topic with a plain read_committed consumer, by partition and offset."""
    reader = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "oracle",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    at_end: set[int | None] = set()
    found: list[Line] = []
    while len(at_end) < partitions:
        for message in reader.consume(5000, 1.0):
            if message.error() is not None:
                at_end.add(message.partition())
            else:
                event_id = decoded_prediction(message.value() or b"")["event_id"]
                found.append((message.partition() or 0, message.offset() or 0, event_id))
    reader.close()
    return sorted(found)


def assert_exact(path: Path, servers: str, topic: str, partitions: int) -> None:
    """Every committed prediction has exactly one line, in order, and nothing else has one."""
    expected = committed(servers, topic, partitions)
    lines = logged(path)
    assert sorted(lines) == expected
    for partition in range(partitions):
        offsets = [offset for part, offset, _ in lines if part == partition]
        assert offsets == sorted(offsets)


if __name__ == "__main__":  # the monitor that is killed
    open_monitor(
        settings_for(sys.argv[1], sys.argv[2], Path(sys.argv[3]), rotate_bytes=300_000),
        Readiness(time.time),
    ).run()
