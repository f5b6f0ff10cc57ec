"""Measuring from outside: rates from committed offsets, CPU and memory from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

SAMPLE_S = 0.02
_SIZED_RECORDS = 1000
_RECORD_OVERHEAD_BYTES = 12
"""Around key and value: lengths, attributes, differences of time and offset (Kafka protocol, "Record")."""
_STOP_S = 20.0
_LOG_TAIL_CHARS = 2000

Samples = list[tuple[float, int]]
"""(seconds on the monotonic clock, how much was done by then), rising."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process under measurement."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def check(self) -> None:
        """Raise with the end of its log if it has ended: nobody need wait for it then."""
        if self.child.poll() is not None:
            tail = self.log.read_text(errors="replace")[-_LOG_TAIL_CHARS:]
            raise RuntimeError(f"{self.child.args!r} ended with {self.child.returncode}: {tail}")


@contextlib.contextmanager
def process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[Running]:
    """Run a command for as long as the block takes, then end it.

    Its standard input is a pipe of ours, by whose end it learns that we are gone, however we went.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command), env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        yield Running(child, log)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()


def events_per_second(samples: Samples, total: int) -> float:
    """Return the rate between a tenth and nine tenths of the work, where neither start nor end counts."""
    return rate_between(samples, 0.1 * total, 0.9 * total)


def rate_between(samples: Samples, begin: float, end: float) -> float:
    """Return how many a second were done on the way from ``begin`` to ``end``."""
    times, done = (np.array(column, np.float64) for column in zip(*samples, strict=True))
    moved = np.flatnonzero(np.diff(done, prepend=-1) > 0)  # the moment that each level was first seen
    at = np.interp([begin, end], done[moved], times[moved])
    return float((end - begin) / (at[1] - at[0]))


def sampled(
    value: Callable[[], int], total: int, timeout_s: float, processes: Sequence[Running] = ()
) -> Samples:
    """Watch a rising number until it reaches the total.

    Raises:
        TimeoutError: It did not.
        RuntimeError: One of the processes that make it rise has ended.
    """
    began_s = time.monotonic()
    samples = [_sample(value)]
    while samples[-1][1] < total:
        for running in processes:
            running.check()
        if time.monotonic() - began_s > timeout_s:
            raise TimeoutError(f"{samples[-1][1]} of {total} after {timeout_s} s")
        time.sleep(SAMPLE_S)
        samples.append(_sample(value))
    return samples


def _sample(value: Callable[[], int]) -> tuple[float, int]:
    """Return a value and when it came: a busy broker answers late, with what was true then."""
    done = value()
    return time.monotonic(), done


@contextlib.contextmanager
def committed(servers: str, group: str, topic: str, partitions: int) -> Iterator[Callable[[], int]]:
    """Yield what tells a group's committed offsets, partitions added up."""
    watcher = Consumer({"bootstrap.servers": servers, "group.id": group})  # looks, and does not join
    wanted = [TopicPartition(topic, p) for p in range(partitions)]
    last = 0

    def done() -> int:
        nonlocal last
        with contextlib.suppress(KafkaException):  # the group's coordinator is not ready yet
            last = sum(max(at.offset, 0) for at in watcher.committed(wanted, timeout=10))
        return last

    try:
        yield done
    finally:
        watcher.close()


def await_members(servers: str, group: str, processes: Sequence[Running], timeout_s: float = 90) -> None:
    """Wait until a group is stable and each of the processes has partitions in it."""
    admin = AdminClient({"bootstrap.servers": servers})
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        for running in processes:
            running.check()
        with contextlib.suppress(KafkaException):
            told = admin.describe_consumer_groups([group])[group].result()
            shares = [len(member.assignment.topic_partitions) for member in told.members]
            if told.state.name == "STABLE" and len(shares) == len(processes) and all(shares):
                return
        time.sleep(0.2)
    raise TimeoutError(f"{group}: not every member had partitions after {timeout_s} s")


def cpu_s(pid: int) -> float:
    """Return how many seconds of CPU a process has used, in user and in kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident set that a process has had."""
    return _status_mb(pid, "VmHWM:")


def memory_mb(pid: int) -> float:
    """Return the resident set of a process."""
    return _status_mb(pid, "VmRSS:")


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} shows no {name}")


def record_offsets(servers: str, topic: str) -> int:
    """Return how many offsets a topic has used: one for each record, and for each transaction's marker."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench-ends"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions]
    consumer.close()
    return sum(ends)


def last_offsets(servers: str, topic: str, partitions: int) -> int:
    """Return where a reader of a topic stops, partitions added up: before its last transaction marker."""
    return record_offsets(servers, topic) - partitions


def record_bytes(servers: str, topic: str) -> float:
    """Return what a record of a topic takes before it is compressed, on average over the first of them."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench-sizes"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        records = consumer.consume(_SIZED_RECORDS, 10)
    finally:
        consumer.close()
    sizes = [
        len(r.key() or b"") + len(r.value() or b"") + _RECORD_OVERHEAD_BYTES for r in records if not r.error()
    ]
    return float(np.mean(sizes))
