"""``make bench ARGS=--growth``: more partitions, more workers, more events; and a cluster on paper.

Runs on a broker of its own, whose CPU can be looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench import ROLE, Bench
from measure import cpu_s, memory_mb, process, rate_between, record_bytes, sampled
from startup import first_prediction_s
from throughput import Drained, Logged

from consumer.embedded_kafka.broker import EmbeddedKafka
from model_store.synthetic import generate_students
from model_store.training import train

COUNTS: Final = (1, 2, 4, 8)
TRICKLES: Final = (100, 1000, 10_000)
TRICKLE_S: Final = 10.0
EVENTS: Final = 1_000_000
"""Of each run: enough for eight scorers to take many batches each."""
BACKLOG_EVENTS: Final = 10_000_000
VERSIONS: Final = 300
"""In the model store at the restarts: one a day for most of a year."""
_EVENTS_AFTER: Final = 1000
_TENTHS: Final = 10
_MEMORY_EVERY_S: Final = 0.5

BROKER_CORES: Final = 8
BROKER_NETWORK_BYTES_PER_S: Final = 10e9 / 8
REPLICAS: Final = 3
FULL: Final = 0.6
"""The share of a core, or of a network, that one plans with."""
CLUSTERS: Final = ((1, 3), (2, 3), (4, 3), (8, 3), (16, 3), (16, 6), (32, 6))
"""(scorers with a core each, brokers)."""


def measure(folder: Path, n_events: int, n_backlog: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything.

    Args:
        folder: For the broker and all else.
        n_events: Of each run.
        n_backlog: Of the long one.
        say: Told how far we are.
    """
    with EmbeddedKafka(folder / "kafka") as kafka:
        growth = Growth(Bench(kafka.bootstrap_servers, folder), kafka, say)
        source = growth.bench.topic("events")
        growth.bench.fill(source, n_events)
        growth.drain(source, n_events, 1, 1)  # the broker's first minute is not like the others
        partitions = [growth.drain(source, n_events, 1, n) for n in COUNTS]
        workers = [growth.drain(source, n_events, n, max(COUNTS)) for n in COUNTS]
        cost = growth.cost(source, n_events)
        trickles = [growth.bench.trickle(rate, TRICKLE_S, kafka.pid(1)) for rate in TRICKLES]
        backlog = growth.backlog(n_backlog)
    return {
        "events": n_events,
        "partitions": partitions,
        "workers": workers,
        "cost": cost,
        "trickles": trickles,
        "backlog": backlog,
        "cluster": cluster(cost, max(trickle["broker_cores"] for trickle in trickles)),
    }


