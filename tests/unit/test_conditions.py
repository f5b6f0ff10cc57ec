"""Conditions: what is wrong, and since when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from consumer.conditions import Condition, Conditions, Name
from tests.clock import Clock


def test_nothing_is_wrong_at_first() -> None:
    """An empty set is readiness."""
    assert Conditions(Clock()).active() == {}


def test_a_condition_that_goes_on_keeps_its_beginning() -> None:
    """Its reason may change; since when it is wrong may not."""
    clock = Clock()
    conditions = Conditions(clock)
    conditions.set(Name.BROKER, "first")
    clock.now_s = 160.0
    conditions.set(Name.BROKER, "second")
    assert conditions.active() == {Name.BROKER: Condition("second", 100.0)}


def test_a_condition_that_comes_back_begins_anew() -> None:
    """Cleared is over."""
    clock = Clock()
    conditions = Conditions(clock)
    conditions.set(Name.MODEL, "gone")
    conditions.clear(Name.MODEL)
    clock.now_s = 160.0
    conditions.set(Name.MODEL, "gone")
    assert conditions.active() == {Name.MODEL: Condition("gone", 160.0)}


def test_conditions_do_not_touch_each_other() -> None:
    """Clearing one leaves the others, and clearing none is no error."""
    conditions = Conditions(Clock())
    conditions.set(Name.BROKER, "b")
    conditions.set(Name.MODEL, "m")
    conditions.clear(Name.BROKER)
    conditions.clear(Name.PARTITION)
    assert list(conditions.active()) == [Name.MODEL]


def test_what_is_handed_out_is_a_copy() -> None:
    """A reader cannot clear a condition by accident."""
    conditions = Conditions(Clock())
    conditions.set(Name.BROKER, "b")
    conditions.active().clear()
    assert list(conditions.active()) == [Name.BROKER]


def test_threads_may_set_clear_and_read_at_once() -> None:
    """The loop, the model's thread and HTTP share one set."""
    conditions = Conditions(Clock())

    def churn(name: Name) -> None:
        for n in range(300):
            conditions.set(name, str(n))
            conditions.active()
            conditions.clear(name)

    with ThreadPoolExecutor(len(Name)) as pool:
        list(pool.map(churn, Name))
    assert conditions.active() == {}
