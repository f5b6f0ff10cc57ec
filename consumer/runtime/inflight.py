"""A two-deep pipeline: one item is finished in the background while its owner prepares the next.

The scorer commits a batch this way while it polls and processes the next one, and the monitor writes a
batch to the audit log while it reads the next one. Both spend more time waiting than computing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from consumer.errors import InvariantError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Finished(Generic[Item, Result]):
    """An item whose work has ended.

    Attributes:
        item: The item as it was given to :meth:`InFlight.start`.
        future: The future of the work; always done.
    """

    item: Item
    future: Future[Result] = field(repr=False)

    def result(self) -> Result:
        """Return what the work returned, or raise what it raised."""
        return self.future.result()


class InFlight(Generic[Item, Result]):
    """Holds at most one item, whose work runs in a background thread.

    All methods are called from one thread, the owner's::

        in_flight = InFlight("commit")
        while running:
            batch = prepare()                        # runs during the commit of the previous batch
            finished = in_flight.wait()              # the previous commit has ended
            if finished is not None:
                finished.result()                    # raises what the commit raised
            in_flight.start(batch, commit)
        in_flight.wait()
        in_flight.shutdown()

    Args:
        thread_name: The name of the background thread.
    """

    def __init__(self, thread_name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread_name)
        self._current: Finished[Item, Result] | None = None

    @property
    def future(self) -> Future[Result] | None:
        """The future of the item in flight, done or not; ``None`` if there is no item."""
        return None if self._current is None else self._current.future

    def start(self, item: Item, work: Callable[[Item], Result]) -> None:
        """Run ``work(item)`` in the background.

        Raises:
            InvariantError: Another item is still in flight.
        """
        if self._current is not None:
            raise InvariantError("an item was started while another one is in flight")
        self._current = Finished(item, self._executor.submit(work, item))

    def wait(self) -> Finished[Item, Result] | None:
        """Wait for the item in flight and remove it; return ``None`` if there is no item.

        An exception of the work is raised by :meth:`Finished.result`, not here, so that the caller has the
        item when it handles the exception.
        """
        current, self._current = self._current, None
        if current is not None:
            current.future.exception()  # waits
        return current

    def shutdown(self) -> None:
        """Wait for the item in flight, then end the background thread."""
        self._executor.shutdown()
