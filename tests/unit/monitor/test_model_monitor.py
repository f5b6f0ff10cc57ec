"""When the model monitor makes a new snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.monitor.challenger import Challengers, Scoring
from consumer.monitor.drift.tracker import Baselines, Drift
from consumer.monitor.model_monitor import BACKLOG_REFRESH_S, ModelMonitor
from consumer.monitor.retraining import Announced
from consumer.settings import ChallengerSettings, DriftSettings
from model_store.countries import country_code
from tests.support.clock import Clock


class Silent:
    """Stands in for the notifier and the metrics."""

    announced = Announced()

    def notify_if_changed(self, *_: Any) -> None:
        """Announce nothing."""

    def show(self, *_: Any) -> None:
        """Show nothing."""

    def cooldown_until_s(self, _: Any) -> None:
        """Return that there is no cool-down."""


class NoModels:
    """Stands in for the models: nothing is compared."""

    def ask(self, _: Any) -> Any:
        """Fail: nobody asks."""
        raise AssertionError

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def clock() -> Clock:
    """Make a clock."""
    return Clock()


@pytest.fixture
def model_monitor(trained: Any, tmp_path: Path, clock: Clock) -> ModelMonitor:
    """Make a model monitor without outcomes."""
    silent: Any = Silent()
    return ModelMonitor(
        drift=Drift(Baselines(trained.store), country_code, DriftSettings()),
        feed=None,
        challengers=Challengers(trained.store, Scoring(NoModels(), 1.0), ChallengerSettings()),
        countries=country_code,
        notifier=silent,
        telemetry=silent,
        settings=DriftSettings(),
        state_path=tmp_path / "state",
        source={},
        champion_poll_s=1.0,
        clock_s=clock,
    )


def test_snapshots_are_rare_during_a_backlog(model_monitor: ModelMonitor, clock: Clock, predict: Any) -> None:
    """During a backlog a snapshot is made now and then, and at once when the backlog is gone."""

    def predictions_in_snapshot(*, backlog: bool) -> int:
        model_monitor.ingest(predict(range(10)))
        model_monitor.refresh(backlog=backlog)
        return model_monitor.snapshot().drift.predictions

    assert predictions_in_snapshot(backlog=True) == 10
    assert predictions_in_snapshot(backlog=True) == 10
    clock.now_s += BACKLOG_REFRESH_S
    assert predictions_in_snapshot(backlog=True) == 30
    assert predictions_in_snapshot(backlog=True) == 30
    assert predictions_in_snapshot(backlog=False) == 50


def test_calls_without_a_student_are_not_students(model_monitor: ModelMonitor, predict: Any) -> None:
    """Drift counts the predictions of the stream and of named students, but not anonymous calls."""
    model_monitor.ingest(predict(range(10)))
    model_monitor.ingest(predict(range(10, 2000), anonymous=True))
    model_monitor.refresh(backlog=False)
    drift = model_monitor.snapshot().drift
    assert (drift.predictions, drift.samples, drift.recent) == (10, 10, ())
