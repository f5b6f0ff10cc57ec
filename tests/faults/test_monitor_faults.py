"""A monitor that is killed, or writes to a full disk."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.embedded_kafka.broker import free_port

pytestmark = pytest.mark.faults


def test_monitor_killed(deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """After 30 kills at random instants every line is in the log once."""
    service = deploy()
    flowing = service.flow(100_000, seconds=25)
    service.start("score")
    kills, random_source = 30, random.Random(5)
    for _ in range(kills):
        monitor = service.start("monitor")
        time.sleep(random_source.uniform(0.1, 1.2))
        monitor.kill()
    flowing.result()
    service.await_decided()
    service.start("monitor")
    holds("SIGKILL of the monitor", f"{kills} kills", service.await_log())


def _run(*command: str) -> bool:
    """Run a system command; return whether it succeeded."""
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - every word is ours
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not _run("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)):
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    assert _run("umount", "-l", str(folder))


def test_disk_full(deploy: Callable[..., Any], holds: Callable[..., None], small_disk: Path) -> None:
    """The monitor is not ready while the disk is full, continues by itself, and loses no line."""
    service = deploy(audit_log=small_disk / "predictions.jsonl")
    port, filler = free_port(), small_disk / "filler"
    flowing = service.flow(100_000, seconds=10)
    service.start("score")
    service.start("monitor", HTTP__MONITOR_PORT=str(port))
    service.await_progress()
    times = 2
    for _ in range(times):
        _fill(filler)
        service.await_that(lambda: "audit_log" in service.conditions(port), 60, "a full disk is no trouble")
        filler.unlink()
        service.await_that(lambda: not service.conditions(port), 60, "a free disk is still trouble")
    flowing.result()
    service.await_decided()
    holds("disk of the audit log full", f"{times} times", service.await_log())


def _fill(path: Path) -> None:
    """Fill a file system to the last byte."""
    with path.open("wb", buffering=0) as filler:
        size = 1024 * 1024
        while size:
            try:
                filler.write(b"\0" * size)
            except OSError:
                size //= 2
