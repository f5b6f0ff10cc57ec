"""Hours at half the rate that this machine can do: memory and file descriptors stay where they were.

Runs only where ``PURCHASE_STREAM_SOAK_MINUTES`` says for how long.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = pytest.mark.faults

# Taken out of the environment: the product refuses variables with its prefix that it does not know.
_MINUTES: Final = float(os.environ.pop("PURCHASE_STREAM_SOAK_MINUTES", "0"))
_PROBE_EVENTS: Final = 200_000
_WARM_UP_RATIO: Final = 0.25
"""Of the time: caches, pools and the allocator find their size."""
_GROWTH_LIMIT_RATIO: Final = 0.05
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(_MINUTES == 0, reason="set PURCHASE_STREAM_SOAK_MINUTES")
def test_soak(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """At half the maximum rate, memory and descriptors are flat, and nothing is missing or doubled."""
    service = deploy(max_events=5_000, max_wait_ms=20)
    service.stream(_PROBE_EVENTS).result()
    roles = {role: service.start(role) for role in ("score", "monitor")}
    service.await_progress()
    began_s, begun = time.monotonic(), sum(service.committed().values())
    service.await_decided()
    rate = (_PROBE_EVENTS - begun) / (time.monotonic() - began_s) / 2
    seconds = _MINUTES * 60
    flowing = service.stream(round(rate * seconds), seconds)
    samples: dict[str, list[tuple[int, int]]] = {role: [] for role in roles}
    while not flowing.done():
        for role, process in roles.items():
            samples[role].append((_resident_bytes(process.pid), _descriptors(process.pid)))
        time.sleep(1)
    flowing.result()
    service.await_decided()
    grown = {role: _growth_ratios(seen) for role, seen in samples.items()}
    holds(f"soak of {_MINUTES:g} min at {rate:,.0f} events/s", _told(grown), service.await_log(300))
    assert all(ratio <= _GROWTH_LIMIT_RATIO for ratios in grown.values() for ratio in ratios), _told(grown)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _growth_ratios(samples: Sequence[tuple[int, int]]) -> list[float]:
    """Return by how much memory and descriptors grew from the first half after the warm-up to the second."""
    settled = samples[round(len(samples) * _WARM_UP_RATIO) :]
    middle = len(settled) // 2
    columns = list(zip(*settled, strict=True))
    return [statistics.median(column[middle:]) / statistics.median(column[:middle]) - 1 for column in columns]


def _told(grown: dict[str, list[float]]) -> str:
    return ", ".join(f"{role}: memory {m:+.1%}, files {f:+.1%}" for role, (m, f) in grown.items())
