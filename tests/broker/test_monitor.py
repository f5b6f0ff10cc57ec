"""The monitor on a real Kafka: the audit log is the committed predictions, whatever happens to it."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from fastavro import schemaless_writer

from consumer.conditions import Conditions, Name
from consumer.demo.embedded_kafka import EmbeddedKafka
from consumer.errors import StartupError, Unavailable
from consumer.kafka.topics import TopicSpec, create_topics
from consumer.monitor.committed import Round
from consumer.monitor.role import Monitor, open_monitor
from consumer.settings import AuditSettings, KafkaSettings, Settings, TopicSettings
from schemas.framing import single_object_header
from schemas.repository import AvroSchema, known_schemas, purchase_prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.broker

Line = tuple[int, int, str]
"""Output partition, output offset, event id."""


class KnownSchemas:
    """The writer schemas of the repository, and no registry."""

    reads_confluent = False

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Look in the repository."""
        return known_schemas().get(fingerprint)

    def by_id(self, schema_id: int) -> AvroSchema | None:  # noqa: ARG002 - part of the port
        """Know none."""
        return None


def prediction(event_id: str) -> bytes:
    """Return one framed prediction."""
    out = io.BytesIO(single_object_header(purchase_prediction().fingerprint))
    out.seek(0, io.SEEK_END)
    features = {
        "student_country": "US",
        "days_on_platform": 30,
        "minutes_watched": 120.5,
        "courses_started": 2,
        "practice_exams_started": 3,
        "practice_exams_passed": 1,
        "minutes_spent_on_exams": 20.25,
    }
    record = {
        "event_id": event_id,
        "student_id": "s1",
        "predicted_purchase_probability": 0.25,
        "predicted_purchase": 0,
        "threshold": 0.5,
        "model_version": "v1",
        "occurred_at": 1_767_225_600_000,
        "scored_at": 1_767_225_601_000,
        "source_partition": 0,
        "source_offset": 0,
        "features": features,
    }
    schemaless_writer(out, purchase_prediction().parsed, record)
    return out.getvalue()


class Scorer:
    """Publishes predictions in transactions, some of which it aborts."""

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
            self._producer.produce(self._topic, prediction(event_id), partition=self._n % self._partitions)
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


class Watched:
    """A monitor with what it tells about itself."""

    def __init__(self, settings: Settings) -> None:
        self.conditions = Conditions(time.time)
        self.rounds: list[Round] = []
        self.error: Exception | None = None
        self.monitor: Monitor = open_monitor(
            settings, KnownSchemas(), self.conditions, observe=self.rounds.append
        )

    def run(self) -> None:
        """Run the monitor and keep what ends it."""
        try:
            self.monitor.run()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Wait for something to come true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)


def logged(path: Path) -> list[Line]:
    """Return what the log and its segments hold, in order; every line must be whole."""
    parts = [*sorted(path.parent.glob(f"{path.name}.0*")), path]
    lines = [orjson.loads(line) for part in parts for line in part.read_bytes().split(b"\n")[:-1]]
    return [(line["output"]["partition"], line["output"]["offset"], line["event_id"]) for line in lines]


