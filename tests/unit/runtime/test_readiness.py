"""Readiness: the active conditions and their start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from structlog.testing import capture_logs

from consumer.errors import Condition
from consumer.runtime.readiness import ActiveCondition, Readiness
from tests.support.clock import Clock


def test_no_condition_is_active_at_first() -> None:
    """A role without conditions is ready."""
    assert Readiness(Clock()).active() == {}


def test_an_active_condition_keeps_its_start() -> None:
    """A new reason does not change the start."""
    clock = Clock()
    conditions = Readiness(clock)
    conditions.set(Condition.BROKER, "first")
    clock.now_s = 160.0
    conditions.set(Condition.BROKER, "second")
    assert conditions.active() == {Condition.BROKER: ActiveCondition("second", 100.0)}


def test_a_condition_that_returns_has_a_new_start() -> None:
    """Clearing a condition ends it."""
    clock = Clock()
    conditions = Readiness(clock)
    conditions.set(Condition.MODEL, "gone")
    conditions.clear(Condition.MODEL)
    clock.now_s = 160.0
    conditions.set(Condition.MODEL, "gone")
    assert conditions.active() == {Condition.MODEL: ActiveCondition("gone", 160.0)}


def test_conditions_are_independent() -> None:
    """Clearing one leaves the others, and clearing an inactive one is not an error."""
    conditions = Readiness(Clock())
    conditions.set(Condition.BROKER, "b")
    conditions.set(Condition.MODEL, "m")
    conditions.clear(Condition.BROKER)
    conditions.clear(Condition.PARTITION)
    assert list(conditions.active()) == [Condition.MODEL]


def test_the_active_conditions_are_a_copy() -> None:
    """A caller cannot clear a condition by accident."""
    conditions = Readiness(Clock())
    conditions.set(Condition.BROKER, "b")
    conditions.active().clear()
    assert list(conditions.active()) == [Condition.BROKER]


def test_threads_may_set_clear_and_read_at_once() -> None:
    """The main loop, the model thread and the HTTP thread share one object."""
    conditions = Readiness(Clock())

    def churn(name: Condition) -> None:
        for n in range(300):
            conditions.set(name, str(n))
            conditions.active()
            conditions.clear(name)

    with ThreadPoolExecutor(len(Condition)) as pool:
        list(pool.map(churn, Condition))
    assert conditions.active() == {}


def test_each_change_of_readiness_is_one_log_line() -> None:
    """A start with its reason, an end with its duration, and nothing while a condition goes on."""
    clock = Clock()
    readiness = Readiness(clock)
    with capture_logs() as lines:
        readiness.set(Condition.BROKER, "no broker answers")
        readiness.set(Condition.BROKER, "still no broker answers")
        readiness.set(Condition.MODEL, "no champion")
        readiness.clear(Condition.MODEL)
        clock.now_s += 61.5
        readiness.clear(Condition.BROKER)
        readiness.clear(Condition.BROKER)
    assert lines == [
        {"event": "not ready", "log_level": "warning", "condition": "broker", "reason": "no broker answers"},
        {"event": "not ready", "log_level": "warning", "condition": "model", "reason": "no champion"},
        {
            "event": "condition ended",
            "log_level": "info",
            "condition": "model",
            "reason": "no champion",
            "lasted_s": 0.0,
        },
        {
            "event": "ready",
            "log_level": "info",
            "condition": "broker",
            "reason": "still no broker answers",
            "lasted_s": 61.5,
        },
    ]
