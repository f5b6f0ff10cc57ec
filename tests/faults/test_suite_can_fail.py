"""The suite can fail: without the mechanisms behind the guarantees, the guarantees break."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from consumer.errors import StartupError
from consumer.monitor.audit.log import AuditLog
from model_store.files import write_all
from tests.faults import crash_points
from tests.unit.monitor import test_audit_log_crashes as crashes

pytestmark = pytest.mark.faults


def test_without_transactions_events_are_doubled(deploy: Callable[..., Any]) -> None:
    """With at-least-once delivery, a kill between publishing and committing doubles events."""
    service = deploy()
    service.stream(20_000).result()
    at_least_once = {"KAFKA__DELIVERY": "at_least_once"}
    for _ in range(3):
        killed = service.start(
            "score", wire=crash_points.Scorer(crash_points.DiesAfterFlush), **at_least_once
        )
        assert killed.wait(60) == -9, service.logs()
    service.start("score", **at_least_once)
    service.await_decided()
    verdict = service.verdict()
    assert verdict.doubled > 0
    assert verdict.missing == 0


def test_with_offsets_committed_first_events_are_missing(deploy: Callable[..., Any]) -> None:
    """A mutant that commits offsets before predictions, killed in between, leaves a gap."""
    service = deploy()
    service.stream(20_000).result()
    at_least_once = {"KAFKA__DELIVERY": "at_least_once"}
    for _ in range(3):
        killed = service.start("score", wire=crash_points.offsets_first, **at_least_once)
        assert killed.wait(60) == -9, service.logs()
    service.start("score")
    service.await_decided()
    verdict = service.verdict()
    assert verdict.missing > 0
    assert verdict.doubled == 0


class CheckpointFirst(AuditLog):
    """A mutant that writes the checkpoint of an append before its lines are durable."""

    def append(self, lines: bytes, next_offsets: Mapping[int, int]) -> None:
        """Append in the wrong order, without rotation."""
        self._write(self._checkpoint.after(len(lines), dict(next_offsets)))
        write_all(self._descriptor(), lines)
        os.fsync(self._descriptor())


def _log_is_exact_after_power_loss(step: int) -> bool:
    """Lose power at one system call; return whether the next run leaves every line once."""
    with crashes.new_log() as path:
        disk = crashes.Disk()
        with contextlib.suppress(crashes.ProcessDied):
            crashes.stream(path, disk, crashes.dies_at(step))
        disk.lose(crashes.Loss.CONTENTS, path.parent)
        try:
            crashes.stream(path, disk)
        except StartupError:
            return False
        return crashes.lines(path) == crashes.RECORDS


def test_with_the_checkpoint_before_the_fsync_the_audit_log_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log survives a loss of power at any call, but not if the checkpoint is ahead of it."""
    steps = range(1, crashes.calls_of_a_run())
    assert all(map(_log_is_exact_after_power_loss, steps))
    monkeypatch.setattr(crashes, "AuditLog", CheckpointFirst)
    assert not all(map(_log_is_exact_after_power_loss, steps))
