"""The API's producer knows when Kafka is away. No broker is needed for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from consumer.errors import Condition, Unavailable
from consumer.kafka import background_producer
from consumer.kafka.background_producer import PredictionProducer
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
