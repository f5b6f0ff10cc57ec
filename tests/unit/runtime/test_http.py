"""The endpoints that every role has."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consumer.errors import Condition, StartupError
from consumer.runtime import http
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """An HTTP server with conditions, metrics and a loop that may stall."""

    def __init__(self) -> None:
        self.conditions = Readiness(lambda: 1_700_000_000.5)
        self.registry = CollectorRegistry()
        self.stalled_for_s: float | None = None
        routes = health_routes(self.conditions, self.registry, lambda: self.stalled_for_s)
        self.server = HttpServer(routes, "127.0.0.1", 0, allowed_hosts="monitor, score")

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
    """Return one server for all tests of this module."""
    process = Process()
    process.server.start()
    yield process
    process.server.stop()


@pytest.fixture
def process(server: Process) -> Process:
    """Return the server without any condition."""
    server.stalled_for_s = None
    for name in Condition:
        server.conditions.clear(name)
    return server


def test_a_process_without_conditions_is_ready(process: Process) -> None:
    """The answer is 200 without conditions."""
    assert process.json("/health/ready") == (200, {"status": "ok", "conditions": []})


def test_a_process_with_a_condition_is_not_ready_and_says_why(process: Process) -> None:
    """The answer is 503 and lists each condition with its reason and start in UTC."""
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
    """An ended condition leaves no trace in the answer."""
    process.conditions.set(Condition.PARTITION, "gone")
    process.conditions.clear(Condition.PARTITION)
    assert process.json("/health/ready")[0] == 200


def test_a_loop_that_turns_is_alive(process: Process) -> None:
    """The answer is 200."""
    assert process.json("/health/live") == (200, {"status": "ok"})


def test_a_loop_that_does_not_turn_is_not_alive(process: Process) -> None:
    """The answer is 503 with the duration, so that a supervisor can restart the process."""
    process.stalled_for_s = 31.26
    assert process.json("/health/live") == (503, {"status": "stalled", "stalled_for_seconds": 31.3})


def test_metrics_are_the_registrys_own(process: Process) -> None:
    """The answer is the Prometheus text of the injected registry, not of the global one."""
    Counter("told", "Things told.", registry=process.registry).inc(3)
    status, content_type, body = process.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert "told_total 3.0" in body
    assert "python_info" not in body


def test_metrics_come_in_openmetrics_and_gzip_where_they_are_asked_for(process: Process) -> None:
    """A scraper that sends Prometheus' Accept headers gets both; any other gets neither."""
    Counter("asked", "Requests.", registry=process.registry).inc()
    request = urllib.request.Request(f"http://127.0.0.1:{process.server.port}/metrics")
    request.add_header("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    request.add_header("accept-encoding", "gzip")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own server
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-encoding"] == "gzip"
        text = gzip.decompress(answer.read()).decode()
    assert text.endswith("# EOF\n")
    families = {family.name for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert "asked" in families
    assert "# EOF" not in process.get("/metrics")[2]


def test_an_unknown_path_is_not_found(process: Process) -> None:
    """The answer is 404 in JSON."""
    assert process.json("/nothing") == (404, {"detail": "Not Found"})


def ask(process: Process, request: bytes, timeout_s: float = 10) -> bytes:
    """Send bytes and return all that is answered until the server closes."""
    with socket.create_connection(("127.0.0.1", process.server.port), timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    return answer


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9100", "[::1]:9100", "10.1.2.3", "a.localhost", "MONITOR"]
)
def test_configured_names_and_addresses_are_answered(process: Process, host: str) -> None:
    """Scrapers come by address; names are those that were configured."""
    request = f"GET /health/live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    assert ask(process, request.encode()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "host", ["evil.example", "monitor.evil.example:9100", "127.0.0.1.evil.example", "", "[", "a b"]
)
def test_a_page_that_rebinds_its_name_reads_nothing(process: Process, host: str) -> None:
    """421 for a host name that nobody configured."""
    request = f"GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n"
    answer = ask(process, request.encode())
    assert answer.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 "))
    assert b"application/json" in answer


def test_a_request_of_two_lengths_is_refused(process: Process) -> None:
    """400: another server in front of us might see two requests."""
    lengths = b"content-length: 5\r\ntransfer-encoding: chunked"
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\n" + lengths + b"\r\n\r\n"
    answer = ask(process, head + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"exclude each other" in answer


def test_what_is_no_http_is_answered_in_json(process: Process) -> None:
    """Never plain text."""
    answer = ask(process, b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"detail":"Invalid HTTP request received."}')


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /health/live HTTP/1.1\r\nhost:",
        b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf",
    ],
)
def test_a_slow_sender_is_cut(process: Process, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """Also one that sends nothing at all, a byte now and then, or a body that never ends."""
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.5)
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", process.server.port), timeout=10) as connection:
        connection.sendall(start)
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 5:
                connection.settimeout(0.1)
                try:
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    connection.sendall(b"x" if start else b"")
    assert 0.4 < time.monotonic() - began_s < 3


def test_silent_connections_keep_nobody_out(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the connection that has waited longest for its client is closed."""
    monkeypatch.setattr(http, "_MAX_CONNECTIONS", 5)
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", process.server.port)
        silent = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(8)]
        assert process.json("/health/live") == (200, {"status": "ok"})
        for connection in silent[:3]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        silent[-1].sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that nobody reads does not occupy the server."""
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.5)

    async def large(_: Request) -> Response:
        return Response(b"x" * 50_000_000)

    server = HttpServer([Route("/large", large)], "127.0.0.1", 0)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
            time.sleep(2)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(1 << 20):
                    received += len(chunk)
        assert received < 50_000_000
    finally:
        server.stop()


def test_a_failure_of_ours_is_answered_in_json() -> None:
    """The answer is 500, and the traceback is logged."""

    async def fail(_: Request) -> Response:
        raise ValueError("ours")

    server = HttpServer([Route("/", fail)], "127.0.0.1", 0)
    server.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=10)
        with caught.value as answer:
            assert (answer.code, json.loads(answer.read())) == (500, {"detail": "Internal error."})
    finally:
        server.stop()


def test_a_request_in_flight_is_answered_after_the_stop() -> None:
    """With its own answer, or 503 in JSON when its time is up."""
    for duration_s, status in ((0.5, 200), (30, 503)):
        called = threading.Event()

        async def wait(_: Request, seconds: float = duration_s, called: threading.Event = called) -> Response:
            called.set()
            await asyncio.sleep(seconds)
            return Response("done")

        server = HttpServer([Route("/", wait)], "127.0.0.1", 0, stop_timeout_s=1)
        server.start()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert called.wait(10)
            server.stop()
            answer = connection.recv(65536)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"done" in answer or b'{"detail":"The server is stopping."}' in answer


def test_a_port_in_use_is_a_startup_error() -> None:
    """The error names the port and has exit code 78."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"127.0.0.1:{port}: Address already in use") as caught:
            HttpServer([], "127.0.0.1", port)
    assert caught.value.exit_code == 78


def test_a_stopped_server_releases_its_port() -> None:
    """Another server can bind to the port at once."""
    first = HttpServer([], "127.0.0.1", 0)
    first.start()
    first.stop()
    second = HttpServer([], "127.0.0.1", first.port)
    second.start()
    second.stop()
    assert second.port == first.port
