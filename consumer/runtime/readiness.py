"""The conditions that keep a role from being ready.

The code that meets a problem sets a condition and clears it later; the health endpoint reads them. A role
is ready when no condition is active. A scorer without partitions is a healthy standby.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.errors import Condition


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
        """Activate a condition. If it is active already, replace its reason and keep its start."""
        with self._lock:
            since_s = self._active[condition].since_s if condition in self._active else self._now_s()
            self._active[condition] = ActiveCondition(reason, since_s)

    def clear(self, condition: Condition) -> None:
        """Deactivate a condition. Does nothing if it is not active."""
        with self._lock:
            self._active.pop(condition, None)

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
