"""Measuring from outside: rates from committed offsets, memory from /proc, latency from a reader."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from confluent_kafka import (
    Consumer,
    KafkaException,
    TopicPartition,
)

SAMPLE_S = 0.02


@contextlib.contextmanager
def process(
    command: Sequence[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for as long as the block takes, then end it."""
    with log.open("ab") as output:
        child = subprocess.Popen(list(command), env=environment, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def events_per_second(samples: list[tuple[float, int]], total: int) -> float:
    """Return the rate between a tenth and nine tenths of the work, where neither start nor end counts.

    Args:
        samples: (seconds, events done so far), rising.
        total: events in all.
    """
    times, done = (np.array(column, np.float64) for column in zip(*samples, strict=True))
    begin, end = 0.1 * total, 0.9 * total
    moved = np.flatnonzero(np.diff(done, prepend=-1) > 0)  # the moment that each level was first seen
    at = np.interp([begin, end], done[moved], times[moved])
    return float((end - begin) / (at[1] - at[0]))


def drain(
    servers: str, group: str, topic: str, partitions: int, total: int, timeout_s: float
) -> list[tuple[float, int]]:
    """Watch a group's committed offsets until they add up to the total."""
    watcher = Consumer({"bootstrap.servers": servers, "group.id": group})  # looks, and does not join
    wanted = [TopicPartition(topic, p) for p in range(partitions)]
    samples: list[tuple[float, int]] = []
    began_s = time.monotonic()
    while not samples or samples[-1][1] < total:
        with contextlib.suppress(KafkaException):  # the group's coordinator is not ready yet
            done = sum(max(at.offset, 0) for at in watcher.committed(wanted, timeout=10))
            samples.append((time.monotonic(), done))
        if time.monotonic() - began_s > timeout_s:
            done = samples[-1][1] if samples else 0
            raise TimeoutError(f"{group}: {done} of {total} after {timeout_s} s")
        time.sleep(SAMPLE_S)
    watcher.close()
    return samples


def sampled(value: Callable[[], int], total: int, timeout_s: float) -> list[tuple[float, int]]:
    """Watch any rising number until it reaches the total."""
    samples = [(time.monotonic(), value())]
    while samples[-1][1] < total:
        if time.monotonic() - samples[0][0] > timeout_s:
            raise TimeoutError(f"{samples[-1][1]} of {total} after {timeout_s} s")
        time.sleep(SAMPLE_S)
        samples.append((time.monotonic(), value()))
    return samples


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident set that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} shows no VmHWM")


def last_offsets(servers: str, topic: str) -> int:
    """Return where a reader of a topic stops, partitions added up: before its last transaction marker."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench-ends"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions]
    consumer.close()
    return sum(ends) - len(ends)
