"""The verdict on the stream: what is well, what is not, and since when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Condition
from consumer.kafka.admin import GroupLag
from consumer.monitor.drift.tracker import DriftSnapshot
from consumer.monitor.health import (
    STALLED_AFTER_S,
    CauseCode,
    HealthTracker,
    Level,
    assess,
)
from consumer.monitor.metrics import HealthTelemetry
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.recent import HISTORY_S, RecentSnapshot
from consumer.monitor.retraining import Recommendation
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.stream_status import Progress, StreamSnapshot
from consumer.ops.doctor.check import CheckStatus
from consumer.ops.doctor.local import examine_port
from consumer.roles.monitor import status_routes
from consumer.runtime.http import HttpServer
from consumer.runtime.readiness import ActiveCondition, Readiness
from tests.support.clock import Clock

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


CASES = [
    ("events flow", WELL, None, Level.WELL),
    (
        "a quiet night",
        replace(
            with_stream(idle_since_s=NOW_S - 3600), recent=replace(WELL.recent, per_second=[0] * HISTORY_S)
        ),
        None,
        Level.WELL,
    ),
    ("a short wait", with_stream(lag_events=300, stuck_since_s=NOW_S - 5), None, Level.WELL),
    (
        "the only scorer was killed a moment ago",
        with_stream(lag_events=300, stuck_since_s=NOW_S - STALLED_AFTER_S),
        CauseCode.STALLED,
        Level.NOT_WELL,
    ),
    (
        "the group has noticed that its scorer is gone",
        with_stream(lag_events=300, members=0, no_members_since_s=NOW_S - 3),
        CauseCode.NO_SCORER,
        Level.NOT_WELL,
    ),
    (
        "no scorer, although nothing waits",
        with_stream(members=0, no_members_since_s=NOW_S - 3),
        CauseCode.NO_SCORER,
        Level.NOT_WELL,
    ),
    (
        "the lag grows",
        with_stream(lag_events=50_000, growing_since_s=NOW_S - 90),
        CauseCode.FALLING_BEHIND,
        Level.NOT_WELL,
    ),
    (
        "a backlog is drained",
        with_stream(lag_events=50_000, stuck_since_s=NOW_S, drain_s=300.0),
        CauseCode.CATCHING_UP,
        Level.ATTENTION,
    ),
    ("a backlog is nearly drained", with_stream(lag_events=500, drain_s=5.0), None, Level.WELL),
    (
        "nobody knows the lag",
        with_stream(lag_events=None, members=None, progress_problem="Kafka did not answer in time"),
        CauseCode.PROGRESS_UNKNOWN,
        Level.ATTENTION,
    ),
    ("a flood of rejections", with_rejections(1200), CauseCode.REJECTION_FLOOD, Level.NOT_WELL),
    ("everything is rejected", with_rejections(500, 9_000, 0), CauseCode.REJECTION_FLOOD, Level.NOT_WELL),
    ("the usual rejections", with_rejections(240, 3000), None, Level.WELL),
    ("a few rejections at night", with_rejections(3, 0, 0), None, Level.WELL),
    (
        "the dead letters cannot be read",
        with_stream(rejections_problem="no such topic"),
        CauseCode.REJECTIONS_UNKNOWN,
        Level.ATTENTION,
    ),
    (
        "the disk is full",
        replace(WELL, conditions={Condition.AUDIT_LOG: ActiveCondition("no space", NOW_S - 60)}),
        CauseCode.NOT_READY,
        Level.NOT_WELL,
    ),
    (
        "Kafka is away",
        replace(WELL, conditions={Condition.BROKER: ActiveCondition("no answer", NOW_S - 60)}),
        CauseCode.NOT_READY,
        Level.NOT_WELL,
    ),
    (
        "the audit log is behind",
        replace(WELL, log_backlog_since_s=NOW_S - 120),
        CauseCode.AUDIT_LOG_BEHIND,
        Level.ATTENTION,
    ),
    ("the audit log had a moment of backlog", replace(WELL, log_backlog_since_s=NOW_S - 2), None, Level.WELL),
    ("no model", with_model("baseline_not_loaded", baseline=None), CauseCode.NO_MODEL, Level.ATTENTION),
    ("drift", with_model("feature_distribution_drift"), CauseCode.RETRAIN, Level.ATTENTION),
    ("predictions shifted", with_model("prediction_rate_shift"), CauseCode.RETRAIN, Level.ATTENTION),
    ("decay", with_model("performance_decay"), CauseCode.RETRAIN, Level.ATTENTION),
]


@pytest.mark.parametrize(
    ("snapshot", "code", "level"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_each_state_has_its_verdict(snapshot: MonitorSnapshot, code: CauseCode | None, level: Level) -> None:
    """Each state gets its level, and its cause comes with a sentence and an existing runbook."""
    health = assess(snapshot)
    assert health.level == level
    assert [cause.code for cause in health.causes] == ([code] if code else [])
    for cause in health.causes:
        assert cause.text.endswith(".")
        assert cause.runbook.startswith("PurchaseStream")


def test_a_quiet_night_says_since_when() -> None:
    """Without events all is well, and the headline says since when none came in."""
    health = assess(with_stream(idle_since_s=NOW_S - 3600))
    assert health.headline == "All is well: no events come in"
    assert health.since_s == NOW_S - 3600


@given(st.sets(st.sampled_from([case[1] for case in CASES if case[2] is not None]).map(id), min_size=1))
def test_the_level_is_that_of_the_worst_cause(chosen: set[int]) -> None:
    """However many causes meet, the level is the worst of theirs and the worst comes first."""
    snapshots = [case[1] for case in CASES if id(case[1]) in chosen]
    merged = WELL
    for snapshot in snapshots:
        merged = replace(merged, conditions={**merged.conditions, **snapshot.conditions})
        if snapshot.stream is not WELL.stream:
            merged = replace(merged, stream=snapshot.stream, recent=snapshot.recent)
        if snapshot.model is not WELL.model:
            merged = replace(merged, model=snapshot.model)
        if snapshot.log_backlog_since_s is not None:
            merged = replace(merged, log_backlog_since_s=snapshot.log_backlog_since_s)
    health = assess(merged)
    levels = list(Level)
    found = [levels.index(cause.level) for cause in health.causes]
    assert found == sorted(found, reverse=True)
    assert levels.index(health.level) == found[0]


def test_causes_without_a_start_get_the_time_they_were_first_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """The tracker remembers when a cause was first seen, and logs each change of level once."""
    clock = Clock()
    clock.now_s = 0
    snapshots = [WELL]
    tracker = HealthTracker(lambda: snapshots[-1], clock)
    assert tracker.current().since_s == 0
    clock.now_s = 10
    snapshots.append(with_rejections(1200))
    assert tracker.current().causes[0].since_s == 10
    clock.now_s = 25
    again = tracker.current()
    assert (again.since_s, again.causes[0].since_s) == (10, 10)
    snapshots.append(WELL)
    assert (tracker.current().level, tracker.current().since_s) == (Level.WELL, 25)
    logged = capsys.readouterr().out
    assert logged.count("health changed") == 2
    assert "lasted_s=15" in logged


def test_the_metrics_say_the_same() -> None:
    """The level and the cause are exported, with the lag of each partition once."""
    snapshot = with_stream(lag_events=300, members=0, lag_by_partition={0: 100, 1: 200})
    families = HealthTelemetry(lambda: assess(snapshot), lambda: snapshot.stream, "events").collect()
    samples = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    assert samples["purchase_stream_health_level",] == 2
    assert samples["purchase_stream_health_cause", "no_scorer"] == 1
    assert sum(value for (name, *_), value in samples.items() if name == "purchase_stream_health_cause") == 1
    assert samples["purchase_stream_consumer_lag_events", "events", "1"] == 200


def sampled(*samples: tuple[float, int, int], members: int = 1) -> StreamSnapshot:
    """Return the progress after samples: time, committed offset, end of the only partition."""
    progress = Progress(samples[0][0])
    for at_s, committed, end in samples:
        snapshot = progress.update(at_s, GroupLag({0: committed}, {0: end}), members)
    return snapshot


def test_progress_tells_a_stuck_stream_from_a_draining_one() -> None:
    """Events that wait while nothing is committed are stuck since the last commit."""
    stuck = sampled((0, 5, 5), (2, 5, 305), (40, 5, 305))
    assert (stuck.lag_events, stuck.stuck_since_s, stuck.growing_since_s) == (300, 2, None)
    draining = sampled((0, 0, 1000), (2, 100, 1000), (4, 200, 1000))
    assert (draining.stuck_since_s, draining.drain_s) == (4, 16.0)


def test_progress_tells_a_quiet_stream_from_one_without_scorers() -> None:
    """Without new events the stream is idle since the last one; without members it has no scorer."""
    quiet = sampled((0, 5, 5), (2, 9, 9), (100, 9, 9))
    assert (quiet.lag_events, quiet.idle_since_s, quiet.stuck_since_s) == (0, 2, None)
    alone = sampled((0, 5, 5), (2, 5, 5), members=0)
    assert (alone.members, alone.no_members_since_s) == (0, 0)


@pytest.mark.parametrize(("arriving", "grows"), [(1050, True), (51, False)])
def test_the_lag_grows_if_it_cannot_be_decided_soon(arriving: int, *, grows: bool) -> None:
    """A lag that grew for a minute counts as growing, unless it can be decided within a minute."""
    snapshot = sampled(*[(2.0 * i, 50 * i, arriving * i) for i in range(31)])
    assert (snapshot.growing_since_s is not None) == grows


def test_the_endpoints_and_the_doctor_say_the_same() -> None:
    """A ready monitor answers 200 with the verdict on the stream, and the doctor repeats its causes."""
    snapshot = with_stream(lag_events=300, members=0)
    routes = status_routes(
        Readiness(lambda: NOW_S), lambda: assess(snapshot), lambda: with_model("below_threshold").model
    )
    server = HttpServer(routes, "127.0.0.1", 0)
    server.start()
    try:
        ready = httpx.get(f"http://127.0.0.1:{server.port}/health/ready")
        summary = httpx.get(f"http://127.0.0.1:{server.port}/health")
        check = examine_port("monitor", "127.0.0.1", server.port)
    finally:
        server.stop()
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["stream"]["causes"][0]["cause"] == "no_scorer"
    assert summary.json() == {"ready": True, "predictor_loaded": False, "drift_baseline_loaded": True}
    assert check.status is CheckStatus.WARN
    assert "Not well: No scorer is in the consumer group; 300 events wait." in check.what
