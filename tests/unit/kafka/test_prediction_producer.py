"""The API's producer knows when Kafka is away. The broker is librdkafka's mock, in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from consumer.errors import Condition, Unavailable
from consumer.kafka import background_producer
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.background_producer import LeaderProbe, PredictionProducer
from consumer.runtime.readiness import Readiness


class Leaders:
    """Leaders of a topic that answer or do not."""

    def __init__(self) -> None:
        self.away = False

    def __call__(self) -> None:
        """Raise if they are away."""
        if self.away:
            raise Unavailable("no Kafka answers")


@pytest.fixture
def leaders() -> Leaders:
    """Leaders that answer."""
    return Leaders()


@pytest.fixture
def readiness() -> Readiness:
    """The conditions of the role."""
    return Readiness(time.time)


@pytest.fixture
def producer(
    leaders: Leaders, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PredictionProducer]:
    """A producer whose broker does not exist, with short timeouts."""
    monkeypatch.setattr(background_producer, "_DELIVERY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(background_producer, "_RETRY_AFTER_FAILURE_S", 0.5)
    monkeypatch.setattr(background_producer, "_PROBE_INTERVAL_S", 60.0)
    config = {"bootstrap.servers": "127.0.0.1:1", "enable.idempotence": True, "log_level": 0}
    producer = PredictionProducer(config, "predictions", readiness, leaders)
    producer.start()
    yield producer
    producer.stop()


def test_leaders_that_do_not_answer_are_said_at_once(
    producer: PredictionProducer, leaders: Leaders, readiness: Readiness
) -> None:
    """Predictions are refused and the role is not ready, until the leaders answer again."""
    producer.ask_leaders()
    producer.check()
    leaders.away = True
    producer.ask_leaders()
    with pytest.raises(Unavailable, match="no Kafka answers"):
        producer.check()
    assert list(readiness.active()) == [Condition.BROKER]
    leaders.away = False
    producer.ask_leaders()
    producer.check()
    assert readiness.active() == {}


def test_a_failed_delivery_refuses_the_next_ones_for_a_while(
    producer: PredictionProducer, readiness: Readiness
) -> None:
    """The leaders may answer and still not take records. One report comes for all records of a request."""
    reports: list[str | None] = []
    reported = threading.Event()

    def on_done(failure: str | None) -> None:
        reports.append(failure)
        reported.set()

    producer.publish([b"a", b"b"], [b"1", b"2"], on_done)
    assert reported.wait(20)
    time.sleep(0.2)
    (failure,) = reports
    assert failure is not None
    producer.ask_leaders()
    with pytest.raises(Unavailable, match="predictions: "):
        producer.check()
    assert list(readiness.active()) == [Condition.BROKER]
    time.sleep(0.6)
    producer.ask_leaders()
    producer.check()


def test_a_late_acknowledgement_refuses_the_next_ones(
    producer: PredictionProducer, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leaders may answer and still not acknowledge a record; it is retried meanwhile."""
    monkeypatch.setattr(background_producer, "_LATE_AFTER_S", 0.05)
    producer.publish([b"a"], [b"1"], lambda _: None)
    until(lambda: bool(readiness.active()))
    with pytest.raises(Unavailable, match="predictions: "):
        producer.check()


MOCK_BROKER = """
import time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "ignored:1", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = producer.list_topics("predictions", timeout=20).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
time.sleep(600)
"""


@pytest.fixture
def broker() -> Iterator[tuple[str, int]]:
    """Return the address and the process id of a mock broker."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-P", "-c", MOCK_BROKER], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as lines:
        yield lines.readline().strip(), process.pid
        process.kill()
        process.wait()


def test_a_frozen_broker_is_noticed_and_a_resumed_one_too(
    broker: tuple[str, int], readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that does not answer is away until it answers again, and then it gets what waited."""
    monkeypatch.setattr(background_producer, "_PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr(background_producer, "_LATE_AFTER_S", 0.5)
    address, pid = broker
    config = {"bootstrap.servers": address, "reconnect.backoff.max.ms": 500, "log_level": 0}
    probe = LeaderProbe(config, "predictions", range(2))
    producer = PredictionProducer(config | {"enable.idempotence": True}, "predictions", readiness, probe.ask)
    admin = ClusterAdmin(config, 1.0)
    producer.start()
    reports: SimpleQueue[str | None] = SimpleQueue()
    try:
        producer.publish([b"key"], [b"value"], reports.put)
        assert reports.get(timeout=60) is None
        until(lambda: not readiness.active())
        assert set(admin.end_offsets("predictions", range(2))) == {0, 1}
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        producer.publish([b"key"], [b"value"], reports.put)
        until(lambda: list(readiness.active()) == [Condition.BROKER])
        with pytest.raises(Unavailable):
            producer.check()
        assert reports.empty()
        with pytest.raises(Unavailable, match=r"the leader of predictions\[0\] does not answer"):
            admin.end_offsets("predictions", range(2))  # the client calls it offset -1001
        os.kill(pid, signal.SIGCONT)
        assert reports.get(timeout=60) is None
        until(lambda: not readiness.active())
        producer.check()
    finally:
        os.kill(pid, signal.SIGCONT)
        producer.stop()


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
