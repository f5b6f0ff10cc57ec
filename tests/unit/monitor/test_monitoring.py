"""What follows from the committed predictions, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.monitor.drift.baselines import Baselines
from consumer.monitor.drift.tracker import Drift
from consumer.monitor.loop import MAX_RECORDS
from consumer.monitor.monitoring import BEHIND_EVERY_S, Monitoring
from consumer.monitor.retraining import Announced
from consumer.settings import DriftSettings
from model_store.countries import country_code
from tests.support.clock import Clock


class Silent:
    """An announcer and metrics that nobody listens to."""

    announced = Announced()

    def consider(self, *_: Any) -> None:
        """Announce nothing."""

    def show(self, *_: Any) -> None:
        """Show nothing."""

    def cooldown_until_s(self, _: Any) -> None:
        """Return that there is no cool-down."""


@pytest.fixture
def clock() -> Clock:
    """Make a clock."""
    return Clock()


@pytest.fixture
def monitoring(trained: Any, tmp_path: Path, clock: Clock) -> Monitoring:
    """Make one without outcomes."""
    silent: Any = Silent()
    return Monitoring(
        drift=Drift(Baselines(trained.store), country_code, DriftSettings()),
        announcer=silent,
        telemetry=silent,
        settings=DriftSettings(),
        state_path=tmp_path / "state",
        source={},
        look_s=1.0,
        clock_s=clock,
    )


def test_behind_a_backlog_findings_are_made_now_and_then(
    monitoring: Monitoring, clock: Clock, predict: Any
) -> None:
    """And always as soon as the backlog is gone."""

    def found_after(n_records: int) -> int:
        monitoring.take(predict(range(10)))
        monitoring.after_round(n_records)
        return monitoring.findings().drift.predictions

    assert found_after(MAX_RECORDS) == 10
    assert found_after(MAX_RECORDS) == 10
    clock.now_s += BEHIND_EVERY_S
    assert found_after(MAX_RECORDS) == 30
    assert found_after(MAX_RECORDS) == 30
    assert found_after(MAX_RECORDS - 1) == 50
