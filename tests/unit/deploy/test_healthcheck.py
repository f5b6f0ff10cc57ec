"""The image's health check, run as Docker runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from consumer.embedded_kafka.broker import free_port

SCRIPT = Path(__file__).parents[3] / "deploy" / "healthcheck.py"
ServeStatus = Callable[[int], int]


@pytest.fixture
def role() -> Iterator[ServeStatus]:
    """A function that starts a role whose ``/health/live`` answers a status, and returns its port."""
    with ExitStack() as stack:

        def start(status: int) -> int:
            class Live(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(status if self.path == "/health/live" else 404)
                    self.end_headers()

                def log_message(self, *_: object) -> None:
                    """Keep quiet."""

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Live))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            port: int = server.server_address[1]
            return port

        yield start


def check(*, score: int, monitor: int) -> int:
    """Return the exit code with the roles on these ports."""
    ports = {"SCORE": score, "MONITOR": monitor, "SERVE": free_port()}
    environment = {f"PURCHASE_STREAM_HTTP__{name}_PORT": str(port) for name, port in ports.items()}
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-I", SCRIPT], env=os.environ | environment, check=False, capture_output=True
    ).returncode


def test_one_live_role_is_healthy(role: ServeStatus) -> None:
    """The ports of the roles that do not run here do not count."""
    assert check(score=free_port(), monitor=role(200)) == 0


def test_a_stalled_role_is_unhealthy_whatever_runs_beside_it(role: ServeStatus) -> None:
    """A 503 is not hidden by another role's 200."""
    assert check(score=role(503), monitor=role(200)) == 1


def test_nobody_is_unhealthy() -> None:
    """A container in which no role listens is not alive."""
    assert check(score=free_port(), monitor=free_port()) == 1
