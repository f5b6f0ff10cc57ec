"""One broker, one model, and every measurement that is made on them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from latency import Reader, paced_latency_ms
from measure import drain, events_per_second, last_offsets, peak_memory_mb, process, sampled

from consumer.kafka.topics import TopicSpec, create_topics
from consumer.settings import load
from consumer.upstream.produce import Upstream
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train

PARTITIONS = 3
HERE = Path(__file__).parent


class Bench:
    """One broker, one model, one folder; every measurement has a group and topics of its own."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.store = folder / "models"
        store = ModelStore(self.store, "purchase")
        store.promote(store.add(train(generate_students(5000, seed=1))))
        self._n = 0

    def name(self, label: str) -> str:
        """Return a name that nothing else has."""
        self._n += 1
        return f"{label}-{self._n}"

    def topic(self, label: str) -> str:
        """Create a topic."""
        name = self.name(label)
        create_topics({"bootstrap.servers": self.servers}, [TopicSpec(name=name, partitions=PARTITIONS)])
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
        students = generate_students(10_000, seed=7)
        return Upstream(settings, students, count=count, broken_ratio=broken_ratio, rate=rate).run().events

    def contestant(self, name: str, events: str, total: int) -> float:
        """Return the rate of a program of ``contestants.py``, in events/s."""
        group, output = self.name("group"), self.topic("out")
        command = [sys.executable, str(HERE / "contestants.py"), name, self.servers, events, output, group]
        command += [str(self.store)] if name == "hand_written" else []
        with process(command, dict(os.environ), self.folder / f"{name}.log"):
            return events_per_second(drain(self.servers, group, events, PARTITIONS, total, 300), total)

    def scorer(
        self, events: str, total: int, *, workers: int = 1, **settings: str
    ) -> tuple[float, float, str]:
        """Return the rate of the score role, its peak memory in MB, and its predictions topic."""
        group, predictions = self.name("group"), self.topic("predictions")
        environment = self.environment(
            KAFKA__GROUP_ID=group,
            TOPICS__EVENTS=events,
            TOPICS__PREDICTIONS=predictions,
            TOPICS__DEAD_LETTERS=self.topic("dlq"),
            **settings,
        )
        score = [sys.executable, "-m", "consumer", "score", "--worker"]
        with contextlib.ExitStack() as stack:
            first, *_ = [
                stack.enter_context(process([*score, str(n)], environment, self.folder / "score.log"))
                for n in range(workers)
            ]
            samples = drain(self.servers, group, events, PARTITIONS, total, 300)
            memory_mb = peak_memory_mb(first.pid)
        return events_per_second(samples, total), memory_mb, predictions

    def monitor(self, predictions: str, total: int, **settings: str) -> float:
        """Return the rate at which the monitor writes lines, in predictions/s."""
        environment, lines = self._log(predictions, **settings)
        ends = last_offsets(self.servers, predictions)
        with process([sys.executable, "-m", "consumer", "monitor"], environment, self.folder / "monitor.log"):
            samples = sampled(lines, ends, 120)
        return events_per_second(samples, ends) * total / ends

    def both(self, events: str, total: int) -> dict[str, float]:
        """Run scorer and monitor side by side on a backlog.

        Returns:
            The scorer's rate in events/s, and how many seconds after its last commit the audit log
            was complete.
        """
        group, predictions = self.name("group"), self.topic("predictions")
        environment = self.environment(
            KAFKA__GROUP_ID=group,
            TOPICS__EVENTS=events,
            TOPICS__PREDICTIONS=predictions,
            TOPICS__DEAD_LETTERS=self.topic("dlq"),
        )
        monitor_environment, lines = self._log(predictions)
        role = [sys.executable, "-m", "consumer"]
        with (
            process([*role, "monitor"], monitor_environment, self.folder / "monitor.log"),
            process([*role, "score"], environment, self.folder / "score.log"),
        ):
            samples = drain(self.servers, group, events, PARTITIONS, total, 300)
            sampled(lines, last_offsets(self.servers, predictions), 120)
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

    def latency_ms(self, rate: int, seconds: float) -> dict[str, float]:
        """Return percentiles of the time from producing an event to reading its prediction."""
        group, events, predictions = self.name("group"), self.topic("events"), self.topic("predictions")
        environment = self.environment(
            KAFKA__GROUP_ID=group,
            TOPICS__EVENTS=events,
            TOPICS__PREDICTIONS=predictions,
            TOPICS__DEAD_LETTERS=self.topic("dlq"),
        )
        with process([sys.executable, "-m", "consumer", "score"], environment, self.folder / "latency.log"):
            warm_up = Reader(self.servers, predictions)
            self.fill(events, 100)
            deadline_s, seen = time.monotonic() + 60, 0
            while seen < 100:
                seen += len(warm_up.read(0.5))
                if time.monotonic() > deadline_s:
                    raise TimeoutError("the scorer did not score its first events")
            warm_up.close()
            return paced_latency_ms(self.servers, events, predictions, PARTITIONS, rate=rate, seconds=seconds)
