"""Drift, outcomes and the recommendation of a real monitor process on a real Kafka."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from model_store.store import ModelStore
from tests.support.topics import Published

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.broker


class Served:
    """A monitor process and its endpoints."""

    def __init__(self, deployment: Any, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.process = deployment.start("monitor", PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port))

    def get(self, path: str) -> Any:
        """Return the answer of an endpoint, or ``None`` if there is none."""
        try:
            response = httpx.get(self._url + path, timeout=5)
        except httpx.TransportError:
            return {}
        return response.text if path == "/metrics" else response.json()

    def until(self, path: str, condition: Callable[[Any], Any], logs: Callable[[], str]) -> Any:
        """Wait for an answer."""
        deadline_s = time.monotonic() + 120
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
    """Windows survive a kill, and two drifted windows recommend retraining once."""
    deployment = deploy()
    control = topics("control")
    deployment.environment["PURCHASE_STREAM_TOPICS__CONTROL"] = control
    published = Published(deployment, ModelStore(trained_store, "purchase"))
    monitor = Served(deployment, free_port())
    trigger, drift = "/monitoring/retraining_trigger", "/monitoring/drift"
    answer = monitor.until(trigger, lambda a: a["reason"] == "no_predictions_observed", deployment.logs)
    assert answer["recommended_action"] == "collect_inference_samples"

    published.predict(0, 1300)
    answer = monitor.until(drift, lambda a: a["samples_observed"] == 1300, deployment.logs)
    assert answer["status"] == "ok"
    assert answer["drifted_features"] == []
    assert answer["window"]["students"] == 1000
    assert answer["running_window"]["students"] == 300
    assert monitor.get(trigger)["reason"] == "below_threshold"
    monitor.process.send_signal(signal.SIGKILL)
    monitor.process.wait()

    published.predict(1300, 300)
    monitor = Served(deployment, free_port())
    answer = monitor.until(drift, lambda a: a["samples_observed"] == 1600, deployment.logs)
    assert answer["running_window"]["students"] == 600
    assert answer["window"]["number"] == 1

    published.predict(1600, 2400, more_days=60)
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
    """Outcomes as expected are no reason, worse ones are decay; a missing control topic is harmless."""
    deployment = deploy()
    deployment.environment["PURCHASE_STREAM_OUTCOMES__WINDOW_OUTCOMES"] = "1000"
    deployment.environment["PURCHASE_STREAM_TOPICS__CONTROL"] = "no-such-topic"
    published = Published(deployment, ModelStore(trained_store, "purchase"))
    monitor = Served(deployment, free_port())
    trigger = "/monitoring/retraining_trigger"
    monitor.until(trigger, lambda a: a["performance"]["feed"] == "on", deployment.logs)
    probabilities = published.predict(0, 2200)
    monitor.until(trigger, lambda a: a["samples_observed"] == 2200, deployment.logs)
    random = np.random.default_rng(1)
    published.tell_outcomes(0, random.random(1000) < probabilities[:1000])
    published.tell_outcomes(9_000_000, np.zeros(7, np.bool_))
    answer = monitor.until(
        trigger,
        lambda a: a["performance"]["joined"] == 1000 and a["performance"]["unmatched"] == 7,
        deployment.logs,
    )
    assert answer["performance"]["status"] == "ok"
    assert answer["reason"] == "below_threshold"
    assert answer["performance"]["pending"] == 1200
    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(20) == 0, deployment.logs()

    published.tell_outcomes(1000, np.zeros(1000, np.bool_))
    monitor = Served(deployment, free_port())
    answer = monitor.until(trigger, lambda a: a["performance"]["joined"] == 1000, deployment.logs)
    assert answer["performance"]["pending"] == 200
    assert answer["reason"] == "performance_decay"
    assert answer["should_retrain"]
    assert answer["announced_action"] is None
    assert "cannot announce the recommendation" in deployment.logs()


def test_a_report_says_the_same_of_the_topic_as_of_the_log(
    deploy: Callable[..., Any], trained_store: Any
) -> None:
    """Without the log, the report reads the predictions topic."""
    deployment = deploy()
    published = Published(deployment, ModelStore(trained_store, "purchase"))
    monitor = Served(deployment, free_port())
    published.predict(0, 600)
    monitor.until("/monitoring/drift", lambda a: a["samples_observed"] == 600, deployment.logs)
    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(20) == 0, deployment.logs()

    def report(*options: str) -> str:
        process = deployment.start("report", "--out", "report.html", *options)
        assert process.wait(60) == 0, deployment.logs()
        page: str = (deployment.folder / "report.html").read_text()
        return page[page.index("<table") : page.index("</main>")]

    of_the_log = report()
    assert "600" in of_the_log
    assert report("--topic") == of_the_log
    assert report("--topic", "--since", "1h") == of_the_log
