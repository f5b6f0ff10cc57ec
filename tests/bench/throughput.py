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
        events_per_second: Between a tenth and nine tenths of it.
        peak_memory_mb: The largest resident set of any of the scorers.
        cpu_us_per_event: CPU time of all the scorers, their start included unless they waited for the
            backlog.
        predictions: The topic that they published to.
        environment: Their settings, as variables.
        samples: Committed offsets over time.
    """

    events_per_second: float
    peak_memory_mb: float
    cpu_us_per_event: float
    predictions: str
    environment: dict[str, str]
    samples: Samples


@dataclass(frozen=True, slots=True)
class Logged:
    """What was seen while the monitor worked off a topic of predictions.

    Attributes:
        lines_per_second: Between a tenth and nine tenths of it.
        cpu_us_per_line: CPU time once it had started.
        environment: Its settings, as variables.
        next_offset: Tells how far the log has come, in offsets, partitions added up.
    """

    lines_per_second: float
    cpu_us_per_line: float
    environment: dict[str, str]
    next_offset: Callable[[], int]


def drained(
    done: Callable[[], int],
    total: int,
    predictions: str,
    environment: dict[str, str],
    workers: Sequence[Running],
    begin: Callable[[], None] = lambda: None,
) -> Drained:
    """Watch workers until the backlog is worked off.

    Args:
        done: Tells how many events are.
        total: How many there are.
        predictions: The topic that they publish to.
        environment: Their settings, as variables.
        workers: The scorers.
        begin: Makes the backlog readable, if it is not.
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
        environment=environment,
        samples=samples,
    )
