"""The verdict on the stream: what is well, what is not, and since when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Condition
from consumer.kafka.admin import GroupLag
from consumer.monitor.health import CauseCode, HealthTracker, Level, assess
from consumer.monitor.metrics import HealthTelemetry
from consumer.monitor.stream_status import Progress, StreamSnapshot
from consumer.ops.doctor.check import CheckStatus
from consumer.ops.doctor.local import examine_port
from consumer.roles.monitor import status_routes
from consumer.runtime.http import HttpServer
from consumer.runtime.readiness import ActiveCondition, Readiness
from tests.support.clock import Clock
from tests.support.health_states import (
    NOW_S,
    STATES,
    WELL,
    State,
    with_model,
    with_rejections,
    with_stream,
)

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks"


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_each_state_has_its_verdict(state: State) -> None:
    """Each state gets its level, and its cause comes with a sentence and an existing runbook."""
    health = assess(state.snapshot)
    assert health.level == state.level
    assert [cause.code for cause in health.causes] == ([state.code] if state.code else [])
    for cause in health.causes:
        assert cause.text.endswith(".")
        assert (RUNBOOKS / f"{cause.runbook}.md").is_file()


def test_every_condition_has_a_rule() -> None:
    """A monitor that is not ready is not well, whatever the condition."""
    for condition in Condition:
        snapshot = replace(WELL, conditions={condition: ActiveCondition("some reason", NOW_S)})
        (cause,) = assess(snapshot).causes
        assert (cause.code, cause.level) == (CauseCode.NOT_READY, Level.NOT_WELL)
        assert cause.text.endswith(": some reason.")


def test_a_quiet_night_says_since_when() -> None:
    """Without events all is well, and the headline says since when none came in."""
    health = assess(with_stream(idle_since_s=NOW_S - 3600))
    assert health.headline == "All is well: no events come in"
    assert health.since_s == NOW_S - 3600


@given(st.sets(st.sampled_from([state for state in STATES if state.code]), min_size=1))
def test_the_level_is_that_of_the_worst_cause(chosen: set[State]) -> None:
    """However many causes meet, the level is the worst of theirs and the worst comes first."""
    snapshots = [state.snapshot for state in STATES if state in chosen]
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
