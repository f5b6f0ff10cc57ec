"""The conditions that keep a role from being ready.

The code that meets a problem sets a condition and clears it later; the health endpoint reads them. A role
is ready when no condition is active. A scorer without partitions is a healthy standby. Each start and end of
a condition is one log line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.errors import Condition

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveCondition:
    """A condition that holds now.

    Attributes:
        reason: One line that says what is wrong.
        since_s: Start of the condition, seconds since the epoch.
    """

    reason: str
    since_s: float


class Readiness:
    """The active conditions of one process. Thread-safe."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._active: dict[Condition, ActiveCondition] = {}

    def set(self, condition: Condition, reason: str) -> None:
        """Activate a condition and log it. If it is active already, only replace its reason."""
        with self._lock:
            before = self._active.get(condition)
            since_s = self._now_s() if before is None else before.since_s
            self._active[condition] = ActiveCondition(reason, since_s)
        if before is None:
            log.warning("not ready", condition=condition.value, reason=reason)

    def clear(self, condition: Condition) -> None:
        """Deactivate a condition and log it with its duration. Does nothing if it is not active."""
        with self._lock:
            ended = self._active.pop(condition, None)
            remaining = list(self._active)
        if ended is not None:
            log.info(
                "condition ended" if remaining else "ready",
                condition=condition.value,
                reason=ended.reason,
                lasted_s=round(self._now_s() - ended.since_s, 3),
            )

    def active(self) -> dict[Condition, ActiveCondition]:
        """Return a copy of the active conditions."""
        with self._lock:
            return dict(self._active)


class ReadinessCollector(Collector):
    """Exports each condition as a gauge: 1 if it is active, else 0."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one series per condition."""
        family = GaugeMetricFamily(
            "purchase_stream_condition", "1 while this keeps the role from being ready.", labels=["condition"]
        )
        active = self._readiness.active()
        for condition in Condition:
            family.add_metric([condition], float(condition in active))
        yield family
