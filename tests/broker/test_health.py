"""The monitor's verdict on a real stream: quiet, flowing, without its scorer, draining, flooded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from consumer.embedded_kafka.broker import free_port

pytestmark = pytest.mark.broker


def test_the_verdict_follows_what_happens_to_the_stream(deploy: Callable[..., Any]) -> None:
    """No headline says well while events wait for a dead scorer, or while most events are rejected."""
    service, port = deploy(), free_port()
    service.start("monitor", PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port))
    url = f"http://127.0.0.1:{port}"

    def verdict() -> dict[str, Any]:
        try:
            stream: dict[str, Any] = httpx.get(f"{url}/health/ready").json()["stream"]
        except httpx.TransportError:
            return {"level": "no answer", "causes": []}
        return stream

    def until(level: str, *causes: str, text: str = "") -> dict[str, Any]:
        deadline_s = time.monotonic() + 90
        while True:
            found = verdict()
            matching = [c for c in found["causes"] if c["cause"] in causes and text in c["text"]]
            if found["level"] == level and (matching or not causes):
                return found
            assert time.monotonic() < deadline_s, f"{found}\n{service.logs()}"
            time.sleep(0.5)

    until("not_well", "no_scorer")
    scorer = service.start("score")
    quiet = until("well")
    assert quiet["headline"].startswith("All is well")
    assert quiet["since"].endswith("Z")

    service.start("produce", "--count", "300").wait()
    service.read(service.topics["PREDICTIONS"], 300)
    until("well")
    scorer.kill()
    service.start("produce", "--count", "300").wait()
    dead = until("not_well", "stalled", "no_scorer", text="300 events wait")
    assert dead["headline"] == "Not well"
    assert "Not well" in httpx.get(url).text
    assert "purchase_stream_health_level 2.0" in httpx.get(f"{url}/metrics").text

    service.start("score")
    service.read(service.topics["PREDICTIONS"], 600)
    until("well")
    service.start("produce", "--count", "400", "--broken", "1").wait()
    flood = until("not_well", "rejection_flood")
    assert flood["causes"][0]["runbook"] == "PurchaseStreamDeadLetters"
    summary = httpx.get(f"{url}/health").json()
    assert summary == {"ready": True, "predictor_loaded": True, "drift_baseline_loaded": True}
