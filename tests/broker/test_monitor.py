"""The monitor on a real Kafka: the audit log holds exactly the committed predictions."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # not in __all__

from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import Condition, StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.runtime.readiness import Readiness
from tests.support import monitor as monitored
from tests.support.events import prediction
from tests.support.monitor import (
    ScorerProcess,
    assert_exact,
    committed,
    logged,
    n_logged,
    open_monitor,
    running,
    settings_for,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]


def test_aborted_predictions_are_never_logged(kafka: str, topics: Any, tmp_path: Path) -> None:
    """The log has the predictions of committed transactions only, also after a restart."""
    topic, path = topics("predictions", partitions=3), tmp_path / "log.jsonl"
    scorer = ScorerProcess(kafka, topic, 3)
    for _ in range(2):
        with running(settings_for(kafka, topic, path)) as watched:
            for turn in range(12):
                scorer.publish(100 if turn % 3 else 37, abort=turn % 3 != 1)
            until(lambda: sum(stats.lines for stats in watched.batches) >= 400)
        assert watched.error is None
        assert sum(stats.lines for stats in watched.batches) == 400
    assert_exact(path, kafka, topic, 3)
    assert {event_id.split("-")[0] for _, _, event_id in logged(path)} == {"committed"}


def test_the_log_is_exact_though_the_monitor_is_killed(kafka: str, topics: Any, tmp_path: Path) -> None:
    """SIGKILL at 10 random instants while predictions flow leaves each committed one logged exactly once."""
    topic, path = topics("predictions", partitions=3), tmp_path / "log.jsonl"
    flowing = threading.Event()
    flowing.set()

    def flow() -> None:
        scorer, turn = ScorerProcess(kafka, topic, 3), 0
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
            monitor = subprocess.Popen(  # noqa: S603 - us
                [sys.executable, "-m", monitored.__name__, kafka, topic, str(path)], cwd=ROOT
            )
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
    """Foreign records have no line but are reported, and the predictions around them are logged."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    producer = Producer({"bootstrap.servers": kafka})
    values: Sequence[bytes | None] = [
        prediction(event_id="a"),
        b"hello",
        None,
        prediction(event_id="b")[:-1],
        prediction(event_id="c") + b"\0",
        prediction(event_id="d"),
    ]
    for value in values:
        producer.produce(topic, value)
    producer.flush()
    with running(settings_for(kafka, topic, path)) as watched:
        until(lambda: sum(stats.records for stats in watched.batches) == len(values))
    assert [(offset, event_id) for _, offset, event_id in logged(path)] == [(0, "a"), (5, "d")]
    assert sum(stats.undecodable for stats in watched.batches) == 4


def test_partitions_added_while_running_are_read(kafka: str, topics: Any, tmp_path: Path) -> None:
    """Predictions in a partition created later are logged, also after a restart."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    admin = AdminClient({"bootstrap.servers": kafka})
    with running(settings_for(kafka, topic, path)) as watched:
        ScorerProcess(kafka, topic, 1).publish(10)
        until(lambda: n_logged(path) == 10)
        admin.create_partitions([NewPartitions(topic, 2)])[topic].result()
        time.sleep(0.5)
        ScorerProcess(kafka, topic, 2).publish(10)
        until(lambda: n_logged(path) == 20)
    assert watched.error is None
    ScorerProcess(kafka, topic, 2).publish(10)
    with running(settings_for(kafka, topic, path)):
        until(lambda: n_logged(path) == 30)
    assert_exact(path, kafka, topic, 2)


def test_records_removed_before_they_were_read_stop_the_monitor(
    kafka: str, topics: Any, tmp_path: Path
) -> None:
    """A gap between checkpoint and topic is refused, with the partition and both offsets."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    producer = Producer({"bootstrap.servers": kafka})
    admin = AdminClient({"bootstrap.servers": kafka})

    def publish_30_and_remove(before: int) -> None:
        for i in range(30):
            producer.produce(topic, prediction(event_id=f"{i}"))
        producer.flush()
        for removed in admin.delete_records([TopicPartition(topic, 0, before)]).values():
            removed.result()

    publish_30_and_remove(10)
    settings = settings_for(kafka, topic, path)
    with running(settings):
        until(lambda: n_logged(path) == 20)  # a new log starts with what is there
    publish_30_and_remove(45)
    with pytest.raises(
        StartupError, match=r"\[0\] does not have the next offset 30: it holds 45 to 60 \(15 rec"
    ):
        open_monitor(settings, Readiness(time.time))
    assert n_logged(path) == 20


def test_a_topic_created_anew_stops_the_monitor(kafka: str, topics: Any, tmp_path: Path) -> None:
    """The offsets of a deleted topic are not used for a new topic of the same name."""
    topic, path = topics("predictions"), tmp_path / "log.jsonl"
    settings = settings_for(kafka, topic, path)
    admin = AdminClient({"bootstrap.servers": kafka})
    with running(settings) as watched:
        ScorerProcess(kafka, topic, 1).publish(10)
        until(lambda: n_logged(path) == 10)
        admin.delete_topics([topic])[topic].result()
        time.sleep(0.5)
        ClusterAdmin({"bootstrap.servers": kafka}).create_topics([TopicSpec(name=topic, partitions=1)])
        ScorerProcess(kafka, topic, 1).publish(30)
        until(lambda: watched.error is not None)
    assert isinstance(watched.error, StartupError)
    with pytest.raises(StartupError, match="was written from another source"):
        open_monitor(settings, Readiness(time.time))


def test_a_missing_topic_or_broker_is_said_in_one_line(kafka: str, tmp_path: Path) -> None:
    """A missing topic is a configuration error; a missing broker is an outage."""
    with pytest.raises(StartupError, match=r"no topic nowhere on .*; create it with: purchase-stream topics"):
        open_monitor(settings_for(kafka, "nowhere", tmp_path / "a"), Readiness(time.time))
    with pytest.raises(Unavailable, match=r"check kafka\.bootstrap_servers and whether it runs"):
        open_monitor(settings_for("127.0.0.1:9", "x", tmp_path / "a"), Readiness(time.time))


def test_a_broker_outage_is_waited_out(tmp_path: Path) -> None:
    """While the broker is away the monitor is not ready; it continues by itself."""
    path = tmp_path / "log.jsonl"
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        ClusterAdmin({"bootstrap.servers": broker.bootstrap_servers}).create_topics(
            [TopicSpec(name="p", partitions=1)]
        )
        with running(settings_for(broker.bootstrap_servers, "p", path)) as watched:
            ScorerProcess(broker.bootstrap_servers, "p", 1).publish(10)
            until(lambda: n_logged(path) == 10)
            broker.kill(1)
            until(lambda: Condition.BROKER in watched.readiness.active())
            broker.restart(1)
            until(lambda: not watched.readiness.active(), 60.0)
            ScorerProcess(broker.bootstrap_servers, "p", 1).publish(10)
            until(lambda: n_logged(path) == 20)
        assert watched.error is None
        assert_exact(path, broker.bootstrap_servers, "p", 1)
