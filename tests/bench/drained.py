"""What is seen from outside while scorers work off a backlog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure import Running, Samples, cpu_s, events_per_second, peak_memory_mb, sampled

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What was seen while scorers worked off a backlog.

    Attributes:
        events_per_second: between a tenth and nine tenths of it.
        peak_memory_mb: the largest resident set of any of the scorers.
        cpu_us_per_event: CPU time of all the scorers, their start included unless they waited for the
            backlog.
        predictions: the topic that they published to.
        samples: committed offsets over time.
    """

    events_per_second: float
    peak_memory_mb: float
    cpu_us_per_event: float
    predictions: str
    samples: Samples


def drained(
    done: Callable[[], int],
    total: int,
    predictions: str,
    workers: Sequence[Running],
    begin: Callable[[], None] = lambda: None,
) -> Drained:
    """Watch workers until the backlog is worked off.

    Args:
        done: tells how many events are.
        total: how many there are.
        predictions: the topic that they publish to.
        workers: the scorers.
        begin: makes the backlog readable, if it is not.
    """
    cpu_before_s = sum(cpu_s(worker.pid) for worker in workers)
    begin()
    samples = sampled(done, total, _TIMEOUT_S, workers)
    used_s = sum(cpu_s(worker.pid) for worker in workers) - cpu_before_s
    return Drained(
        events_per_second=events_per_second(samples, total),
        peak_memory_mb=max(peak_memory_mb(worker.pid) for worker in workers),
        cpu_us_per_event=used_s / total * 1e6,
        predictions=predictions,
        samples=samples,
    )
