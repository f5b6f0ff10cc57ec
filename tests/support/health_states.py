"""Every state of the stream that an operator should know, as a snapshot with its verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from consumer.errors import Condition
from consumer.monitor.drift.tracker import DriftSnapshot
from consumer.monitor.health import STALLED_AFTER_S, CauseCode, Level
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.recent import HISTORY_S, RecentSnapshot
from consumer.monitor.retraining import Recommendation
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.stream_status import StreamSnapshot
from consumer.runtime.readiness import ActiveCondition

NOW_S = 1_800_000_000.0
BASELINE: Any = object()
WELL = MonitorSnapshot(
    at_s=NOW_S,
    conditions={},
    model=ModelSnapshot(
        drift=DriftSnapshot(baseline=BASELINE),
        outcomes=OutcomesSnapshot(),
        recommendation=Recommendation("below_threshold"),
        at_s=NOW_S,
    ),
    recent=RecentSnapshot(since_s=0.0, total=10_000, per_second=[10] * HISTORY_S, last=[], latency=None),
    stream=StreamSnapshot(lag_events=0, members=2, progress_problem="", rejections_problem=""),
)


def with_stream(**changes: Any) -> MonitorSnapshot:
    """Return a snapshot that is well but for these changes of the stream."""
    return replace(WELL, stream=replace(WELL.stream, **changes))


def with_model(reason: str, **drift: Any) -> MonitorSnapshot:
    """Return a snapshot with this recommendation."""
    model = replace(
        WELL.model,
        recommendation=Recommendation(reason),
        drift=replace(WELL.model.drift, **drift),
    )
    return replace(WELL, model=model)


def with_rejections(recent: int, before: int = 0, predicted: int = 10) -> MonitorSnapshot:
    """Return a snapshot with dead letters in the last two minutes and before."""
    recent_predictions = replace(WELL.recent, per_second=[predicted] * HISTORY_S)
    changed = with_stream(rejections={"field_invalid": recent + before}, recent_rejections=recent)
    return replace(changed, recent=recent_predictions)


@dataclass(frozen=True, eq=False)
class State:
    """A state of the stream.

    Attributes:
        name: What happened.
        snapshot: What the monitor knows then.
        code: The cause that the verdict gives; ``None`` if all is well.
        level: The level of the verdict.
        alert: The alert that fires if the state lasts; empty if none does.
    """

    name: str
    snapshot: MonitorSnapshot
    code: CauseCode | None = None
    level: Level = Level.WELL
    alert: str = ""


def not_ready(condition: Condition, reason: str) -> State:
    """Return the state in which a condition keeps the monitor from being ready."""
    names = {
        Condition.STARTING: "The monitor starts",
        Condition.BROKER: "Kafka is away or frozen",
        Condition.PARTITION: "Records were deleted before they were read",
        Condition.SCHEMA_REGISTRY: "The schema registry is away",
        Condition.AUDIT_LOG: "The disk is full",
    }
    snapshot = replace(WELL, conditions={condition: ActiveCondition(reason, NOW_S - 60)})
    return State(names[condition], snapshot, CauseCode.NOT_READY, Level.NOT_WELL, "PurchaseStreamNotReady")


def waiting(**changes: Any) -> MonitorSnapshot:
    """Return a snapshot in which 300 events wait."""
    return with_stream(lag_events=300, **changes)


STATES: Final = [
    State("Events flow", WELL),
    State(
        "A quiet night",
        replace(
            with_stream(idle_since_s=NOW_S - 3600), recent=replace(WELL.recent, per_second=[0] * HISTORY_S)
        ),
    ),
    State("A scorer restarts", waiting(stuck_since_s=NOW_S - 5)),
    State("A backlog was drained", with_stream(lag_events=0, decided_per_s=5000.0, incoming_per_s=100.0)),
    State("A few events are rejected, as usual", with_rejections(240, 3000)),
    State("A few events are rejected at night", with_rejections(3, 0, 0)),
    State("The audit log had a moment of backlog", replace(WELL, log_backlog_since_s=NOW_S - 2)),
    State(
        "The only scorer was killed half a minute ago",
        waiting(stuck_since_s=NOW_S - STALLED_AFTER_S),
        CauseCode.STALLED,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "Every scorer is in the group but not ready",
        waiting(stuck_since_s=NOW_S - 600, decided_per_s=0.0, members=2),
        CauseCode.STALLED,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "The group has no member, and events wait",
        waiting(members=0, no_members_since_s=NOW_S - 3, stuck_since_s=NOW_S - 600),
        CauseCode.NO_SCORER,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "The group has no member, and nothing waits",
        with_stream(members=0, no_members_since_s=NOW_S - 3),
        CauseCode.NO_SCORER,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "More events come in than are decided",
        with_stream(lag_events=50_000, growing_since_s=NOW_S - 90),
        CauseCode.FALLING_BEHIND,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "A large backlog is drained",
        with_stream(lag_events=50_000, stuck_since_s=NOW_S, drain_s=300.0),
        CauseCode.CATCHING_UP,
        Level.ATTENTION,
    ),
    State("A backlog is nearly drained", with_stream(lag_events=500, drain_s=5.0)),
    State(
        "The monitor may not read the group",
        with_stream(
            lag_events=None, members=None, progress_problem="the broker refuses Describe on the group"
        ),
        CauseCode.PROGRESS_UNKNOWN,
        Level.ATTENTION,
        "PurchaseStreamMonitorBlind",
    ),
    State(
        "The dead-letter topic is missing",
        with_stream(rejections_problem="the topic does not exist"),
        CauseCode.REJECTIONS_UNKNOWN,
        Level.ATTENTION,
        "PurchaseStreamMonitorBlind",
    ),
    State(
        "A flood of rejections",
        with_rejections(1200),
        CauseCode.REJECTION_FLOOD,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    State(
        "Every event is rejected",
        with_rejections(500, 9_000, 0),
        CauseCode.REJECTION_FLOOD,
        Level.NOT_WELL,
        "PurchaseStreamNotWell",
    ),
    not_ready(Condition.STARTING, "the audit log is being read"),
    not_ready(Condition.BROKER, "no broker answers"),
    not_ready(Condition.PARTITION, "records 5 to 9 of partition 0 are gone"),
    not_ready(Condition.SCHEMA_REGISTRY, "no answer in time"),
    not_ready(Condition.AUDIT_LOG, "No space left on device"),
    State(
        "The audit log is two minutes behind",
        replace(WELL, log_backlog_since_s=NOW_S - 120),
        CauseCode.AUDIT_LOG_BEHIND,
        Level.ATTENTION,
        "PurchaseStreamAuditLogBehind",
    ),
    State(
        "The model store has no champion",
        with_model("baseline_not_loaded", baseline=None, problem="no champion is set"),
        CauseCode.NO_MODEL,
        Level.ATTENTION,
        "PurchaseStreamDriftBlind",
    ),
    State(
        "Students changed",
        with_model("feature_distribution_drift"),
        CauseCode.RETRAIN,
        Level.ATTENTION,
        "PurchaseStreamFeatureDrift",
    ),
    State(
        "Predictions shifted",
        with_model("prediction_rate_shift"),
        CauseCode.RETRAIN,
        Level.ATTENTION,
        "PurchaseStreamPredictionRateShift",
    ),
    State(
        "Predictions come true less often",
        with_model("performance_decay"),
        CauseCode.RETRAIN,
        Level.ATTENTION,
        "PurchaseStreamPerformanceDecay",
    ),
]
