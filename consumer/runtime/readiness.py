"""What keeps this process from doing its work right now, and since when.

Raised and cleared by whoever meets the trouble, read by the health endpoint. An empty set is
readiness; a scorer without partitions is a healthy standby.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Condition(StrEnum):
    """The closed set of conditions."""

    STARTING = "starting"
    BROKER = "broker"
    PARTITION = "partition"
    SCHEMA_REGISTRY = "schema_registry"
    MODEL = "model"
    AUDIT_LOG = "audit_log"


@dataclass(frozen=True, slots=True)
class ActiveCondition:
    """One thing that is wrong.

    Attributes:
        reason: what is wrong, one line.
        since_s: when it began, seconds since the epoch.
    """

    reason: str
    since_s: float


class Readiness:
    """The conditions of one process; safe to use from several threads."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._active: dict[Condition, ActiveCondition] = {}

    def set(self, name: Condition, reason: str) -> None:
        """Begin a condition, or give one that goes on a new reason."""
        with self._lock:
            since_s = self._active[name].since_s if name in self._active else self._now_s()
            self._active[name] = ActiveCondition(reason, since_s)

    def clear(self, name: Condition) -> None:
        """End a condition, if it is there."""
        with self._lock:
            self._active.pop(name, None)

    def active(self) -> dict[Condition, ActiveCondition]:
        """Return a copy of what is wrong."""
        with self._lock:
            return dict(self._active)


class ReadinessCollector(Collector):
    """Shows the conditions as a metric: 1 for what is wrong, 0 for what is not."""

    def __init__(self, conditions: Readiness) -> None:
        self._conditions = conditions

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one series per condition."""
        family = GaugeMetricFamily(
            "purchase_stream_condition", "1 while this keeps the role from being ready.", labels=["condition"]
        )
        active = self._conditions.active()
        for name in Condition:
            family.add_metric([name], float(name in active))
        yield family
