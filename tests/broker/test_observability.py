"""Every query of dashboard, rules and alerts, asked of a Prometheus that scrapes the running service."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumer.demo.broker_properties import free_port

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
    ),
]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEADLINE_S = 75.0
EVENTS_PER_S = 400
"""Enough for the monitor to close a window of 1,000 students within seconds."""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, expression: str) -> list[float]:
        """Return the finite values of an expression now; fail where it is in error."""
        answer = self._client.post("/api/v1/query", data={"query": expression})
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        data = answer.json()["data"]
        samples = [data] if data["resultType"] == "scalar" else data["result"]
        values = [float(s["result"][1] if "result" in s else s["value"][1]) for s in samples]
        return [value for value in values if math.isfinite(value)]

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def targets_up(self) -> bool:
        """Return whether both roles were scraped."""
        return len(self.ask("up == 1")) == 2

    def ready(self) -> bool:
        """Return whether it answers queries; while it opens its storage it does not."""
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def prometheus(tmp_path: Path, deploy: Callable[..., Any]) -> Iterator[Prometheus]:
    """A Prometheus with our rules over a scorer and a monitor that have something to do."""
    service = deploy()
    ports = {"score": free_port(), "monitor": free_port()}
    service.environment |= {
        f"PURCHASE_STREAM_HTTP__{role.upper()}_PORT": str(port) for role, port in ports.items()
    }
    service.start("score")
    service.start("monitor")
    service.start("produce", "--rate", str(EVENTS_PER_S), "--broken", "0.02", "--count", "1000000")

    folder = tmp_path / "prometheus"
    folder.mkdir()
    for name in ("rules.yml", "alerts.yml"):
        # A person can wait a minute for the drift rules; a test need not.
        text = (DEPLOY / "prometheus" / name).read_text().replace("interval: 1m", "interval: 1s")
        (folder / name).write_text(text)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml", "alerts.yml"],
        "scrape_configs": [
            {"job_name": role, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for role, port in ports.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - arguments of this file
            [  # noqa: S607 - the one on the path
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            cwd=folder,
            env=os.environ | {"GOMAXPROCS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            server = Prometheus(client)
            _until(
                lambda: server.ready() and server.targets_up(),
                lambda: (folder / "log").read_text() + service.logs(),
            )
            yield server
    finally:
        process.terminate()
        process.wait(20)


def test_every_query_returns_data_and_every_rule_evaluates(prometheus: Prometheus) -> None:
    """With a little traffic no panel is empty, no recording rule is, and no alert is in error."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/purchase-stream.json").read_text())
    queries = {
        target["expr"].replace("$__rate_interval", "10s")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    queries |= {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    assert len(queries) > 40

    empty: set[str] = set(queries)

    def all_answered() -> bool:
        empty.difference_update([query for query in empty if prometheus.ask(query)])
        return not empty

    _until(all_answered, lambda: "no data from:\n" + "\n".join(sorted(empty)))

    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert alerts
    for alert in alerts:
        prometheus.ask(alert["query"])
    assert [alert["name"] for alert in alerts if alert["state"] == "firing"] == []


def _until(done: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, explain()
        time.sleep(0.5)
