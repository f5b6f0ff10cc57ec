"""Everything that the monitor knows at one moment. One thread creates it; it is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consumer.errors import Condition
from consumer.monitor.challenger import ComparisonSnapshot
from consumer.monitor.drift.tracker import DriftSnapshot
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.recent import RecentSnapshot
from consumer.monitor.retraining import Recommendation
from consumer.monitor.stream_status import StreamSnapshot
from consumer.runtime.readiness import ActiveCondition


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSnapshot:
    """How well live data and outcomes fit the model.

    Attributes:
        drift: Live students against training.
        outcomes: Realised against expected quality.
        recommendation: Whether to train again.
        announced_action: The action last sent to the control topic; empty before the first.
        cooldown_until_s: The end of the cooldown, during which retraining is not announced again, seconds
            since the epoch, or ``None``.
        comparisons: The champion against the challenger and its predecessor.
        at_s: When the snapshot was made, seconds since the epoch.
    """

    drift: DriftSnapshot
    outcomes: OutcomesSnapshot
    recommendation: Recommendation
    announced_action: str = ""
    cooldown_until_s: float | None = None
    comparisons: tuple[ComparisonSnapshot, ...] = ()
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSnapshot:
    """Everything that the monitor knows.

    Attributes:
        at_s: The moment, seconds since the epoch.
        conditions: Why the monitor is not ready; empty if it is.
        model: Drift, outcomes and the recommendation.
        recent: The latest predictions.
        stream: The scorers' progress and the dead letters.
        log_backlog_since_s: When the audit log last fell behind the topic, seconds since the epoch; ``None``
            if it is not behind.
        champion_since: When the model version became champion, RFC 3339; ``None`` if it is not the champion,
            or if that is unknown.
    """

    at_s: float
    conditions: Mapping[Condition, ActiveCondition]
    model: ModelSnapshot
    recent: RecentSnapshot
    stream: StreamSnapshot
    log_backlog_since_s: float | None = None
    champion_since: str | None = None
