"""Drift, outcomes and the recommendation on a real Kafka, as a real process tells them."""

from __future__ import annotations

import io
import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from fastavro import schemaless_writer

from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from schemas.framing import single_object_header
from schemas.repository import AvroSchema, purchase_outcome, purchase_prediction

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.broker


def framed(schema: AvroSchema, record: dict[str, Any]) -> bytes:
    """Return one framed record."""
    out = io.BytesIO()
    schemaless_writer(out, schema.parsed, record)
    return single_object_header(schema.fingerprint) + out.getvalue()


class Scorer:
    """Publishes predictions as a scorer would."""

    def __init__(self, deployment: Any, store: ModelStore) -> None:
        self._deployment = deployment
        self._model = store.load("champion")
        self._producer = Producer({"bootstrap.servers": deployment.servers})

    def predict(self, begin: int, n: int, *, more_days: float = 0.0) -> np.ndarray:
        """Publish predictions about n students, numbered from ``begin`` on; return the probabilities."""
        table = generate_students(n, seed=begin)
        inputs = np.asfortranarray(table.inputs)
        inputs[:, 1] += more_days
        probabilities = self._model.predict_probability(inputs)
        for i, probability in enumerate(probabilities.tolist()):
            features: dict[str, Any] = {
                name: int(x) if name in INTEGER_INPUTS else float(x)
                for name, x in zip(INPUT_NAMES, inputs[i], strict=True)
            }
            features["student_country"] = table.countries[i]
            record = {
                "event_id": f"e{begin + i}",
                "student_id": f"s{begin + i}",
                "predicted_purchase_probability": probability,
                "predicted_purchase": int(probability >= self._model.threshold),
                "threshold": self._model.threshold,
                "model_version": self._model.version,
                "occurred_at": int(time.time() * 1000),
                "scored_at": int(time.time() * 1000),
                "source_partition": 0,
                "source_offset": begin + i,
                "features": features,
            }
            self._send("PREDICTIONS", f"s{begin + i}", framed(purchase_prediction(), record))
        self._producer.flush()
        return probabilities

    def tell_outcomes(self, begin: int, purchased: np.ndarray) -> None:
        """Publish whether students bought."""
        for i, bought in enumerate(purchased.tolist()):
            record = {
                "student_id": f"s{begin + i}",
                "purchased": bool(bought),
                "observed_at": int(time.time() * 1000),
            }
            self._send("OUTCOMES", f"s{begin + i}", framed(purchase_outcome(), record))
        self._producer.flush()

    def _send(self, topic: str, key: str, value: bytes) -> None:
        self._producer.produce(self._deployment.topics[topic], value, key)


class Served:
    """A monitor process and its endpoints."""

    def __init__(self, deployment: Any, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.process = deployment.start("monitor", PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port))

    def get(self, path: str) -> Any:
        """Return what an endpoint answers, or nothing while it does not."""
        try:
            response = httpx.get(self._url + path, timeout=5)
        except httpx.TransportError:
            return {}
        return response.text if path == "/metrics" else response.json()

    def until(self, path: str, condition: Callable[[Any], Any], logs: Callable[[], str]) -> Any:
        """Wait for an answer."""
        deadline_s = time.monotonic() + 30
        while True:
            answer = self.get(path)
            if answer and condition(answer):
                return answer
            assert time.monotonic() < deadline_s, f"{answer}\n{logs()}"
            assert self.process.poll() is None, logs()
            time.sleep(0.1)

    def metric(self, series: str) -> float:
        """Return the value of one series."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        assert found, series
        return float(found.group(1))


def everything_in(servers: str, topic: str) -> list[Any]:
    """Return the records of a topic of one partition."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": "reader", "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, 0, 0)])
    records: list[Any] = []
    while True:
        for message in reader.consume(100, 1.0):
            if message.error() is not None:
                reader.close()
                return records
            records.append(message)


