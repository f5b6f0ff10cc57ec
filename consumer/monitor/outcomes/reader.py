"""Read the outcomes topic, if it exists, and join its outcomes to predictions.

Outcomes are optional: a problem with them never stops the audit log. If the topic disappears or
loses records, the feed stops and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.errors import FatalError, StartupError, Unavailable
from consumer.kafka.reader import PolledRecords, TopicFollower
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.drift.window import student_hashes
from consumer.monitor.outcomes.join import OutcomeJoin, OutcomesSnapshot, SavedOutcomes
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from typing import Protocol

    class Tail(Protocol):
        """A topic whose records are followed."""

        @property
        def next_offsets(self) -> dict[int, int]:
            """The next offset to read, by partition."""

        def poll(self, max_records: int, max_wait_s: float) -> PolledRecords | None:
            """Return the next records, if any."""

        def close(self) -> None:
            """Disconnect."""


log = structlog.get_logger(__name__)

_MAX_RECORDS: Final = 10_000
_POLL_EVERY_S: Final = 0.5
"""Interval between polls without records: each batch searches all pending predictions once."""


class OutcomesFeed:
    """Feeds the outcomes topic into the join.

    Args:
        tail: Reader of the outcomes topic.
        decoder: Decodes outcomes.
        join: Joins the outcomes to predictions.
        hasher: Hashes student ids as those of the predictions are hashed.
        clock_s: Monotonic clock, seconds.

    Attributes:
        join: Joins the outcomes to predictions.
        state: ``on``, or the reason why outcomes are no longer read.
    """

    def __init__(
        self,
        tail: Tail,
        decoder: Decoder,
        join: OutcomeJoin,
        hasher: IdHasher | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.join = join
        self.state = "on"
        self._tail = tail
        self._decoder = decoder
        self._hasher = hasher
        self._clock_s = clock_s
        self._poll_at_s = clock_s()
        self._unavailable = False
        self._next_offsets = dict(tail.next_offsets)

    def read(self) -> bool:
        """Join the outcomes that have arrived, without waiting; return whether there were any."""
        if self.state != "on" or self._clock_s() < self._poll_at_s:
            return False
        try:
            batch = self._tail.poll(_MAX_RECORDS, 0.0)
            if batch is None:
                self._poll_at_s = self._clock_s() + _POLL_EVERY_S
                return False
            outcomes, rejections = self._decoder.decode(batch.values)
        except Unavailable as outage:
            if not self._unavailable:
                log.warning("cannot read outcomes now; retrying", reason=str(outage))
            self._unavailable = True
            self._poll_at_s = self._clock_s() + _POLL_EVERY_S
            return False
        except (StartupError, FatalError) as error:
            log.warning("outcomes are no longer read", reason=str(error))
            self.state = str(error)
            return False
        if self._unavailable:
            log.info("outcomes are read again")
            self._unavailable = False
        self.join.count_undecodable(len(rejections))
        if len(outcomes):
            self._join_outcomes(outcomes)
        self._next_offsets = dict(batch.next_offsets)
        return True

    def snapshot(self) -> OutcomesSnapshot:
        """Return the present state."""
        return self.join.snapshot(self.state)

    def saved(self) -> tuple[SavedOutcomes, dict[str, NDArray[Any]]]:
        """Return the state and its arrays."""
        return self.join.saved(dict(self._next_offsets))

    def close(self) -> None:
        """Disconnect."""
        self._tail.close()

    def _join_outcomes(self, outcomes: RecordBatch) -> None:
        self.join.join(
            student_hashes(outcomes, self._hasher),
            outcomes.numbers["purchased"].astype(np.int8),
            outcomes.numbers["observed_at"],
        )


def follow_outcomes(
    client_config: Mapping[str, object],
    topic: str,
    start_offsets: Mapping[int, int],
    decoder: Decoder,
    join: OutcomeJoin,
    hasher: IdHasher | None = None,
) -> OutcomesFeed | None:
    """Return the feed of a topic, or ``None`` if the topic does not exist or cannot be read.

    An outage of the outcomes topic alone does not make the monitor unready, so it has its own readiness.
    """
    try:
        tail = TopicFollower(client_config, topic, start_offsets, Readiness(time.time))
    except (StartupError, Unavailable) as error:
        log.info("outcomes are not read", reason=str(error))
        return None
    return OutcomesFeed(tail, decoder, join, hasher)
