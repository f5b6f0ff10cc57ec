"""The HTTP server of a role, and the endpoints that every role has: liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import orjson
import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from consumer import timestamps
from consumer.errors import StartupError
from consumer.runtime.readiness import Readiness

REQUEST_TIMEOUT_S: Final = 10.0
"""How long a client may take to send one request, from the start of the connection or from its first byte."""
_KEEP_ALIVE_S: Final = 5
_MAX_CONNECTIONS: Final = 512
"""Half of the usual limit of open files."""
_STOP_TIMEOUT_S: Final = 2
_STOP_MARGIN_S: Final = 5

log = structlog.get_logger(__name__)


def health_routes(
    readiness: Readiness,
    registry: CollectorRegistry,
    stalled_for_s: Callable[[], float | None] = lambda: None,
) -> list[BaseRoute]:
    """Return the routes ``/health/live``, ``/health/ready`` and ``/metrics``.

    Args:
        readiness: The conditions that ``/health/ready`` reports.
        registry: The metrics that ``/metrics`` exports.
        stalled_for_s: Returns how long the main loop has been silent if that is too long, else ``None``.
    """

    async def live(_: Request) -> Response:
        seconds = stalled_for_s()
        if seconds is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "stalled", "stalled_for_seconds": round(seconds, 1)}, 503)

    async def ready(_: Request) -> Response:
        active = readiness.active()
        body: dict[str, Any] = {
            "status": "not ready" if active else "ok",
            "conditions": [
                {
                    "condition": name,
                    "reason": condition.reason,
                    "since": timestamps.format_s(condition.since_s),
                }
                for name, condition in active.items()
            ],
        }
        return JSONResponse(body, 503 if active else 200)

    def metrics(request: Request) -> Response:  # not async: runs in a thread and blocks no other request
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body, headers = encode(registry), {"vary": "accept, accept-encoding"}
        if gzip_accepted(request.headers.get("accept-encoding", "")):
            body, headers["content-encoding"] = gzip.compress(body, compresslevel=1), "gzip"
        return Response(body, media_type=content_type, headers=headers)

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]


class HttpServer:
    """Serves routes from its own thread.

    Args:
        routes: The routes.
        host: The address to bind to.
        port: The port to bind to; 0 takes a free one.
        allowed_hosts: Host names by which clients reach this machine, separated by commas; ``*`` allows
            any. Loopback names, IP addresses and ``host`` are always allowed.
        middleware: Wraps every route, and the answers for unknown paths.
        stop_timeout_s: How long requests in flight may take after :meth:`stop`.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        host: str,
        port: int,
        *,
        allowed_hosts: str = "",
        middleware: Sequence[Middleware] = (),
        stop_timeout_s: int = _STOP_TIMEOUT_S,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._stop_timeout_s = stop_timeout_s
        handlers = {HTTPException: _http_error, Exception: _internal_error}
        app = Starlette(routes=list(routes), middleware=middleware, exception_handlers=handlers)
        names = frozenset(name.strip().lower() for name in f"{host},{allowed_hosts}".split(",")) - {""}
        config = uvicorn.Config(
            RequestGuard(app, names),
            http=_Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=stop_timeout_s,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start the server's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port, answer the requests in flight, and stop."""
        self._server.should_exit = True
        self._thread.join(self._stop_timeout_s + _STOP_MARGIN_S)
        if not self._thread.is_alive():  # the event loop fails if its socket is closed while it runs
            self._socket.close()

    def _run(self) -> None:
        # Not the server's own run(): it installs signal handlers, which only the main thread may do.
        asyncio.run(self._server.serve(sockets=[self._socket]))


def is_allowed_host(host: str, names: frozenset[str]) -> bool:
    """Return whether requests may name this host.

    A web page can make its own domain resolve to this machine (DNS rebinding). The browser then treats our
    answers as the page's own, but it still sends the page's host name.

    >>> is_allowed_host("localhost:9100", frozenset()), is_allowed_host("evil.example", frozenset())
    (True, False)
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in names or "*" in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def json_error(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error answer in FastAPI's form."""
    return Response(orjson.dumps({"detail": detail}), status, headers, "application/json")


class RequestGuard:
    """Refuses requests that no route may see, and answers in JSON even after an internal error.

    Args:
        app: The application.
        hosts: The allowed host names, lower case.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope)
        started = False

        async def noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self._app(scope, receive, noting_start)
        except asyncio.CancelledError:
            if not started:
                await json_error(503, "The server is stopping.")(scope, receive, send)
        except Exception:
            # The application has answered with 500 and raised the exception again.
            log.exception("request failed", method=scope["method"], path=scope["path"])

    def _refusal(self, headers: Headers) -> Response | None:
        if "host" in headers and not is_allowed_host(headers["host"], self._hosts):
            detail = "This host name is not allowed; see the setting http.allowed_hosts."
            return json_error(421, detail, {"connection": "close"})
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two intermediaries could disagree about where this request ends (request smuggling).
            detail = "Content-Length and Transfer-Encoding exclude each other."
            return json_error(400, detail, {"connection": "close"})
        return None


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    return json_error(error.status_code, error.detail, error.headers)


async def _internal_error(_: Request, _error: Exception) -> Response:
    return json_error(500, "Internal error.", {"connection": "close"})


class _Connection(H11Protocol):
    """A connection that is closed if its client is too slow.

    Each request has to arrive within :data:`REQUEST_TIMEOUT_S`, and the client has to continue to read an
    answer within the same time. If there are too many connections, the one that has waited longest for its
    client is closed.
    """

    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None
    waiting_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting_since_s = self.loop.time()
        self._set_deadline()
        if len(self.connections) > _MAX_CONNECTIONS:
            waiting = [c for c in self.connections if isinstance(c, _Connection) and c.is_waiting]
            min(waiting, key=lambda connection: connection.waiting_since_s).transport.abort()

    @property
    def is_waiting(self) -> bool:
        """Whether the client has to send the next bytes."""
        return self.conn.their_state in {h11.IDLE, h11.SEND_BODY} and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_deadline()

    def on_response_complete(self) -> None:
        self.waiting_since_s = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_write_deadline()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._cancel_write_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._cancel_deadline()
        body = orjson.dumps({"detail": msg})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _set_deadline(self) -> None:
        if not self.is_waiting:
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
