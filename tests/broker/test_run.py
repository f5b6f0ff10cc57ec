"""All roles under one parent on a real Kafka: they work together and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.ops.verify.verifier import verify_until_idle
from consumer.settings import AuditSettings, KafkaSettings, Settings, TopicSettings
from consumer.simulator.producer import EventProducer
from model_store.synthetic import generate_students

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the children in /proc"),
]


def children(pid: int) -> dict[str, int]:
    """Return the process ids of a parent's children by verb, scorers with their number."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            words = stat.with_name("cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid and "--lifeline" in words:
            verb = words[words.index("--lifeline") + 1]
            found["-".join([verb, *words[-2:-1]]) if verb == "score" else verb] = int(stat.parent.name)
    return found


def await_children(pid: int, count: int) -> dict[str, int]:
    """Wait until ``count`` children run."""
    deadline_s = time.monotonic() + 20
    while len(found := children(pid)) < count:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)
    return found


def are_gone(pids: Any, timeout_s: float = 20) -> bool:
    """Wait until none of the processes is left."""
    deadline_s = time.monotonic() + timeout_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def test_the_roles_decide_and_log_everything_and_stop_on_sigterm(deploy: Callable[..., Any]) -> None:
    """Two scorers and the monitor account for every event; SIGTERM ends them all and exits 0."""
    deployment = deploy(partitions=3)
    topics = {name.lower(): topic for name, topic in deployment.topics.items()}
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=deployment.servers),
        topics=TopicSettings(**topics),
        audit=AuditSettings(path=deployment.folder / "artifacts" / "prediction_log.jsonl"),
    )
    parent = deployment.start("run", "--workers", "2")
    pids = await_children(parent.pid, 3)
    assert set(pids) == {"score-0", "score-1", "monitor"}
    sent = EventProducer(settings, generate_students(500), count=3_000, broken_ratio=0.05).run()
    deployment.read(deployment.topics["PREDICTIONS"], 3_000)
    verdict = verify_until_idle(settings, idle_s=15)
    assert verdict.holds, verdict.lines()
    assert (verdict.events, verdict.dead_letters) == (sent.events, sent.broken)
    parent.terminate()
    assert parent.wait(30) == 0, deployment.logs()
    assert are_gone(pids.values(), 1)
    assert '{"role": "score-1", ' in deployment.logs()


def test_a_child_that_dies_ends_the_run_with_its_code(deploy: Callable[..., Any]) -> None:
    """The others are stopped, and one line says which child exited and how."""
    deployment = deploy()
    parent: subprocess.Popen[bytes] = deployment.start("run")
    pids = await_children(parent.pid, 2)
    os.kill(pids["monitor"], signal.SIGKILL)
    assert parent.wait(30) == 137, deployment.logs()
    assert are_gone(pids.values(), 1)
    assert "purchase-stream: monitor was killed by SIGKILL; the other roles were stopped" in deployment.logs()


def test_no_child_survives_its_parent(deploy: Callable[..., Any]) -> None:
    """The children end after a SIGKILL of the parent."""
    deployment = deploy()
    parent = deployment.start("run")
    pids = await_children(parent.pid, 2)
    time.sleep(0.5)  # so that they have begun to work
    parent.kill()
    assert are_gone(pids.values())
