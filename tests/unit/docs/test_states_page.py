"""docs/states.md says what the service says in each state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer.monitor.health import assess
from consumer.roles.monitor import ready_answer
from tests.support.health_states import STATES, State

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "states.md"
ALERTS = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()


def row(state: State) -> list[str]:
    """Return the row of a state: headline, cause, `/health/ready`, `ready` of `/health`, alert, log."""
    health = assess(state.snapshot)
    _, status = ready_answer(state.snapshot.conditions, health)
    conditions = state.snapshot.conditions
    log = "`not ready`, and " if conditions else ""
    alert = f"[{state.alert.removeprefix('PurchaseStream')}](runbooks/{state.alert}.md)"
    return [
        state.name,
        health.headline,
        " ".join(cause.text for cause in health.causes) or "none",
        str(status),
        "false" if conditions else "true",
        alert if state.alert else "none",
        f"{log}`the stream's health changed`" if health.causes else "none",
    ]


def test_the_table_has_every_state_as_the_service_says_it() -> None:
    """Every cell is the service's own answer."""
    lines = PAGE.read_text().splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("| state |"))
    table = lines[head + 2 : head + 2 + len(STATES)]
    assert table == [f"| {' | '.join(row(state))} |" for state in STATES]
    assert not lines[head + 2 + len(STATES)].startswith("|")


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_what_is_not_well_has_an_alert(state: State) -> None:
    """Each alert exists, and an alert on the verdict's causes names the cause."""
    health = assess(state.snapshot)
    if health.level == "not_well":
        assert state.alert
    if state.alert in {"PurchaseStreamNotWell", "PurchaseStreamMonitorBlind"}:
        rule = ALERTS.split(f"- alert: {state.alert}\n", 1)[1].split("- alert:")[0]
        causes = re.findall(r'cause=~"([^"]+)"', rule)[0].split("|")
        assert state.code in causes
    elif state.alert:
        assert f"- alert: {state.alert}\n" in ALERTS
