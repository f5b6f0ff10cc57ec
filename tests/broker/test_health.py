"""The monitor's verdict on a real stream, in the states that docs/states.md lists."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.embedded_kafka.broker import EmbeddedKafka, free_port
from consumer.kafka.admin import ClusterAdmin, TopicSpec

pytestmark = pytest.mark.broker


class Monitor:
    """A running monitor of a deployment.

    Args:
        deployment: The deployment.
        environment: Settings of this process alone.
    """

    def __init__(self, deployment: Any, **environment: str) -> None:
        port = free_port()
        self.process = deployment.start(
            "monitor", PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port), **environment
        )
        self.url = f"http://127.0.0.1:{port}"
        self._deployment = deployment

    def get(self, path: str) -> httpx.Response:
        """Ask the monitor."""
        return httpx.get(f"{self.url}{path}", timeout=30)

    def until(self, level: str, *causes: str, text: str = "") -> dict[str, Any]:
        """Wait for a verdict with this level, one of these causes and this text, and return it."""
        deadline_s = time.monotonic() + 120
        while True:
            try:
                found: dict[str, Any] = self.get("/health/ready").json()["stream"]
            except httpx.TransportError:
                found = {"level": "no answer", "causes": []}
            matching = [c for c in found["causes"] if c["cause"] in causes and text in c["text"]]
            if found["level"] == level and (matching or not causes):
                return found
            assert time.monotonic() < deadline_s, f"{found}\n{self._deployment.logs()}"
            time.sleep(0.2)


def test_the_verdict_follows_what_happens_to_the_stream(deploy: Callable[..., Any]) -> None:
    """No headline says well while events wait for a dead scorer, or while most events are rejected."""
    service = deploy()
    monitor = Monitor(service)
    monitor.until("not_well", "no_scorer", text="no event waits")
    scorer = service.start("score")
    quiet = monitor.until("well")
    assert quiet["headline"].startswith("All is well")
    assert quiet["since"].endswith("Z")

    service.start("produce", "--count", "300").wait()
    service.read(service.topics["PREDICTIONS"], 300)
    monitor.until("well")
    scorer.kill()
    service.start("produce", "--count", "300").wait()
    dead = monitor.until("not_well", "stalled", "no_scorer", text="300 events wait")
    assert dead["headline"] == "Not well"
    page = monitor.get("/").text
    assert "Not well" in page
    assert "All is well" not in page
    assert "purchase_stream_health_level 2.0" in monitor.get("/metrics").text

    service.start("score")
    service.read(service.topics["PREDICTIONS"], 600)
    monitor.until("well")
    service.start("produce", "--count", "400", "--broken", "1").wait()
    flood = monitor.until("not_well", "rejection_flood")
    assert flood["causes"][0]["runbook"] == "PurchaseStreamDeadLetters"
    summary = monitor.get("/health").json()
    assert summary == {"ready": True, "predictor_loaded": True, "drift_baseline_loaded": True}
    assert "the stream's health changed" in service.logs()


def test_what_is_missing_is_said_together(deploy: Callable[..., Any], tmp_path: Path) -> None:
    """Without scorer, model and dead-letter topic the verdict names all three, the worst first."""
    service = deploy()
    monitor = Monitor(
        service,
        PURCHASE_STREAM_MODEL_STORE__PATH=str(tmp_path / "none"),
        PURCHASE_STREAM_TOPICS__DEAD_LETTERS="there-is-no-such-topic",
    )
    monitor.until("not_well", "rejections_unknown", text="there-is-no-such-topic")
    found = monitor.until("not_well", "no_scorer")
    assert [cause["cause"] for cause in found["causes"]] == ["no_scorer", "rejections_unknown", "no_model"]
    summary = monitor.get("/health").json()
    assert summary == {"ready": True, "predictor_loaded": False, "drift_baseline_loaded": False}


def test_a_full_disk_is_said_and_waited_out(deploy: Callable[..., Any], tmp_path: Path) -> None:
    """A monitor that cannot write is not ready and says why; with space it adds every line once."""
    log = tmp_path / "audit.jsonl"
    service = deploy()
    monitor = Monitor(service, PURCHASE_STREAM_AUDIT__PATH=str(log))
    service.start("score")
    service.start("produce", "--count", "300").wait()
    service.read(service.topics["PREDICTIONS"], 300)
    monitor.until("well")
    _, hard = resource.prlimit(monitor.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(monitor.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 100, hard))
    service.start("produce", "--count", "300").wait()
    monitor.until("not_well", "monitor_not_ready", text="The audit log cannot be written")
    assert monitor.get("/health/ready").status_code == 503
    assert monitor.get("/health").json()["ready"] is False
    resource.prlimit(monitor.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    monitor.until("well")
    service.read(service.topics["PREDICTIONS"], 600)
    deadline_s = time.monotonic() + 60
    while len(log.read_bytes().splitlines()) < 600:
        assert time.monotonic() < deadline_s, service.logs()
        time.sleep(0.1)
    ids = [line.split(b'"event_id":"', 1)[1].split(b'"')[0] for line in log.read_bytes().splitlines()]
    assert len(ids) == len(set(ids)) == 600
    said = [line for line in service.logs().splitlines() if '"condition": "audit_log"' in line]
    assert len([line for line in said if '"event": "not ready"' in line]) == 1


def test_a_frozen_kafka_is_not_well(deploy: Callable[..., Any], tmp_path: Path) -> None:
    """While Kafka is frozen no headline says well, and the monitor is not ready; later all is well again."""
    with EmbeddedKafka(tmp_path / "kafka", remove_data=True) as kafka:
        service = deploy()
        servers = kafka.bootstrap_servers
        service.servers = service.environment["PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS"] = servers
        specs = [TopicSpec(name=name, partitions=2) for name in service.topics.values()]
        ClusterAdmin({"bootstrap.servers": servers}).create_topics(specs)
        monitor = Monitor(service)
        service.start("score")
        monitor.until("well")
        kafka.pause(1)
        monitor.until("not_well", "monitor_not_ready", text="Kafka does not answer")
        assert monitor.get("/health/ready").status_code == 503
        kafka.resume(1)
        monitor.until("well")
        assert monitor.get("/health/ready").status_code == 200
