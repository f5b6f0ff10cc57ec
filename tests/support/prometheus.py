"""A real Prometheus with the project's rules, scraping processes that the test started."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from consumer.embedded_kafka.broker import free_port

EXECUTABLE = shutil.which("prometheus")
RULES = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx.Client, log: Path) -> None:
        self._client = client
        self._log = log

    def ask(self, expression: str) -> list[float]:
        """Return the finite values of an expression now; fail where it is in error."""
        data = self._query(expression)
        samples = [data] if data["resultType"] == "scalar" else data["result"]
        values = [float(s["result"][1] if "result" in s else s["value"][1]) for s in samples]
        return [value for value in values if math.isfinite(value)]

    def by(self, label: str, expression: str) -> dict[str, float]:
        """Return the values of an expression now by one of their labels."""
        return {s["metric"][label]: float(s["value"][1]) for s in self._query(expression)["result"]}

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def ready(self) -> bool:
        """Return whether it answers queries; it does not while it opens its storage."""
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """Return its log."""
        return self._log.read_text()

    def _query(self, expression: str) -> Any:
        answer = self._client.post("/api/v1/query", data={"query": expression})
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        return answer.json()["data"]


@contextlib.contextmanager
def prometheus_over(
    ports: dict[str, list[int]], folder: Path, scrape_interval: str = "1s"
) -> Iterator[Prometheus]:
    """Run a Prometheus with the project's rules and alerts.

    Args:
        ports: What it scrapes on this machine, by job.
        folder: A folder of its own.
        scrape_interval: In the form of its configuration.
    """
    folder.mkdir()
    for name in ("rules.yml", "alerts.yml"):
        # A person can wait a minute for the rules; a test need not.
        (folder / name).write_text((RULES / name).read_text().replace("interval: 1m", "interval: 1s"))
    config = {
        "global": {
            "scrape_interval": scrape_interval,
            "scrape_timeout": scrape_interval,
            "evaluation_interval": "1s",
        },
        "rule_files": ["rules.yml", "alerts.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in of_job]}]}
            for job, of_job in ports.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - arguments of this file
            [
                str(EXECUTABLE),
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
            yield Prometheus(client, log_path)
    finally:
        process.terminate()
        process.wait(20)
