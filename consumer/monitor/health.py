"""The verdict on the whole stream: is it well, and if not, why, since when, and what to do.

:func:`assess` is the only place that decides this. The dashboard's headline, ``/health/ready``, the
metrics and the alerts all show its result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import structlog

from consumer.errors import Condition
from consumer.monitor.snapshot import MonitorSnapshot
from consumer.monitor.stream_status import StreamSnapshot

log = structlog.get_logger(__name__)

STALLED_AFTER_S: Final = 30.0
"""Time without a decided event, although events wait, after which the stream has stalled: longer than a
rebalance or a restart takes."""

LONG_DRAIN_S: Final = 60.0
"""A backlog is worth mentioning if it takes longer than this to decide."""

LOG_BEHIND_AFTER_S: Final = 60.0
"""Time of uninterrupted backlog after which the audit log is behind."""

MIN_FLOOD_RATIO: Final = 0.1
MAX_USUAL_RATIO: Final = 0.5
FLOOD_FACTOR: Final = 3.0
"""A flood is a share of rejected events above three times the usual share, but at least 10 %. Above 50 %
it is a flood whatever is usual."""

MIN_FLOOD_EVENTS: Final = 20
_POLL_EVERY_S: Final = 2.0


class Level(StrEnum):
    """How well the stream is. A cause has a level; the verdict has the worst level of its causes."""

    WELL = "well"
    ATTENTION = "attention"
    NOT_WELL = "not_well"


class CauseCode(StrEnum):
    """The closed set of causes."""

    NOT_READY = "monitor_not_ready"
    NO_SCORER = "no_scorer"
    STALLED = "stalled"
    FALLING_BEHIND = "falling_behind"
    CATCHING_UP = "catching_up"
    REJECTION_FLOOD = "rejection_flood"
    AUDIT_LOG_BEHIND = "audit_log_behind"
    PROGRESS_UNKNOWN = "progress_unknown"
    REJECTIONS_UNKNOWN = "rejections_unknown"
    NO_MODEL = "no_model"
    RETRAIN = "retrain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A reason why the stream is not well.

    Attributes:
        code: Its code.
        level: How bad it is.
        text: One sentence for people.
        since_s: Its start, seconds since the epoch; ``None`` if unknown.
        runbook: The name of its runbook.
    """

    code: CauseCode
    level: Level
    text: str
    since_s: float | None
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The verdict.

    Attributes:
        level: The worst level of the causes.
        headline: The verdict in one line.
        since_s: When this level began, seconds since the epoch; ``None`` if unknown.
        causes: The causes, the worst first.
    """

    level: Level
    headline: str
    since_s: float | None = None
    causes: tuple[Cause, ...] = ()


_LEVELS: Final = tuple(Level)

_HEADLINES: Final = {
    Level.NOT_WELL: "Not well",
    Level.ATTENTION: "Running, and needs someone to look",
    Level.WELL: "All is well",
}

_CONDITIONS: Final = {
    Condition.STARTING: "The monitor is starting",
    Condition.BROKER: "Kafka does not answer",
    Condition.PARTITION: "A partition cannot be read",
    Condition.SCHEMA_REGISTRY: "The schema registry does not answer",
    Condition.MODEL: "No usable model",
    Condition.AUDIT_LOG: "The audit log cannot be written",
}

_RETRAIN: Final = {
    "feature_distribution_drift": (
        "Students differ from those in training: train again.",
        "PurchaseStreamFeatureDrift",
    ),
    "prediction_rate_shift": (
        "Predictions differ from those in training: train again.",
        "PurchaseStreamPredictionRateShift",
    ),
    "performance_decay": (
        "Predictions come true less often than they should: train again.",
        "PurchaseStreamPerformanceDecay",
    ),
}


def assess(snapshot: MonitorSnapshot) -> Health:
    """Judge one snapshot. Pure: the same snapshot always gives the same verdict."""
    stream = snapshot.stream
    causes = [
        *_conditions(snapshot),
        *progress_causes(stream, snapshot.at_s),
        *_rejections(snapshot),
        *_audit_log(snapshot),
        *_model(snapshot),
    ]
    causes.sort(key=lambda cause: -_LEVELS.index(cause.level))
    level = causes[0].level if causes else Level.WELL
    headline = _HEADLINES[level]
    if level == Level.WELL and stream.idle_since_s is not None:
        return Health(level=level, headline=f"{headline}: no events come in", since_s=stream.idle_since_s)
    return Health(level=level, headline=headline, causes=tuple(causes))


def progress_causes(stream: StreamSnapshot, at_s: float) -> Iterator[Cause]:
    """Yield what keeps events from being decided.

    Args:
        stream: The stream.
        at_s: The time of the snapshot, seconds since the epoch.
    """
    if stream.lag_events is None:
        yield Cause(
            code=CauseCode.PROGRESS_UNKNOWN,
            level=Level.ATTENTION,
            text=f"It is unknown whether events are decided: {stream.progress_problem}.",
            since_s=None,
            runbook="PurchaseStreamNotReady",
        )
        return
    waiting = _events_wait(stream.lag_events)
    if stream.members == 0:
        yield Cause(
            code=CauseCode.NO_SCORER,
            level=Level.NOT_WELL,
            text=f"No scorer is in the consumer group; {waiting}.",
            since_s=stream.no_members_since_s,
            runbook="PurchaseStreamScorerAbsent",
        )
    elif stream.stuck_since_s is not None and at_s - stream.stuck_since_s >= STALLED_AFTER_S:
        yield Cause(
            code=CauseCode.STALLED,
            level=Level.NOT_WELL,
            text=f"No event is decided, although {waiting}.",
            since_s=stream.stuck_since_s,
            runbook="PurchaseStreamStalled",
        )
    elif stream.growing_since_s is not None:
        yield Cause(
            code=CauseCode.FALLING_BEHIND,
            level=Level.NOT_WELL,
            text=f"Events arrive faster than they are decided; {waiting}, and more every minute.",
            since_s=stream.growing_since_s,
            runbook="PurchaseStreamFallingBehind",
        )
    elif stream.drain_s is not None and stream.drain_s > LONG_DRAIN_S:
        yield Cause(
            code=CauseCode.CATCHING_UP,
            level=Level.ATTENTION,
            text=f"The scorers catch up; {waiting}, for about {stream.drain_s / 60:,.0f} more minutes.",
            since_s=None,
            runbook="PurchaseStreamFallingBehind",
        )


def _events_wait(lag_events: int) -> str:
    return {0: "no event waits", 1: "1 event waits"}.get(lag_events, f"{lag_events:,} events wait")


def _conditions(snapshot: MonitorSnapshot) -> Iterator[Cause]:
    for condition, active in snapshot.conditions.items():
        yield Cause(
            code=CauseCode.NOT_READY,
            level=Level.NOT_WELL,
            text=f"{_CONDITIONS[condition]}: {active.reason}.",
            since_s=active.since_s,
            runbook="PurchaseStreamAuditLogBehind"
            if condition == Condition.AUDIT_LOG
            else "PurchaseStreamNotReady",
        )


def _rejections(snapshot: MonitorSnapshot) -> Iterator[Cause]:
    """Compare the share of rejected events in the last seconds with the share before."""
    stream, recent = snapshot.stream, snapshot.recent
    if stream.rejections_problem:
        yield Cause(
            code=CauseCode.REJECTIONS_UNKNOWN,
            level=Level.ATTENTION,
            text=f"It is unknown how many events are rejected: {stream.rejections_problem}.",
            since_s=None,
            runbook="PurchaseStreamDeadLetters",
        )
    if snapshot.conditions or snapshot.log_backlog_since_s is not None:
        return  # the monitor does not see the predictions that belong to these rejections
    predicted, rejected = sum(recent.per_second), stream.recent_rejections
    predicted_before = recent.total - predicted
    rejected_before = sum(stream.rejections.values()) - rejected
    if rejected < MIN_FLOOD_EVENTS:
        return
    share = rejected / (rejected + predicted)
    decided_before = predicted_before + rejected_before
    usual = rejected_before / decided_before if decided_before else 0.0
    if share >= min(MAX_USUAL_RATIO, max(MIN_FLOOD_RATIO, FLOOD_FACTOR * usual)):
        yield Cause(
            code=CauseCode.REJECTION_FLOOD,
            level=Level.NOT_WELL,
            text=f"{share:.0%} of the events of the last {len(recent.per_second)} seconds were rejected;"
            f" before, {usual:.1%} were.",
            since_s=None,
            runbook="PurchaseStreamDeadLetters",
        )


def _audit_log(snapshot: MonitorSnapshot) -> Iterator[Cause]:
    since_s = snapshot.log_backlog_since_s
    if since_s is not None and snapshot.at_s - since_s >= LOG_BEHIND_AFTER_S:
        yield Cause(
            code=CauseCode.AUDIT_LOG_BEHIND,
            level=Level.ATTENTION,
            text="The audit log is behind the predictions.",
            since_s=since_s,
            runbook="PurchaseStreamAuditLogBehind",
        )


def _model(snapshot: MonitorSnapshot) -> Iterator[Cause]:
    model = snapshot.model
    if model.drift.baseline is None:
        yield Cause(
            code=CauseCode.NO_MODEL,
            level=Level.ATTENTION,
            text=f"No training baseline to compare with: {model.drift.problem}; train and promote a model.",
            since_s=None,
            runbook="PurchaseStreamDriftBlind",
        )
    elif model.recommendation.should_retrain:
        text, runbook = _RETRAIN[model.recommendation.reason]
        yield Cause(code=CauseCode.RETRAIN, level=Level.ATTENTION, text=text, since_s=None, runbook=runbook)


class HealthTracker:
    """Judges the stream every few seconds, remembers since when, and logs every change of level once.

    Args:
        snapshot: Returns what the monitor knows.
        now_s: Wall clock, seconds since the epoch.
    """

    def __init__(
        self, snapshot: Callable[[], MonitorSnapshot], now_s: Callable[[], float] = time.time
    ) -> None:
        self._snapshot = snapshot
        self._now_s = now_s
        self._lock = threading.Lock()
        self._level = Level.WELL
        self._level_since_s = now_s()
        self._first_seen_s: dict[tuple[CauseCode, str], float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="health", daemon=True)

    def start(self) -> None:
        """Start to judge in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop judging."""
        self._stopping.set()
        self._thread.join()

    def current(self) -> Health:
        """Judge the present snapshot. Thread-safe."""
        health, now_s = assess(self._snapshot()), self._now_s()
        with self._lock:
            keys = [(cause.code, cause.runbook) for cause in health.causes]
            self._first_seen_s = {key: self._first_seen_s.get(key, now_s) for key in keys}
            causes = tuple(
                cause if cause.since_s is not None else replace(cause, since_s=self._first_seen_s[key])
                for cause, key in zip(health.causes, keys, strict=True)
            )
            if health.level != self._level:
                report = log.warning if health.level == Level.NOT_WELL else log.info
                report(
                    "the stream's health changed",
                    health=health.level.value,
                    before=self._level.value,
                    lasted_s=round(now_s - self._level_since_s, 1),
                    causes=[cause.text for cause in causes],
                )
                self._level, self._level_since_s = health.level, now_s
            since_s = health.since_s if health.since_s is not None else self._level_since_s
            return replace(health, since_s=since_s, causes=causes)

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_EVERY_S):
            self.current()
