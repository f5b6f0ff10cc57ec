"""A deployment of the service on the shared Kafka: topics and a model of its own, real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with a champion, trained on generated students."""
    from model_store.store import ModelStore  # noqa: PLC0415 - only broker tests need it
    from model_store.synthetic import generate_students  # noqa: PLC0415
    from model_store.training import train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder, "purchase")
    store.promote(store.add(train(generate_students(3000, seed=1))))
    return folder


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A locked-down Kafka that all tests of this process share, with a user that has no right."""
    from tests.support.secured_kafka import secured_kafka  # noqa: PLC0415 - only broker tests need it

    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        kafka.add_user("nobody")
        yield kafka


@dataclass
class Deployment:
    """Topics, settings and processes of one test."""

    servers: str
    folder: Path
    environment: dict[str, str]
    topics: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *verb: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``purchase-stream VERB``; its output goes to a file."""
        log = (self.folder / f"{verb[0]}-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(  # noqa: S603 - every word is ours
            [sys.executable, "-m", "consumer", *verb],
            env=os.environ | self.environment | environment,
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.processes.append(process)
        return process

    def logs(self) -> str:
        """Return what all processes have written."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def read(self, topic: str, count: int, timeout_s: float = 30) -> list[Any]:
        """Read the committed records of a topic until there are this many; fail if they do not arrive."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition  # noqa: PLC0415

        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "test-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        records: list[Any] = []
        deadline_s = time.monotonic() + timeout_s
        while len(records) < count and time.monotonic() < deadline_s:
            records += [m for m in consumer.consume(10_000, 0.2) if m.error() is None]
        records += [m for m in consumer.consume(10_000, 0.3) if m.error() is None]
        consumer.close()
        assert len(records) == count, f"{len(records)} of {count} records in {topic}\n{self.logs()}"
        return records

    def produce(self, records: list[tuple[bytes | None, bytes | None, int]], headers: Any = None) -> None:
        """Send (key, value, partition) to the events topic."""
        from confluent_kafka import Producer  # noqa: PLC0415

        producer = Producer({"bootstrap.servers": self.servers, "message.max.bytes": 2_000_000})
        for key, value, partition in records:
            producer.produce(self.topics["EVENTS"], value, key, partition, headers=headers)
        assert producer.flush(20) == 0


@pytest.fixture
def deploy(
    kafka: str, topics: Callable[..., str], trained_store: Path, tmp_path: Path
) -> Iterator[Callable[..., Deployment]]:
    """A function that makes a :class:`Deployment`; what it has started ends with the test."""
    made: list[Deployment] = []

    def make(
        partitions: int = 2,
        dead_letters: dict[str, str] | None = None,
        predictions: dict[str, str] | None = None,
    ) -> Deployment:
        names = {
            "EVENTS": topics("events", partitions=partitions, max_message_bytes="2000000"),
            "PREDICTIONS": topics("predictions", partitions=partitions, **predictions or {}),
            "DEAD_LETTERS": topics("dlq", partitions=1, **dead_letters or {}),
            "OUTCOMES": topics("outcomes"),
        }
        prefix = "PURCHASE_STREAM_"
        environment = {f"{prefix}TOPICS__{name}": topic for name, topic in names.items()} | {
            f"{prefix}KAFKA__BOOTSTRAP_SERVERS": kafka,
            f"{prefix}KAFKA__GROUP_ID": names["EVENTS"],
            f"{prefix}MODEL_STORE__PATH": str(trained_store),
            f"{prefix}HTTP__SCORE_PORT": "0",
            f"{prefix}HTTP__MONITOR_PORT": "0",
        }
        made.append(Deployment(kafka, tmp_path, environment, names))
        return made[-1]

    yield make
    for deployment in made:
        for process in deployment.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
