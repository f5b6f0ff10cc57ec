"""The demo from outside, as a person starts it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.settings import TopicSettings

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the roles in /proc"),
]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Have children heed SIGINT: tests that run in the background hand on that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(folder: Path, kafka: str, *options: str) -> subprocess.Popen[str]:
    """Start a demo in a folder."""
    return subprocess.Popen(  # noqa: S603 - every word is ours
        [sys.executable, "-m", "consumer", "demo", "--events", "500", *options],
        cwd=folder,
        env=os.environ | {"PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS": kafka},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_accounts_for_every_event(kafka: str, tmp_path: Path) -> None:
    """It exits 0 by itself, in plain lines: the equation, throughput, latency, the log."""
    demo = start(tmp_path, kafka, "--broken", "0.1")
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, output
    # 200 events to warm up, 500, and 5,000 paced ones twice.
    assert "events 11770 = predictions 10700 + dead letters 1070" in output
    assert "audit log: 10700 lines for 10700 prediction records" in output
    assert re.search(r"throughput: 550 events in [\d.]+ s .*: \d+ events/s with 1 scorer", output)
    assert re.search(r"latency: p50 \d+ ms, p99 \d+ ms .*\(5000 predictions\)", output)
    assert "it holds" in output
    assert "\x1b" not in output
    assert (tmp_path / "artifacts" / "demo" / "prediction_log.jsonl").read_text().count("\n") == 10700


def names_in(kafka: str) -> tuple[set[str], set[str]]:
    """Return the topics and the groups of a Kafka."""
    admin = AdminClient({"bootstrap.servers": kafka})
    groups = admin.list_consumer_groups().result(10).valid
    return set(admin.list_topics(timeout=10).topics), {group.group_id for group in groups}


def test_the_demo_touches_nothing_of_somebody_elses(kafka: str, tmp_path: Path) -> None:
    """Topics that have our usual names survive, and the demo's own topics and group go."""
    admin = ClusterAdmin({"bootstrap.servers": kafka})
    existing = list(TopicSettings().model_dump().values())
    admin.create_topics([TopicSpec(name=name, partitions=1) for name in existing])
    try:
        _, groups = names_in(kafka)
        demo = start(tmp_path, kafka)
        output, _ = demo.communicate(timeout=120)
        assert demo.returncode == 0, output
        topics_after, groups_after = names_in(kafka)
        assert set(existing) <= topics_after
        assert not [name for name in topics_after if name.startswith("demo-")]
        assert not [name for name in groups_after - groups if "demo" in name]
    finally:
        admin.delete_topics(existing)


def test_an_interrupted_demo_leaves_nothing_running(kafka: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the roles, and the exit code says that it was interrupted."""
    demo = start(tmp_path, kafka)
    await_roles(tmp_path)
    assert len(roles_in(tmp_path)) == 2
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert roles_in(tmp_path) == []


def roles_in(folder: Path) -> list[int]:
    """Return the process ids of the roles that run in a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            words = link.with_name("cmdline").read_bytes().split(b"\0")
            if link.readlink() == folder and b"--lifeline" in words:
                found.append(int(link.parent.name))
    return found


def await_roles(folder: Path) -> None:
    """Wait until a role has something to say."""
    log = folder / "artifacts" / "demo" / "roles.log"
    deadline_s = time.monotonic() + 60
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
