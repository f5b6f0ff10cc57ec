"""The metrics of the synchronous API."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROUTES: Final = frozenset(
    {"/predict", "/batch_predict", "/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"}
)
"""The values of the label ``route``. Every other path counts as ``other``."""

_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class HttpTelemetry:
    """Counts and times requests.

    Args:
        registry: The registry that exports the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "purchase_stream_http_requests_total",
            "Requests answered, by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "purchase_stream_http_request_duration_seconds",
            "Seconds from a request's head to its last answered byte.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._in_flight = Gauge(
            "purchase_stream_http_requests_in_flight", "Requests not yet answered.", registry=registry
        )
        self._predictions = Counter(
            "purchase_stream_http_predictions_total", "Predictions answered.", registry=registry
        )

    def predicted(self, n: int) -> None:
        """Count predictions."""
        self._predictions.inc(n)

    def measured(self, app: ASGIApp) -> ASGIApp:
        """Wrap the application, so that its requests are counted and timed."""

        async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
            status = 500

            async def noting_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            route = scope["path"] if scope["path"] in ROUTES else "other"
            started_s = time.perf_counter()
            self._in_flight.inc()
            try:
                await app(scope, receive, noting_status)
            finally:
                self._in_flight.dec()
                self._requests.labels(route, str(status)).inc()
                self._duration.labels(route).observe(time.perf_counter() - started_s)

        return wrapper