def free_port() -> int:
    """Return a port that is free now."""
    import socket  # noqa: PLC0415 - only here

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_drift_is_told_survives_a_kill_and_leads_to_retraining(
    deploy: Callable[..., Any], topics: Callable[..., str], trained_store: Any
) -> None:
    """Windows go on where a killed monitor left them, and two that drift recommend retraining, once."""
    deployment = deploy()
    control = topics("control")
    deployment.environment["PURCHASE_STREAM_TOPICS__CONTROL"] = control
    scorer = Scorer(deployment, ModelStore(trained_store, "purchase"))
    monitor = Served(deployment, free_port())
    trigger, drift = "/monitoring/retraining_trigger", "/monitoring/drift"
    answer = monitor.until(trigger, lambda a: a["reason"] == "no_predictions_observed", deployment.logs)
    assert answer["recommended_action"] == "collect_inference_samples"

    scorer.predict(0, 1300)
    answer = monitor.until(drift, lambda a: a["samples_observed"] == 1300, deployment.logs)
    assert answer["status"] == "ok"
    assert answer["drifted_features"] == []
    assert answer["window"]["students"] == 1000
    assert answer["running_window"]["students"] == 300
    assert monitor.get(trigger)["reason"] == "below_threshold"
    monitor.process.send_signal(signal.SIGKILL)
    monitor.process.wait()

    scorer.predict(1300, 300)
    monitor = Served(deployment, free_port())
    answer = monitor.until(drift, lambda a: a["samples_observed"] == 1600, deployment.logs)
    assert answer["running_window"]["students"] == 600
    assert answer["window"]["number"] == 1

    scorer.predict(1600, 2400, more_days=60)
    answer = monitor.until(trigger, lambda a: a["samples_observed"] == 4000, deployment.logs)
    assert answer["should_retrain"]
    assert answer["reason"] == "feature_distribution_drift"
    assert answer["causes"] == ["days_on_platform"]
    assert answer["features"]["days_on_platform"]["psi"] > answer["features"]["days_on_platform"]["threshold"]
    assert monitor.metric('purchase_stream_drift_status{feature="days_on_platform"}') == 1
    assert monitor.metric('purchase_stream_drift_status{feature="minutes_watched"}') == 0
    assert monitor.metric("purchase_stream_retraining_recommended") == 1
    monitor.until(trigger, lambda a: a["announced_action"] == "trigger_retraining_pipeline", deployment.logs)
    told = [json.loads(message.value()) for message in everything_in(deployment.servers, control)]
    assert [a["recommended_action"] for a in told].count("trigger_retraining_pipeline") == 1
    assert told[0]["recommended_action"] == "collect_inference_samples"
    assert told[-1]["causes"] == ["days_on_platform"]

    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(20) == 0, deployment.logs()
    monitor = Served(deployment, free_port())
    answer = monitor.until(trigger, lambda a: a["samples_observed"] == 4000, deployment.logs)
    assert answer["should_retrain"]
    assert answer["announced_action"] == "trigger_retraining_pipeline"


def test_outcomes_are_joined_once_and_decay_is_told(deploy: Callable[..., Any], trained_store: Any) -> None:
    """As expected they are no reason, else decay; a control topic that is missing is told of and harmless."""
    deployment = deploy()
    deployment.environment["PURCHASE_STREAM_OUTCOMES__WINDOW_OUTCOMES"] = "1000"
    deployment.environment["PURCHASE_STREAM_TOPICS__CONTROL"] = "no-such-topic"
    scorer = Scorer(deployment, ModelStore(trained_store, "purchase"))
    monitor = Served(deployment, free_port())
    trigger = "/monitoring/retraining_trigger"
    monitor.until(trigger, lambda a: a["performance"]["feed"] == "on", deployment.logs)
    probabilities = scorer.predict(0, 2200)
    monitor.until(trigger, lambda a: a["samples_observed"] == 2200, deployment.logs)
    random = np.random.default_rng(1)
    scorer.tell_outcomes(0, random.random(1000) < probabilities[:1000])
    scorer.tell_outcomes(9_000_000, np.zeros(7, np.bool_))
    answer = monitor.until(
        trigger,
        lambda a: a["performance"]["joined"] == 1000 and a["performance"]["unmatched"] == 7,
        deployment.logs,
    )
    assert answer["performance"]["status"] == "ok"
    assert answer["reason"] == "below_threshold"
    assert answer["performance"]["awaiting"] == 1200
    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(20) == 0, deployment.logs()

    scorer.tell_outcomes(1000, np.zeros(1000, np.bool_))
    monitor = Served(deployment, free_port())
    answer = monitor.until(trigger, lambda a: a["performance"]["joined"] == 1000, deployment.logs)
    assert answer["performance"]["awaiting"] == 200
    assert answer["reason"] == "performance_decay"
    assert answer["should_retrain"]
    assert answer["announced_action"] is None
    assert "recommendation not announced" in deployment.logs()
