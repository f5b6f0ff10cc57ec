"""One broker, one model, and every measurement that is made on them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gated_backlog import gated_backlog
from latency import Reader, paced_latency_ms
from measure import (
    Running,
    await_members,
    committed,
    cpu_s,
    events_per_second,
    last_offsets,
    process,
    record_offsets,
    sampled,
)
from throughput import Drained, Logged, drained

from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.runtime.supervisor import ROLE_COMMAND
from consumer.settings import load
from consumer.simulator.producer import EventProducer
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train

PARTITIONS = 4
STUDENTS = 10_000
HERE = Path(__file__).parent
ROLE = ROLE_COMMAND
"""A role that ends when we are gone."""


class Bench:
    """One broker, one model, one folder; every measurement has a group and topics of its own."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.store = folder / "models"
        self.model_store = ModelStore(self.store, "purchase")
        self.model_store.promote(self.model_store.add(train(generate_students(5000, seed=1))))
        self._n = 0

    def name(self, label: str) -> str:
        """Return a name that nothing else has."""
        self._n += 1
        return f"{label}-{self._n}"

    def topic(self, label: str, partitions: int = PARTITIONS) -> str:
        """Create a topic."""
        name = self.name(label)
        ClusterAdmin({"bootstrap.servers": self.servers}).create_topics(
            [TopicSpec(name=name, partitions=partitions)]
        )
        return name

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a role."""
        base = {
            "KAFKA__BOOTSTRAP_SERVERS": self.servers,
            "MODEL_STORE__PATH": str(self.store),
            "HTTP__SCORE_PORT": "0",
            "HTTP__MONITOR_PORT": "0",
            "AUDIT__PATH": str(self.folder / self.name("audit") / "log.jsonl"),
        }
        return dict(os.environ) | {
            f"PURCHASE_STREAM_{key}": value for key, value in (base | settings).items()
        }

    def fill(self, topic: str, count: int, *, broken_ratio: float = 0.0, rate: float | None = None) -> int:
        """Send events; return how many."""
        settings = load(None, {"kafka": {"bootstrap_servers": self.servers}, "topics": {"events": topic}})
        students = generate_students(STUDENTS, seed=7)
        return (
            EventProducer(settings, students, count=count, broken_ratio=broken_ratio, rate=rate).run().events
        )

    def contestant(self, name: str, events: str, total: int) -> float:
        """Return the rate of a program of ``competitors.py``, in events/s."""
        group, output = self.name("group"), self.topic("out")
        command = [sys.executable, str(HERE / "competitors.py"), name, self.servers, events, output, group]
        command += [str(self.store)] if name == "hand_written" else []
        with (
            process(command, dict(os.environ), self.folder / f"{group}.log") as running,
            committed(self.servers, group, events, PARTITIONS) as done,
        ):
            return events_per_second(sampled(done, total, 300, [running]), total)

    def scorer(
        self,
        events: str,
        total: int,
        *,
        watch: Callable[[int, threading.Event], None] | None = None,
        **settings: str,
    ) -> Drained:
        """Have one scorer work off the backlog in a topic.

        Args:
            events: The topic.
            total: How many events it holds.
            watch: Runs beside it in a thread, is given its process id, and returns when the event is set.
            settings: As variables.
        """
        group, predictions, environment = self._scoring(events, PARTITIONS, **settings)
        ended = threading.Event()
        with (
            self._workers(1, environment, group) as workers,
            committed(self.servers, group, events, PARTITIONS) as done,
            contextlib.ExitStack() as stack,
        ):
            if watch is not None:
                thread = threading.Thread(target=watch, args=(workers[0].pid, ended))
                thread.start()
                stack.callback(thread.join)
                stack.callback(ended.set)
            return drained(done, total, predictions, environment, workers)

    def workers(
        self,
        source: str,
        total: int,
        n_workers: int,
        partitions: int = PARTITIONS,
        *,
        on_lift: Callable[[], None] = lambda: None,
    ) -> Drained:
        """Have scorers work off a copy of a topic that appears when each of them has partitions.

        Args:
            source: The topic.
            total: How many of its events.
            n_workers: Scorers.
            partitions: Of the copy.
            on_lift: Called just before it appears.
        """
        events = self.topic("events", partitions)
        group, predictions, environment = self._scoring(events, partitions)
        with (
            gated_backlog(self.servers, source, events, total) as lift,
            self._workers(n_workers, environment, group) as workers,
            committed(self.servers, group, events, partitions) as done,
        ):
            await_members(self.servers, group, workers)
            done()  # connected
            on_lift()
            return drained(done, total, predictions, environment, workers, lift)

    def _scoring(self, events: str, partitions: int, **settings: str) -> tuple[str, str, dict[str, str]]:
        """Return a new group, a new predictions topic, and the environment of scorers for them."""
        group, predictions = self.name("group"), self.topic("predictions", partitions)
        environment = self.environment(
            KAFKA__GROUP_ID=group,
            TOPICS__EVENTS=events,
            TOPICS__PREDICTIONS=predictions,
            TOPICS__DEAD_LETTERS=self.topic("dlq", partitions),
            **settings,
        )
        return group, predictions, environment

    @contextlib.contextmanager
    def _workers(self, n: int, environment: dict[str, str], group: str) -> Iterator[list[Running]]:
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(
                    process(
                        [*ROLE, "score", "--worker", str(k)], environment, self.folder / f"{group}-{k}.log"
                    )
                )
                for k in range(n)
            ]

    def trickle(self, rate: int, seconds: float, broker_pid: int) -> dict[str, float]:
        """Have one scorer keep up with a steady stream, whose batches are small.

        Returns:
            Transactions a second, and the cores that scorer and broker keep busy.
        """
        events, count = self.topic("events"), int(rate * seconds)
        group, predictions, environment = self._scoring(events, PARTITIONS)
        with (
            self._workers(1, environment, group) as workers,
            committed(self.servers, group, events, PARTITIONS) as done,
        ):
            self.fill(events, rate, rate=rate)  # until the scorer and its connections are warm
            sampled(done, rate, 60, workers)
            markers_before = record_offsets(self.servers, predictions) - rate
            pids = workers[0].pid, broker_pid
            before_s, began_s = [cpu_s(pid) for pid in pids], time.monotonic()
            self.fill(events, count, rate=rate)
            sampled(done, rate + count, 60, workers)
            took_s = time.monotonic() - began_s
            scorer_s, broker_s = (cpu_s(pid) - before for pid, before in zip(pids, before_s, strict=True))
            markers = record_offsets(self.servers, predictions) - rate - count - markers_before
        return {
            "rate": rate,
            # Each leaves a marker in every partition that it wrote to: with batches of dozens, in all.
            "transactions_per_s": markers / PARTITIONS / took_s,
            "scorer_cores": scorer_s / took_s,
            "broker_cores": broker_s / took_s,
        }

    def monitor(self, predictions: str, total: int, **settings: str) -> Logged:
        """Have a monitor with a new log work off a topic of this many predictions."""
        environment, lines = self._log(predictions, **settings)
        ends = last_offsets(self.servers, predictions, PARTITIONS)
        with process([*ROLE, "monitor"], environment, self.folder / f"{predictions}-log.log") as running:
            samples = sampled(lines, 1, 60, [running])  # from here on it has started
            before_s, n_before = cpu_s(running.pid), samples[-1][1]
            samples += sampled(lines, ends, 300, [running])
            used_s = cpu_s(running.pid) - before_s
        share = total / ends  # the offsets between are the transactions' markers
        rate, us = events_per_second(samples, ends) * share, used_s / ((ends - n_before) * share) * 1e6
        return Logged(rate, us, environment, lines)

    def both(self, events: str, total: int) -> dict[str, float]:
        """Run scorer and monitor side by side on a backlog.

        Returns:
            The scorer's rate in events/s, and how many seconds after its last commit the audit log
            was complete.
        """
        group, predictions, environment = self._scoring(events, PARTITIONS)
        monitor_environment, lines = self._log(predictions)
        with (
            process([*ROLE, "monitor"], monitor_environment, self.folder / f"{group}-log.log") as monitor,
            process([*ROLE, "score"], environment, self.folder / f"{group}.log") as scorer,
            committed(self.servers, group, events, PARTITIONS) as done,
        ):
            samples = sampled(done, total, 300, [scorer, monitor])
            sampled(lines, last_offsets(self.servers, predictions, PARTITIONS), 120, [monitor])
            behind_s = time.monotonic() - samples[-1][0]
        return {"scorer_events_per_second": events_per_second(samples, total), "log_behind_s": behind_s}

    def _log(self, predictions: str, **settings: str) -> tuple[dict[str, str], Callable[[], int]]:
        """Return a monitor's environment, and what tells how far its log has come, in offsets."""
        environment = self.environment(TOPICS__PREDICTIONS=predictions, **settings)
        log = Path(environment["PURCHASE_STREAM_AUDIT__PATH"])
        log.parent.mkdir()
        checkpoint = log.with_name(log.name + ".checkpoint")

        def lines() -> int:
            try:
                offsets = json.loads(checkpoint.read_text())["next_offsets"]
            except (OSError, ValueError):
                return 0
            return sum(offsets.values())

        return environment, lines

    def latency_ms(
        self,
        rate: int,
        seconds: float,
        *,
        beside: Callable[[str], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
        **settings: str,
    ) -> dict[str, float]:
        """Return percentiles of the time from producing an event to reading its prediction.

        Args:
            rate: Events a second.
            seconds: How long.
            beside: Entered with the predictions topic, for what runs beside the scorer.
            settings: As variables.
        """
        events = self.topic("events")
        group, predictions, environment = self._scoring(events, PARTITIONS, **settings)
        with (
            beside(predictions),
            process([*ROLE, "score"], environment, self.folder / f"{group}.log") as running,
        ):
            warm_up = Reader(self.servers, predictions)
            self.fill(events, 100)
            deadline_s, seen = time.monotonic() + 60, 0
            while seen < 100:
                running.check()
                seen += len(warm_up.read(0.5))
                if time.monotonic() > deadline_s:
                    raise TimeoutError("the scorer did not score its first events")
            warm_up.close()
            return paced_latency_ms(self.servers, events, predictions, PARTITIONS, rate=rate, seconds=seconds)