class Growth:
    """The measurements."""

    def __init__(self, bench: Bench, kafka: EmbeddedKafka, say: Callable[[str], None]) -> None:
        self.bench = bench
        self._broker_pid = kafka.pid(1)
        self._say = say

    def drain(self, source: str, total: int, workers: int, partitions: int) -> dict[str, float]:
        """Have workers work off a backlog that appears at once; see :meth:`Bench.workers`."""
        before_s = [0.0]

        def note() -> None:
            before_s[0] = cpu_s(self._broker_pid)

        drained = self.bench.workers(source, total, workers, partitions, on_lift=note)
        broker_us = (cpu_s(self._broker_pid) - before_s[0]) / total * 1e6
        took_us = (drained.samples[-1][0] - drained.samples[0][0]) / total * 1e6
        self._say(f"{workers} workers, {partitions} partitions: {drained.events_per_second:,.0f} events/s")
        return {
            "workers": workers,
            "partitions": partitions,
            "rate": drained.events_per_second,
            "worker_us": drained.cpu_us_per_event,
            "broker_us": broker_us,
            "cores_in_use": (drained.cpu_us_per_event + broker_us) / took_us,
            "peak_memory_mb": drained.peak_memory_mb,
        }

    def cost(self, source: str, total: int) -> dict[str, float]:
        """Return what one event costs: bytes before compression, and CPU in every part."""
        before_s = [0.0]

        def note() -> None:
            before_s[0] = cpu_s(self._broker_pid)

        drained = self.bench.workers(source, total, 1, on_lift=note)
        broker_us = (cpu_s(self._broker_pid) - before_s[0]) / total * 1e6
        logged = self.bench.monitor(drained.predictions, total)
        return {
            "event_bytes": record_bytes(self.bench.servers, source),
            "prediction_bytes": record_bytes(self.bench.servers, drained.predictions),
            "worker_us": drained.cpu_us_per_event,
            "broker_us": broker_us,
            "monitor_us": logged.cpu_us_per_line,
            "monitor_rate": logged.lines_per_second,
        }

    def backlog(self, total: int) -> dict[str, Any]:
        """Work off a long backlog; look at rate and memory tenth by tenth."""
        events = self.bench.topic("events")
        self._say(f"filling a backlog of {total:,}")
        self.bench.fill(events, total)
        seen: list[tuple[float, float]] = []

        def watch(pid: int, ended: threading.Event) -> None:
            while not ended.wait(_MEMORY_EVERY_S):
                seen.append((time.monotonic(), memory_mb(pid)))

        drained = self.bench.scorer(events, total, watch=watch)
        first = max(i for i, (_, done) in enumerate(drained.samples) if done == 0)  # its start ends here
        samples = drained.samples[first:]
        edges = np.linspace(0, total, _TENTHS + 1)
        done = np.interp([at_s for at_s, _ in seen], *np.array(samples).T)
        tenth = np.minimum(done / total * _TENTHS, _TENTHS - 1).astype(int)
        memory = np.array([mb for _, mb in seen])
        return {
            "events": total,
            "rates": [rate_between(samples, a, b) for a, b in pairwise(edges.tolist())],
            "memory_mb": [float(memory[tenth == n].max(initial=0)) for n in range(_TENTHS)],
            "peak_memory_mb": drained.peak_memory_mb,
            "months": self._restarts(events, total, drained),
        }

    def _restarts(self, events: str, total: int, drained: Drained) -> dict[str, float]:
        """Start scorer and monitor on what months leave behind: long topics, a long log, many versions."""
        self._say("restarts on long topics, a long log and many versions")
        logged = self.bench.monitor(drained.predictions, total)
        trained = train(generate_students(5000, seed=2))
        for _ in range(VERSIONS):
            self.bench.model_store.add(trained)
        self.bench.fill(events, _EVENTS_AFTER)
        scorer = first_prediction_s(self.bench, drained.environment, drained.predictions)
        monitor_s = self._monitor_restart_s(logged)
        log = Path(logged.environment["PURCHASE_STREAM_AUDIT__PATH"])
        return {
            "versions": VERSIONS,
            "log_bytes": sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*")),
            "lines_per_second": logged.lines_per_second,
            "scorer_restart_s": scorer["first_prediction"],
            "monitor_restart_s": monitor_s,
        }

    def _monitor_restart_s(self, logged: Logged) -> float:
        """Return the seconds from exec until the log has what has come meanwhile."""
        began_s, before = time.monotonic(), logged.next_offset()
        log = self.bench.folder / "monitor-restart.log"
        with process([*ROLE, "monitor"], logged.environment, log) as running:
            sampled(logged.next_offset, before + 1, 120, [running])
            return time.monotonic() - began_s


def cluster(cost: dict[str, float], small_batch_cores: float) -> list[tuple[float, ...]]:
    """Return on paper what clusters would bear: see docs/performance.md for the reasoning.

    Args:
        cost: Of one event.
        small_batch_cores: Of the broker, that one scorer keeps busy while it keeps up.

    Returns:
        Rows of (scorers, brokers, and events/s: by the scorers' CPU, by the brokers' CPU, by the
        brokers' network in the busier direction, the least of these, by the one monitor's CPU; and
        the share of the brokers' CPU that goes into small batches while all keep up).
    """
    rows: list[tuple[float, ...]] = []
    by_monitor = FULL * 1e6 / cost["monitor_us"]
    for scorers, brokers in CLUSTERS:
        by_scorers = scorers * FULL * 1e6 / cost["worker_us"]
        # Followers fetch and append what the leader has served: at worst that costs as much again, each.
        by_broker_cpu = brokers * BROKER_CORES * FULL * 1e6 / (cost["broker_us"] * REPLICAS)
        # Leaders send: the event to its followers and the scorer; the prediction to its followers, the
        # monitor and the CRM. That is more than they receive.
        sent_bytes = REPLICAS * cost["event_bytes"] + (REPLICAS + 1) * cost["prediction_bytes"]
        by_network = brokers * BROKER_NETWORK_BYTES_PER_S * FULL / sent_bytes
        least = min(by_scorers, by_broker_cpu, by_network)
        small_batches = scorers * small_batch_cores * REPLICAS / (brokers * BROKER_CORES)
        rows.append(
            (scorers, brokers, by_scorers, by_broker_cpu, by_network, least, by_monitor, small_batches)
        )
    return rows
