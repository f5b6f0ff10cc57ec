"""Reads the outcomes topic, if there is one, and joins what it says to the predictions.

Outcomes are optional, so no trouble with them keeps the audit log from growing: where the topic is
gone or was cut, the feed stops and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from consumer.columnar.text import hash_strings
from consumer.errors import FatalError, StartupError, Unavailable
from consumer.kafka.reader import CommittedTail, TailBatch
from consumer.monitor.outcomes.join import OutcomeJoin
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.runtime.readiness import Readiness

if TYPE_CHECKING:
    from typing import Protocol

    class Tail(Protocol):
        """A topic that is followed."""

        @property
        def next_offsets(self) -> dict[int, int]:
            """Where to read on."""

        def poll(self, max_records: int, max_wait_s: float) -> TailBatch | None:
            """Return the next records, if any."""

        def close(self) -> None:
            """Disconnect."""


log = structlog.get_logger(__name__)

_MAX_RECORDS: Final = 10_000
_LOOK_S: Final = 0.5
"""Between looks at the topic: each batch searches all waiting predictions once."""


class OutcomesFeed:
    """Feeds outcomes to the join.

    Args:
        tail: the outcomes topic.
        decoder: reads outcomes.
        join: what they are joined to.
        clock_s: a monotonic clock, seconds.
    """

    def __init__(
        self,
        tail: Tail,
        decoder: Decoder,
        join: OutcomeJoin,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tail = tail
        self._decoder = decoder
        self._join = join
        self._clock_s = clock_s
        self._look_at_s = clock_s()
        self._next_offsets = dict(tail.next_offsets)
        self.state = "on"

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where the join has got to, by partition."""
        return dict(self._next_offsets)

    def read(self) -> None:
        """Read what has come since the last look, without waiting."""
        if self.state != "on" or self._clock_s() < self._look_at_s:
            return
        try:
            batch = self._tail.poll(_MAX_RECORDS, 0.0)
            if batch is None:
                self._look_at_s = self._clock_s() + _LOOK_S
                return
            outcomes, rejections = self._decoder.decode(batch.values)
        except Unavailable as outage:
            log.warning("outcomes wait", reason=str(outage))
            self._look_at_s = self._clock_s() + _LOOK_S
            return
        except (StartupError, FatalError) as error:
            log.warning("outcomes are no longer read", reason=str(error))
            self.state = str(error)
            return
        self._join.undecodable += len(rejections)
        if len(outcomes):
            self._take(outcomes)
        self._next_offsets = dict(batch.next_offsets)

    def close(self) -> None:
        """Disconnect."""
        self._tail.close()

    def _take(self, outcomes: RecordBatch) -> None:
        self._join.join(
            hash_strings(outcomes.data, *outcomes.span("student_id")),
            outcomes.numbers["purchased"].astype(np.int8),
            outcomes.numbers["observed_at"],
        )


def follow(
    client_config: Mapping[str, object],
    topic: str,
    start_offsets: Mapping[int, int],
    decoder: Decoder,
    join: OutcomeJoin,
) -> OutcomesFeed | None:
    """Return the feed of a topic, or ``None`` if there is no such topic or it cannot be followed.

    An outage of the outcomes topic alone does not keep the monitor from being ready, so it is noted
    apart from the monitor's own conditions.
    """
    try:
        tail = CommittedTail(client_config, topic, start_offsets, Readiness(time.time))
    except (StartupError, Unavailable) as error:
        log.warning("no outcomes", reason=str(error))
        return None
    return OutcomesFeed(tail, decoder, join)
