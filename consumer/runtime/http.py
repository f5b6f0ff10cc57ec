"""The HTTP endpoints that every role has: is it alive, is it ready, its metrics."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from consumer import timestamps
from consumer.errors import StartupError
from consumer.runtime.readiness import Readiness

_STOP_TIMEOUT_S: Final = 2


def health_routes(
    conditions: Readiness,
    registry: CollectorRegistry,
    stalled_for_s: Callable[[], float | None] = lambda: None,
) -> list[BaseRoute]:
    """Return the routes of ``/health/live``, ``/health/ready`` and ``/metrics``.

    Args:
        conditions: what is wrong; nothing means ready.
        registry: whose metrics are shown.
        stalled_for_s: for how long the main loop has not turned, if that is too long.
    """

    async def live(_: Request) -> Response:
        seconds = stalled_for_s()
        if seconds is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "stalled", "stalled_for_seconds": round(seconds, 1)}, 503)

    async def ready(_: Request) -> Response:
        active = conditions.active()
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

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
    ]


class HttpServer:
    """Serves routes from a thread of its own, while the main thread works.

    Args:
        routes: what to serve.
        host: bind address.
        port: bind port; 0 takes a free one.
    """

    def __init__(self, routes: Sequence[BaseRoute], host: str, port: int) -> None:
        try:
            self._socket = socket.create_server((host, port), family=_family(host))
        except OSError as error:
            raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            Starlette(routes=list(routes)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(_STOP_TIMEOUT_S + 1)
        self._socket.close()

    def _run(self) -> None:
        # The server's own run() would install signal handlers, which are the main thread's.
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
