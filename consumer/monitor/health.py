"""Judge the health of the whole stream: is it well? If not, why, since when, and what can be done?

:func:`assess` is the only place that decides this. The dashboard's headline, ``/health/ready``, the
metrics and the alerts all show its result.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import structlog

from consumer.errors import Condition
from consumer.monitor.snapshot import MonitorSnapshot
from consumer.monitor.stream_status import StreamSnapshot

log = structlog.get_logger(__name__)

STALLED_AFTER_S: Final = 30.0
"""How long events may wait without any being decided until the stream counts as stalled: longer than a
rebalance or a restart takes."""

LONG_DRAIN_S: Final = 60.0
"""A backlog that takes longer than this to decide is reported."""

LOG_BEHIND_AFTER_S: Final = 60.0
"""The audit log counts as behind after a backlog of this length."""

MIN_FLOOD_RATIO: Final = 0.1
MAX_USUAL_RATIO: Final = 0.5
FLOOD_FACTOR: Final = 3.0
"""A share of rejected events is a flood if it is above three times the usual share and at least 10 %. A share
above 50 % always is."""

MIN_FLOOD_EVENTS: Final = 20
_POLL_EVERY_S: Final = 2.0


class Level(StrEnum):
    """How well the stream is. Each cause has a level; the stream has the worst level of its causes."""

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
        code: The code.
        level: The severity.
        text: One sentence for people.
        since_s: The start, seconds since the epoch; ``None`` if unknown.
        runbook: The name of the runbook.
    """

    code: CauseCode
    level: Level
    text: str
    since_s: float | None
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health of the stream.

    Attributes:
        level: The worst level of the causes.
        headline: The health in one line.
        since_s: The start of this level, seconds since the epoch; ``None`` if unknown.
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

Finding = tuple[str, float | None]
"""What was found: one sentence for people, and its start in seconds since the epoch; ``None`` if unknown."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one cause is found.

    Attributes:
        code: The cause's code.
        level: The cause's level.
        runbook: The name of its runbook.
        find: Returns what was found in a snapshot; ``None`` if the cause is absent.
    """

    code: CauseCode
    level: Level
    runbook: str
    find: Callable[[MonitorSnapshot], Finding | None]


def assess(snapshot: MonitorSnapshot) -> Health:
    """Judge one snapshot. Pure: the same snapshot always gives the same result."""
    causes = [cause for group in RULES if (cause := _first_cause(group, snapshot)) is not None]
    causes.sort(key=lambda cause: -_LEVELS.index(cause.level))
    level = causes[0].level if causes else Level.WELL
    headline, idle_since_s = _HEADLINES[level], snapshot.stream.idle_since_s
    if level == Level.WELL and idle_since_s is not None:
        return Health(level=level, headline=f"{headline}: no events come in", since_s=idle_since_s)
    return Health(level=level, headline=headline, causes=tuple(causes))


def _first_cause(group: Sequence[Rule], snapshot: MonitorSnapshot) -> Cause | None:
    for rule in group:
        found = rule.find(snapshot)
        if found is not None:
            text, since_s = found
            return Cause(code=rule.code, level=rule.level, text=text, since_s=since_s, runbook=rule.runbook)
    return None


def _condition(condition: Condition, meaning: str, runbook: str = "PurchaseStreamNotReady") -> Rule:
    """Return the rule for a condition that keeps the monitor from being ready."""

    def find(snapshot: MonitorSnapshot) -> Finding | None:
        active = snapshot.conditions.get(condition)
        return None if active is None else (f"{meaning}: {active.reason}.", active.since_s)

    return Rule(CauseCode.NOT_READY, Level.NOT_WELL, runbook, find)


def _progress_unknown(snapshot: MonitorSnapshot) -> Finding | None:
    if snapshot.stream.lag_events is not None:
        return None
    return f"It is unknown whether events are decided: {snapshot.stream.progress_problem}.", None


def _no_scorer(snapshot: MonitorSnapshot) -> Finding | None:
    stream = snapshot.stream
    if stream.members != 0:
        return None
    return f"No scorer is in the consumer group; {_waiting(stream)}.", stream.no_members_since_s


def _stalled(snapshot: MonitorSnapshot) -> Finding | None:
    since_s = snapshot.stream.stuck_since_s
    if since_s is None or snapshot.at_s - since_s < STALLED_AFTER_S:
        return None
    return f"No event is decided, although {_waiting(snapshot.stream)}.", since_s


def _falling_behind(snapshot: MonitorSnapshot) -> Finding | None:
    stream = snapshot.stream
    if stream.growing_since_s is None:
        return None
    text = f"Events arrive faster than they are decided; {_waiting(stream)}, and more every minute."
    return text, stream.growing_since_s


def _catching_up(snapshot: MonitorSnapshot) -> Finding | None:
    stream = snapshot.stream
    if stream.drain_s is None or stream.drain_s <= LONG_DRAIN_S:
        return None
    text = f"The scorers catch up; {_waiting(stream)}, for about {stream.drain_s / 60:,.0f} more minutes."
    return text, None


def _waiting(stream: StreamSnapshot) -> str:
    n = stream.lag_events or 0
    return {0: "no event waits", 1: "1 event waits"}.get(n, f"{n:,} events wait")


def _rejections_unknown(snapshot: MonitorSnapshot) -> Finding | None:
    problem = snapshot.stream.rejections_problem
    return (f"It is unknown how many events are rejected: {problem}.", None) if problem else None


