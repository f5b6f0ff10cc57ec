"""The two-deep pipeline: one item in the background, the next one in hand."""

from __future__ import annotations

import threading

import pytest

from consumer.errors import InvariantError
from consumer.runtime.inflight import InFlight


def test_work_runs_beside_its_owner_and_comes_back_with_its_item() -> None:
    """The owner continues while the work runs; wait() returns the item and its result, once."""
    in_flight = InFlight[int, int]("test")
    released = threading.Event()

    def double(n: int) -> int:
        assert released.wait(10)
        return 2 * n

    in_flight.start(3, double)
    assert in_flight.future is not None
    assert not in_flight.future.done()
    released.set()
    finished = in_flight.wait()
    assert finished is not None
    assert (finished.item, finished.result()) == (3, 6)
    assert in_flight.wait() is None
    assert in_flight.future is None
    in_flight.shutdown()


def test_a_failure_is_raised_where_the_item_is_at_hand() -> None:
    """wait() does not raise; result() does, and the same item can be started again."""
    in_flight = InFlight[str, None]("test")

    def fail(_item: str) -> None:
        raise OSError("disk full")

    in_flight.start("batch", fail)
    finished = in_flight.wait()
    assert finished is not None
    with pytest.raises(OSError, match="disk full"):
        finished.result()
    in_flight.start(finished.item, lambda _: None)
    in_flight.shutdown()
    assert in_flight.wait() is not None


def test_there_is_never_a_third_item() -> None:
    """Starting an item while another one is in flight is a bug of the owner."""
    in_flight = InFlight[int, int]("test")
    in_flight.start(1, lambda n: n)
    with pytest.raises(InvariantError):
        in_flight.start(2, lambda n: n)
    in_flight.shutdown()
