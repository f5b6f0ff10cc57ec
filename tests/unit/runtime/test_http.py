"""The endpoints that every role has."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from consumer.errors import Condition, StartupError
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """A process with conditions, a metric and perhaps a stalled loop, served over HTTP."""

    def __init__(self) -> None:
        self.conditions = Readiness(lambda: 1_700_000_000.5)
        self.registry = CollectorRegistry()
        self.stalled_for_s: float | None = None
        routes = health_routes(self.conditions, self.registry, lambda: self.stalled_for_s)
        self.server = HttpServer(routes, "127.0.0.1", 0)

    def get(self, path: str) -> tuple[int, str, str]:
        """Return status, content type and body."""
        url = f"http://127.0.0.1:{self.server.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.headers["content-type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["content-type"], error.read().decode()

    def json(self, path: str) -> tuple[int, Any]:
        """Return status and parsed body."""
        status, content_type, body = self.get(path)
        assert content_type == "application/json"
        return status, json.loads(body)


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    """One process for all tests of this module."""
    process = Process()
    process.server.start()
    yield process
    process.server.stop()


@pytest.fixture
def process(server: Process) -> Process:
    """The process with nothing wrong."""
    server.stalled_for_s = None
    for name in Condition:
        server.conditions.clear(name)
    return server


def test_a_process_without_conditions_is_ready(process: Process) -> None:
    """200, and that there is nothing to say."""
    assert process.json("/health/ready") == (200, {"status": "ok", "conditions": []})


def test_a_process_with_a_condition_is_not_ready_and_says_why(process: Process) -> None:
    """503, each condition with its reason and since when, in UTC."""
    process.conditions.set(Condition.BROKER, "no broker answers")
    process.conditions.set(Condition.MODEL, "Model is not loaded.")
    since = "2023-11-14T22:13:20.500Z"
    assert process.json("/health/ready") == (
        503,
        {
            "status": "not ready",
            "conditions": [
                {"condition": "broker", "reason": "no broker answers", "since": since},
                {"condition": "model", "reason": "Model is not loaded.", "since": since},
            ],
        },
    )
    assert process.json("/health/live")[0] == 200


def test_a_process_is_ready_again_when_its_condition_ends(process: Process) -> None:
    """Nothing is remembered."""
    process.conditions.set(Condition.PARTITION, "gone")
    process.conditions.clear(Condition.PARTITION)
    assert process.json("/health/ready")[0] == 200


def test_a_loop_that_turns_is_alive(process: Process) -> None:
    """200."""
    assert process.json("/health/live") == (200, {"status": "ok"})


def test_a_loop_that_does_not_turn_is_not_alive(process: Process) -> None:
    """503 and for how long, so that a supervisor may end it."""
    process.stalled_for_s = 31.26
    assert process.json("/health/live") == (503, {"status": "stalled", "stalled_for_seconds": 31.3})


def test_metrics_are_the_registrys_own(process: Process) -> None:
    """Prometheus text of the injected registry and of no global one."""
    Counter("told", "Things told.", registry=process.registry).inc(3)
    status, content_type, body = process.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert "told_total 3.0" in body
    assert "python_info" not in body


def test_an_unknown_path_is_not_found(process: Process) -> None:
    """404."""
    assert process.get("/nothing")[0] == 404


def test_a_port_in_use_is_a_startup_error() -> None:
    """One line that names it, exit code 78."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"127.0.0.1:{port}: Address already in use") as caught:
            HttpServer([], "127.0.0.1", port)
    assert caught.value.exit_code == 78


def test_a_server_that_stopped_leaves_its_port() -> None:
    """The next process can have it."""
    first = HttpServer([], "127.0.0.1", 0)
    first.start()
    first.stop()
    second = HttpServer([], "127.0.0.1", first.port)
    second.start()
    second.stop()
    assert second.port == first.port