def _rejection_flood(snapshot: MonitorSnapshot) -> Finding | None:
    """Compare the share of rejected events in the last seconds with the share before."""
    stream, recent = snapshot.stream, snapshot.recent
    if snapshot.conditions or snapshot.log_backlog_since_s is not None:
        return None  # the monitor does not read the predictions that belong to these rejections
    predicted, rejected = sum(recent.per_second), stream.recent_rejections
    predicted_before = recent.total - predicted
    rejected_before = sum(stream.rejections.values()) - rejected
    if rejected < MIN_FLOOD_EVENTS:
        return None
    share = rejected / (rejected + predicted)
    decided_before = predicted_before + rejected_before
    usual = rejected_before / decided_before if decided_before else 0.0
    if share < min(MAX_USUAL_RATIO, max(MIN_FLOOD_RATIO, FLOOD_FACTOR * usual)):
        return None
    text = f"{share:.0%} of the events of the last {len(recent.per_second)} seconds were rejected;"
    return f"{text} before, {usual:.1%} were.", None


def _audit_log_behind(snapshot: MonitorSnapshot) -> Finding | None:
    since_s = snapshot.log_backlog_since_s
    if since_s is None or snapshot.at_s - since_s < LOG_BEHIND_AFTER_S:
        return None
    return "The audit log is behind the predictions.", since_s


def _no_model(snapshot: MonitorSnapshot) -> Finding | None:
    drift = snapshot.model.drift
    if drift.baseline is not None:
        return None
    return f"No training baseline to compare with: {drift.problem}; train and promote a model.", None


def _retrain(reason: str, text: str, runbook: str) -> Rule:
    """Return the rule for a reason to train again."""

    def find(snapshot: MonitorSnapshot) -> Finding | None:
        return (f"{text}: train again.", None) if snapshot.model.recommendation.reason == reason else None

    return Rule(CauseCode.RETRAIN, Level.ATTENTION, runbook, find)


RULES: Final[Sequence[Sequence[Rule]]] = (
    (_condition(Condition.STARTING, "The monitor is starting"),),
    (_condition(Condition.BROKER, "Kafka does not answer"),),
    (_condition(Condition.PARTITION, "A partition cannot be read"),),
    (_condition(Condition.SCHEMA_REGISTRY, "The schema registry does not answer"),),
    (_condition(Condition.MODEL, "No usable model"),),
    (_condition(Condition.BREAKER, "Events are held back"),),
    (_condition(Condition.AUDIT_LOG, "The audit log cannot be written", "PurchaseStreamAuditLogBehind"),),
    (
        Rule(CauseCode.PROGRESS_UNKNOWN, Level.ATTENTION, "PurchaseStreamNotReady", _progress_unknown),
        Rule(CauseCode.NO_SCORER, Level.NOT_WELL, "PurchaseStreamScorerAbsent", _no_scorer),
        Rule(CauseCode.STALLED, Level.NOT_WELL, "PurchaseStreamStalled", _stalled),
        Rule(CauseCode.FALLING_BEHIND, Level.NOT_WELL, "PurchaseStreamFallingBehind", _falling_behind),
        Rule(CauseCode.CATCHING_UP, Level.ATTENTION, "PurchaseStreamFallingBehind", _catching_up),
    ),
    (Rule(CauseCode.REJECTIONS_UNKNOWN, Level.ATTENTION, "PurchaseStreamDeadLetters", _rejections_unknown),),
    (Rule(CauseCode.REJECTION_FLOOD, Level.NOT_WELL, "PurchaseStreamDeadLetters", _rejection_flood),),
    (Rule(CauseCode.AUDIT_LOG_BEHIND, Level.ATTENTION, "PurchaseStreamAuditLogBehind", _audit_log_behind),),
    (
        Rule(CauseCode.NO_MODEL, Level.ATTENTION, "PurchaseStreamDriftBlind", _no_model),
        _retrain(
            "feature_distribution_drift",
            "Students differ from those in training",
            "PurchaseStreamFeatureDrift",
        ),
        _retrain(
            "prediction_rate_shift",
            "Predictions differ from those in training",
            "PurchaseStreamPredictionRateShift",
        ),
        _retrain(
            "performance_decay",
            "Predictions come true less often than they should",
            "PurchaseStreamPerformanceDecay",
        ),
    ),
)
"""All causes. Of each group only the first cause that is found is given, because it explains the others."""


class HealthTracker:
    """Judges the stream every few seconds, and logs each change of its causes once.

    Args:
        snapshot: Returns the latest snapshot.
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
        self._codes: frozenset[CauseCode] = frozenset()
        self._first_seen_s: dict[tuple[CauseCode, str], float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="health", daemon=True)

    def start(self) -> None:
        """Start judging in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop judging."""
        self._stopping.set()
        self._thread.join()

    def current(self) -> Health:
        """Judge the latest snapshot. Thread-safe."""
        health, now_s = assess(self._snapshot()), self._now_s()
        with self._lock:
            keys = [(cause.code, cause.runbook) for cause in health.causes]
            self._first_seen_s = {key: self._first_seen_s.get(key, now_s) for key in keys}
            causes = tuple(
                cause if cause.since_s is not None else replace(cause, since_s=self._first_seen_s[key])
                for cause, key in zip(health.causes, keys, strict=True)
            )
            codes = frozenset(cause.code for cause in causes)
            if codes != self._codes:
                log.log(
                    logging.WARNING if health.level == Level.NOT_WELL else logging.INFO,
                    "the stream's health changed",
                    health=health.level.value,
                    before=self._level.value,
                    lasted_s=round(now_s - self._level_since_s, 1),
                    causes=[cause.text for cause in causes],
                )
            self._codes = codes
            if health.level != self._level:
                self._level, self._level_since_s = health.level, now_s
            since_s = health.since_s if health.since_s is not None else self._level_since_s
            return replace(health, since_s=since_s, causes=causes)

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_EVERY_S):
            self.current()
