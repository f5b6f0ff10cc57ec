"""A soak at half the maximum rate: memory and file descriptors do not grow.

Runs only if ``PURCHASE_STREAM_SOAK_MINUTES`` is set. The stream is verified in spans while it flows, and
verified records are deleted, so that a soak of any length fits on a disk.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = pytest.mark.faults

# Removed from the environment, because the product refuses unknown variables with its prefix.
_MINUTES: Final = float(os.environ.pop("PURCHASE_STREAM_SOAK_MINUTES", "0"))
_PROBE_EVENTS: Final = 600_000
_SPAN_S: Final = 30.0
_WARM_UP_RATIO: Final = 0.25
"""Of the time: caches, pools and the allocator find their size."""
_SUSPENDED_S: Final = 4.0
"""Not long enough to be taken for dead."""
_GROWTH_LIMIT_RATIO: Final = 0.05
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_IDLE_NICENESS: Final = 19
_VERIFIED_WITHIN_S: Final = 3600.0


@pytest.mark.skipif(_MINUTES == 0, reason="set PURCHASE_STREAM_SOAK_MINUTES")
def test_soak(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """At half the maximum rate memory and descriptors are flat, and nothing is missing or doubled."""
    service = deploy(max_events=5_000, max_wait_ms=20)
    roles = {role: service.start(role) for role in ("score", "monitor")}
    rate = _maximum_rate(service) / 2
    checks = _Checks(service)
    samples: dict[str, list[tuple[int, int]]] = {role: [] for role in roles}
    seconds, n_spans = 0.0, max(round(_MINUTES * 60 / _SPAN_S), 1)
    for span in range(n_spans):
        began_s = time.monotonic()
        flowing = service.stream(round(rate * _SPAN_S), _SPAN_S)
        if span < n_spans * _WARM_UP_RATIO:
            _suspend(list(roles.values()))
        while not flowing.done():
            assert all(process.exit_code is None for process in roles.values()), service.logs()
            for role, process in roles.items():
                samples[role].append((_resident_bytes(process.pid), _descriptors(process.pid)))
            time.sleep(1)
        flowing.result()
        seconds += time.monotonic() - began_s
        checks.go_on()
    sent, verdict = round(rate * _SPAN_S) * n_spans, checks.conclude()
    grown = {role: _growth_ratios(seen) for role, seen in samples.items()}
    holds(f"soak of {seconds / 60:.0f} min at {sent / seconds:,.0f} events/s", _told(grown), verdict)
    assert sent / seconds > 0.95 * rate, "the events came too slowly"
    assert all(ratio <= _GROWTH_LIMIT_RATIO for ratios in grown.values() for ratio in ratios), _told(grown)


def _suspend(processes: Sequence[Any]) -> None:
    """Give each role a backlog, so that its queues and batches are full once.

    It keeps that memory. Otherwise its first backlog would look like a leak.
    """
    for process in processes:
        process.send(signal.SIGSTOP)
        time.sleep(_SUSPENDED_S)
        process.send(signal.SIGCONT)


def _maximum_rate(service: Any) -> float:
    """Return how many events per second reach the log at the highest possible rate."""
    began_s = time.monotonic()
    service.stream(_PROBE_EVENTS).result()
    service.await_decided()
    return float(_PROBE_EVENTS / (time.monotonic() - began_s))


class _Checks:
    """Verifies the stream span by span, and deletes what is verified.

    Args:
        service: The service whose stream is verified.
    """

    def __init__(self, service: Any) -> None:
        from consumer.ops.verify.verifier import VerifyReport  # noqa: PLC0415 - nothing is imported for other tests

        self._service = service
        self._total = VerifyReport()
        self._begin()

    def go_on(self) -> None:
        """Start with the next span if the last one is verified. Events pause until all are processed."""
        if self._verifier.has_answered():
            self._finish()
            self._begin()

    def conclude(self) -> Any:
        """Verify what is left, and return the report on everything."""
        self._finish()
        self._begin(niceness=0)
        self._finish()
        return self._total

    def _begin(self, niceness: int = _IDLE_NICENESS) -> None:
        from consumer.monitor.audit.log import segment_paths  # noqa: PLC0415
        from tests.faults.verifier import StreamVerifier  # noqa: PLC0415

        self._service.await_decided()
        self._await_log()
        self._closed = segment_paths(self._service.audit_log)
        self._verifier = StreamVerifier(self._service.settings, with_log=True, niceness=niceness)

    def _await_log(self) -> None:
        """Wait until the monitor has written what is committed."""
        from consumer.monitor.audit.log import log_bytes  # noqa: PLC0415

        size = -1
        while (now := log_bytes(self._service.audit_log)) != size:
            size = now
            time.sleep(0.5)

    def _finish(self) -> None:
        from tests.faults.verifier import add  # noqa: PLC0415

        verdict = self._verifier.verdict(_VERIFIED_WITHIN_S)
        add(self._total, verdict)
        # An output of an event that was verified and deleted before is in no ledger any more.
        assert verdict.predictions == verdict.prediction_records
        self._service.delete_records(self._verifier.ranges)
        for path in self._closed:
            path.unlink()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _growth_ratios(samples: Sequence[tuple[int, int]]) -> list[float]:
    """Return how much memory and descriptors grew from the first half after the warm-up to the second."""
    settled = samples[round(len(samples) * _WARM_UP_RATIO) :]
    middle = len(settled) // 2
    columns = list(zip(*settled, strict=True))
    return [statistics.median(column[middle:]) / statistics.median(column[:middle]) - 1 for column in columns]


def _told(grown: dict[str, list[float]]) -> str:
    return ", ".join(f"{role}: memory {m:+.1%}, files {f:+.1%}" for role, (m, f) in grown.items())