def n_logged(path: Path) -> int:
    """Count the whole lines while the log is being written; a log just being set aside counts as none."""
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
                event_id_bytes = (message.value() or b"")[11:]
                event_id = event_id_bytes[: (message.value() or b"")[10] // 2].decode()
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


def test_aborted_predictions_are_never_logged(kafka: str, topics: Any, tmp_path: Path) -> None:
    """Of committed and aborted transactions in turn, the log has the committed, over a restart too."""
    topic, path = topics("predictions", partitions=3), tmp_path / "log.jsonl"
    scorer = Scorer(kafka, topic, 3)
    for _ in range(2):
        with running(settings_for(kafka, topic, path)) as watched:
            for turn in range(12):
                scorer.publish(100 if turn % 3 else 37, abort=turn % 3 != 1)
            until(lambda: sum(done.n_lines for done in watched.rounds) >= 400)
        assert watched.error is None
        assert sum(done.n_lines for done in watched.rounds) == 400
    assert_exact(path, kafka, topic, 3)
    assert {event_id.split("-")[0] for _, _, event_id in logged(path)} == {"committed"}


def test_the_log_is_exact_though_the_monitor_is_killed(kafka: str, topics: Any, tmp_path: Path) -> None:
    """SIGKILL at 10 random instants while predictions flow leaves each committed one logged exactly once."""
    topic, path = topics("predictions", partitions=3), tmp_path / "log.jsonl"
    flowing = threading.Event()
    flowing.set()

    def flow() -> None:
        scorer, turn = Scorer(kafka, topic, 3), 0
        while flowing.is_set():
            turn += 1
            scorer.publish(200, abort=turn % 3 == 0)

    thread = threading.Thread(target=flow)
    thread.start()
    chance = random.Random(7)
    try:
        kills = 0
        while kills < 10:
            before = n_logged(path)
            monitor = subprocess.Popen([sys.executable, __file__, kafka, topic, str(path)])  # noqa: S603 - us
            with contextlib.suppress(AssertionError):  # it may also be killed before it has done anything
                until(lambda: n_logged(path) != before, chance.uniform(0.5, 4.0))  # noqa: B023
                time.sleep(chance.uniform(0.0, 0.25))
            os.kill(monitor.pid, signal.SIGKILL)
            assert monitor.wait() == -signal.SIGKILL
            kills += 1
    finally:
        flowing.clear()
        thread.join()
    total = len(committed(kafka, topic, 3))
    with running(settings_for(kafka, topic, path, rotate_bytes=300_000)) as watched:
        until(lambda: n_logged(path) >= total, 60.0)
    assert watched.error is None
    assert total > 2000
    assert len(list(tmp_path.glob("log.jsonl.0*"))) > 3
    assert_exact(path, kafka, topic, 3)


def test_bytes_that_are_no_prediction_are_counted(kafka: str, topics: Any, tmp_path: Path) -> None:
    """Foreign records have no line but are told of, and their neighbours are logged."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    producer = Producer({"bootstrap.servers": kafka})
    values: Sequence[bytes | None] = [
        prediction("a"),
        b"hello",
        None,
        prediction("b")[:-1],
        prediction("c") + b"\0",
        prediction("d"),
    ]
    for value in values:
        producer.produce(topic, value)
    producer.flush()
    with running(settings_for(kafka, topic, path)) as watched:
        until(lambda: sum(done.n_records for done in watched.rounds) == len(values))
    assert [(offset, event_id) for _, offset, event_id in logged(path)] == [(0, "a"), (5, "d")]
    assert sum(done.n_undecodable for done in watched.rounds) == 4


def test_partitions_added_while_running_are_read(kafka: str, topics: Any, tmp_path: Path) -> None:
    """Predictions in a partition that did not exist at the start are logged, over a restart too."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    admin = AdminClient({"bootstrap.servers": kafka})
    with running(settings_for(kafka, topic, path)) as watched:
        Scorer(kafka, topic, 1).publish(10)
        until(lambda: n_logged(path) == 10)
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result()
        time.sleep(0.5)
        Scorer(kafka, topic, 2).publish(10)
        until(lambda: n_logged(path) == 20)
    assert watched.error is None
    Scorer(kafka, topic, 2).publish(10)
    with running(settings_for(kafka, topic, path)):
        until(lambda: n_logged(path) == 30)
    assert_exact(path, kafka, topic, 2)


def test_records_removed_before_they_were_read_stop_the_monitor(
    kafka: str, topics: Any, tmp_path: Path
) -> None:
    """A gap between the checkpoint and what the topic still has is refused, by partition and both offsets."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    producer = Producer({"bootstrap.servers": kafka})
    admin = AdminClient({"bootstrap.servers": kafka})

    def publish_30_and_remove(before: int) -> None:
        for i in range(30):
            producer.produce(topic, prediction(f"{i}"))
        producer.flush()
        for removed in admin.delete_records([TopicPartition(topic, 0, before)]).values():
            removed.result()

    publish_30_and_remove(10)
    settings = settings_for(kafka, topic, path)
    with running(settings):
        until(lambda: n_logged(path) == 20)  # a new log begins with what there is
    publish_30_and_remove(45)
    with pytest.raises(
        StartupError, match=r"\[0\] should be read on from offset 30, but has 45 to 60 \(15 rec"
    ):
        open_monitor(settings, KnownSchemas(), Conditions(time.time))
    assert n_logged(path) == 20


def test_a_topic_created_anew_stops_the_monitor(kafka: str, topics: Any, tmp_path: Path) -> None:
    """Offsets of a deleted topic are not taken for those of one with its name, running or starting."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    settings = settings_for(kafka, topic, path)
    admin = AdminClient({"bootstrap.servers": kafka})
    with running(settings) as watched:
        Scorer(kafka, topic, 1).publish(10)
        until(lambda: n_logged(path) == 10)
        admin.delete_topics([topic])[topic].result()
        time.sleep(0.5)
        create_topics({"bootstrap.servers": kafka}, [TopicSpec(name=topic, partitions=1)])
        Scorer(kafka, topic, 1).publish(30)
        until(lambda: watched.error is not None)
    assert isinstance(watched.error, StartupError)
    with pytest.raises(StartupError, match="was written from another source"):
        open_monitor(settings, KnownSchemas(), Conditions(time.time))


def test_a_missing_topic_or_broker_is_said_in_one_line(kafka: str, tmp_path: Path) -> None:
    """Without a topic the settings are wrong; without a broker it is to be tried again."""
    with pytest.raises(StartupError, match="no topic nowhere; create it with: purchase-stream topics create"):
        open_monitor(settings_for(kafka, "nowhere", tmp_path / "a"), KnownSchemas(), Conditions(time.time))
    with pytest.raises(Unavailable, match="check that it is up"):
        open_monitor(settings_for("127.0.0.1:9", "x", tmp_path / "a"), KnownSchemas(), Conditions(time.time))


def test_a_broker_outage_is_waited_out(tmp_path: Path) -> None:
    """While the broker is away the monitor says so, and goes on by itself once it is back."""
    path = tmp_path / "log.jsonl"
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers}, [TopicSpec(name="p", partitions=1)])
        with running(settings_for(broker.bootstrap_servers, "p", path)) as watched:
            Scorer(broker.bootstrap_servers, "p", 1).publish(10)
            until(lambda: n_logged(path) == 10)
            broker.kill(1)
            until(lambda: Name.BROKER in watched.conditions.active())
            broker.restart(1)
            until(lambda: not watched.conditions.active(), 60.0)
            Scorer(broker.bootstrap_servers, "p", 1).publish(10)
            until(lambda: n_logged(path) == 20)
        assert watched.error is None
        assert_exact(path, broker.bootstrap_servers, "p", 1)


if __name__ == "__main__":  # the monitor that is killed
    open_monitor(
        settings_for(sys.argv[1], sys.argv[2], Path(sys.argv[3]), rotate_bytes=300_000),
        KnownSchemas(),
        Conditions(time.time),
    ).run()
