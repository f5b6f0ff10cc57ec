"""The synchronous API over a real Kafka, which is frozen and resumed beneath it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from subprocess import Popen
from typing import Any

import httpx
import pytest

from consumer.embedded_kafka.broker import EmbeddedKafka, free_port
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from tests.support.events import STUDENT, decoded_prediction

pytestmark = pytest.mark.broker

IN_FLIGHT = 20


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A Kafka that no other test uses, so that it can be frozen."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), remove_data=True) as kafka:
        yield kafka


@dataclass
class Api:
    """A running ``serve`` and its Kafka."""

    deployment: Any
    process: Popen[bytes]
    kafka: EmbeddedKafka
    client: httpx.Client

    def predict(self, **fields: Any) -> httpx.Response:
        """Ask for one prediction."""
        return self.client.post("/predict", json=STUDENT | fields)

    def until(self, holds: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until a condition holds."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline_s, self.deployment.logs()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Tell whether the API answers that it is ready."""
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def in_flight(self) -> float:
        """Return the number of requests that wait for an answer, besides this one."""
        found = re.search(r"^purchase_stream_http_requests_in_flight (\S+)", self.metrics(), re.MULTILINE)
        assert found
        return float(found[1]) - 1

    def metrics(self) -> str:
        """Return the metrics as text."""
        return self.client.get("/metrics").text

    def published(self, count: int) -> list[dict[str, Any]]:
        """Return the predictions in the topic; fail if their number differs."""
        records = self.deployment.read(self.deployment.topics["PREDICTIONS"], count)
        return [decoded_prediction(record.value()) for record in records]

    def freeze_with_requests_in_flight(self, pool: ThreadPoolExecutor) -> list[Future[httpx.Response]]:
        """Freeze Kafka and send requests that have to wait for it."""
        self.kafka.pause(1)
        requests = [pool.submit(self.predict, event_id=f"e-{i}") for i in range(IN_FLIGHT)]
        self.until(lambda: self.in_flight() == IN_FLIGHT or any(request.done() for request in requests))
        return requests


@pytest.fixture
def api(deploy: Callable[..., Any], own_kafka: EmbeddedKafka) -> Iterator[Api]:
    """The API, ready, with topics of its own."""
    deployment, port = deploy(), free_port()
    deployment.servers = own_kafka.bootstrap_servers
    specs = [TopicSpec(name=name, partitions=2) for name in deployment.topics.values()]
    ClusterAdmin({"bootstrap.servers": deployment.servers}).create_topics(specs)
    process = deployment.start(
        "serve",
        PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS=deployment.servers,
        PURCHASE_STREAM_HTTP__SERVE_PORT=str(port),
    )
    limits = httpx.Limits(max_connections=2 * IN_FLIGHT)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits) as client:
        found = Api(deployment, process, own_kafka, client)
        found.until(found.is_ready)
        yield found
    own_kafka.resume(1)


def test_a_call_without_names_is_published(api: Api) -> None:
    """An anonymous call and a named one are in the topic, each under its own event id, with source -1."""
    named = api.predict(event_id="e", student_id="s")
    anonymous = api.predict()
    assert (named.status_code, anonymous.json()) == (200, named.json())
    records = {record["student_id"]: record for record in api.published(2)}
    (unnamed,) = set(records) - {"s"}
    for record in records.values():
        assert record["predicted_purchase_probability"] == named.json()["predicted_purchase_probability"]
        assert (record["source_partition"], record["source_offset"]) == (-1, -1)
    assert records["s"]["event_id"] == "e"
    assert records[unnamed]["event_id"] == unnamed


def test_a_frozen_kafka_is_answered_at_once_and_a_retry_is_one_prediction(api: Api) -> None:
    """While Kafka is frozen the API is alive, not ready, and refuses at once; later it is well again.

    A request that met the freeze is answered, and its retries make one prediction.
    """
    assert api.predict(event_id="before").status_code == 200
    api.kafka.pause(1)
    caught = api.predict(event_id="caught")
    assert caught.status_code == 503
    assert "detail" in caught.json()

    api.until(lambda: not api.is_ready())
    started_s = time.monotonic()
    refused = [api.predict() for _ in range(10)]
    assert time.monotonic() - started_s < 10  # each one that waited for Kafka would take 3 s
    assert {answer.status_code for answer in refused} == {503}
    assert api.predict(event_id="caught").status_code == 503
    assert api.predict(event_id="before").status_code == 200
    ready = api.client.get("/health/ready").json()
    assert [condition["condition"] for condition in ready["conditions"]] == ["broker"]
    assert api.client.get("/health/live").status_code == 200
    assert api.client.get("/health").json()["ready"] is False

    api.kafka.resume(1)
    api.until(api.is_ready)
    for _ in range(3):
        api.until(lambda: api.predict(event_id="caught").status_code == 200)
    assert sorted(record["event_id"] for record in api.published(2)) == ["before", "caught"]
    assert 'requests_total{route="/predict",status="503"} ' in api.metrics()
    logs = api.deployment.logs()
    assert logs.count('"event": "not ready"') == logs.count('"event": "ready"') >= 1


@pytest.mark.parametrize("resumed", [True, False], ids=["kafka_returns", "kafka_stays_frozen"])
def test_requests_in_flight_are_answered_before_the_end(api: Api, *, resumed: bool) -> None:
    """After SIGTERM each request in flight gets an answer, and the process ends well."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        requests = api.freeze_with_requests_in_flight(pool)
        os.kill(api.process.pid, signal.SIGTERM)
        if resumed:
            api.kafka.resume(1)
        answers = [request.result() for request in requests]
    assert all(answer.headers["content-type"] == "application/json" for answer in answers)
    assert api.process.wait(30) == 0
    predicted = {f"e-{i}" for i, answer in enumerate(answers) if answer.status_code == 200}
    assert {answer.status_code for answer in answers} <= ({200, 503} if resumed else {503})
    if (
        resumed and len(predicted) == IN_FLIGHT
    ):  # fewer only where a busy machine takes longer than a request may
        assert {record["event_id"] for record in api.published(IN_FLIGHT)} == predicted
