"""The service under test: its topics, its processes, and the verification of its outputs."""

from __future__ import annotations

import json
import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.error import HTTPError
from urllib.request import urlopen

from confluent_kafka import KafkaException

from consumer.errors import FatalError
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.settings import Settings
from consumer.simulator.producer import EventProducer, Sent
from model_store.synthetic import generate_students
from tests.faults.flow import Flow
from tests.faults.process import RoleProcess, nothing
from tests.faults.progress import GroupLag
from tests.faults.verifier import StreamVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from consumer.ops.verify.verifier import VerifyReport

BROKEN_RATIO: Final = 5 / 95
"""Broken events per good one: 5 % of all."""
_MORE_THAN_EVER_ASKED_FOR: Final = 100_000_000
_DECIDED_WITHIN_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True)
class Kill:
    """An interruption, from which recovery is measured.

    Attributes:
        at_s: The time on the monotonic clock.
        partitions: The partitions whose progress counts.
        offsets: Their committed offsets at that time.
    """

    at_s: float
    partitions: frozenset[int]
    offsets: dict[int, int]


@dataclass
class Service:
    """A deployment with its own topics. As a context manager it ends its processes.

    Attributes:
        servers: The bootstrap servers for everything except the scorers.
        folder: The folder of the logs and the audit log.
        store: A model store with a champion.
        scorer_servers: The bootstrap servers for the scorers; by default the same.
        partitions: The number of partitions of events and predictions.
        max_events: The largest number of events in a transaction.
        max_wait_ms: How long a batch waits for more events.
        client: librdkafka properties of the scorers.
        audit_log: The audit log; by default in the folder.
    """

    servers: str
    folder: Path
    store: Path
    scorer_servers: str = ""
    partitions: int = 4
    max_events: int = 500
    max_wait_ms: int = 50
    client: dict[str, Any] = field(default_factory=dict)
    audit_log: Path | None = None
    processes: list[RoleProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = f"faults-{secrets.token_hex(4)}"
        self.group = name
        self.topics = {kind: f"{name}.{kind}" for kind in ("events", "predictions", "dead_letters")}
        self.audit_log = self.audit_log or self.folder / "log" / "predictions.jsonl"
        self._settings = {
            "KAFKA__BOOTSTRAP_SERVERS": self.scorer_servers or self.servers,
            "KAFKA__GROUP_ID": name,
            "KAFKA__INSTANCE_ID": "a",
            "KAFKA__CLIENT": json.dumps(self.client),
            "MODEL_STORE__PATH": str(self.store),
            "AUDIT__PATH": str(self.audit_log),
            "BATCH__MAX_EVENTS": str(self.max_events),
            "BATCH__MAX_WAIT_MS": str(self.max_wait_ms),
            "HTTP__SCORE_PORT": "0",
            "HTTP__MONITOR_PORT": "0",
            **{f"TOPICS__{kind.upper()}": topic for kind, topic in self.topics.items()},
        }
        self.settings = Settings.model_validate(
            {
                "kafka": {"bootstrap_servers": self.servers, "group_id": name},
                "topics": self.topics,
                "audit": {"path": self.audit_log},
            }
        )
        self._closing = threading.Event()
        self._progress = GroupLag(self.servers, name, self.topics)
        self.committed, self.ends, self.owned = (
            self._progress.committed,
            self._progress.ends,
            self._progress.owned,
        )

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        specs = [
            TopicSpec(name=topic, partitions=1 if kind == "dead_letters" else self.partitions)
            for kind, topic in self.topics.items()
        ]
        ClusterAdmin({"bootstrap.servers": self.servers}, timeout_s=60).create_topics(specs)
        # A scorer may ask a broker that does not know the new topics yet, so wait for each broker.
        for server in self.servers.split(","):
            ClusterAdmin({"bootstrap.servers": server}, timeout_s=60).create_topics(specs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for process in self.processes:
            process.kill()
        self._progress.close()

    def environment(self, instance: str, **others: str) -> dict[str, str]:
        """Return the environment of a role. Further variables are given without their prefix."""
        settings = self._settings | {"KAFKA__INSTANCE_ID": instance} | others
        return {f"PURCHASE_STREAM_{name}": value for name, value in settings.items()}

    def conditions(self, port: int) -> dict[str, str]:
        """Return why the role on this port is not ready, by condition; ``silent`` if it does not answer."""
        try:
            with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
                body = answer.read()
        except HTTPError as error:
            with error:
                body = error.read()
        except OSError as error:
            return {"silent": str(error)}
        return {found["condition"]: found["reason"] for found in json.loads(body)["conditions"]}

    def start(
        self,
        role: str,
        instance: str = "a",
        wire: Callable[[], None] = nothing,
        options: Sequence[str] = (),
        **environment: str,
    ) -> RoleProcess:
        """Start a role. Further environment variables are given without their prefix."""
        process = RoleProcess(
            [role, *options],
            self.environment(instance, **environment),
            self.folder,
            self.folder / f"{role}-{instance}-{len(self.processes)}.log",
            wire,
        )
        self.processes.append(process)
        return process

    def supervise(self, process: RoleProcess) -> list[int]:
        """Restart a role whenever it exits 75, as a supervisor does. Return its exit codes so far."""
        codes: list[int] = []

        def watch(watched: RoleProcess) -> None:
            while not self._closing.is_set():
                code = watched.wait(0.1)
                if code == FatalError.exit_code:
                    codes.append(code)
                    watched = watched.again()
                    self.processes.append(watched)
                elif code is not None:
                    return

        threading.Thread(target=watch, args=(process,), daemon=True).start()
        return codes

    def stream(self, events: int, seconds: float | None = None) -> Future[Sent]:
        """Send events, 5 % of them broken, within some seconds or at once, in the background."""
        return self._send(events, None if seconds is None else events / seconds)[1]

    def flow(self, events: int, seconds: float) -> Flow:
        """Send events at a rate until the flow is ended, but at least this many."""
        upstream, sent = self._send(_MORE_THAN_EVER_ASKED_FOR, events / seconds)
        return Flow(self.stream, events, upstream, sent)

    def _send(self, events: int, rate: float | None) -> tuple[EventProducer, Future[Sent]]:
        n_good = ceil(events / (1 + BROKEN_RATIO))
        # The broker may be away for longer than a producer waits by default.
        kafka = self.settings.kafka.model_copy(update={"client": {"message.timeout.ms": 300_000}})
        settings = self.settings.model_copy(update={"kafka": kafka})
        upstream = EventProducer(
            settings, generate_students(2000, 2), count=n_good, broken_ratio=BROKEN_RATIO, rate=rate
        )
        sent: Future[Sent] = Future()

        def run() -> None:
            try:
                sent.set_result(upstream.run())
            except Exception as error:  # noqa: BLE001 - it is raised where the result is asked for
                sent.set_exception(error)

        # A daemon thread, so that a broker that a failed test has left dead does not block the exit.
        threading.Thread(target=run, daemon=True).start()
        return upstream, sent

    def await_progress(self, timeout_s: float = 60) -> None:
        """Wait for the next commit."""
        before = self._await_committed(timeout_s)
        self.await_that(lambda: self.committed() != before, timeout_s, "nothing was committed")

    def await_decided(self, timeout_s: float = _DECIDED_WITHIN_S) -> None:
        """Wait until every event is committed and no transaction is open."""

        def decided() -> bool:
            if self.committed() != self.ends():
                return False
            return all(
                self.ends(kind) == self.ends(kind, stable=True) for kind in ("predictions", "dead_letters")
            )

        self.await_that(decided, timeout_s, "events are undecided, or a transaction is open")

    def await_that(self, holds: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Wait until a condition holds; otherwise fail with the logs."""
        deadline_s = time.monotonic() + timeout_s
        while not _now(holds):
            if time.monotonic() > deadline_s:
                raise AssertionError(
                    f"{otherwise} after {timeout_s:.0f} s; "
                    f"committed {self.committed()} of {self.ends()}\n{self.logs()}"
                )
            time.sleep(_LOOK_EVERY_S)

    def _await_committed(self, timeout_s: float) -> dict[int, int]:
        """Return the group's committed offsets as soon as the broker answers."""
        offsets: dict[int, int] = {}

        def answered() -> bool:
            offsets.update(self.committed())
            return bool(offsets)

        self.await_that(answered, timeout_s, "no broker")
        return offsets

    def interruption(self, partitions: frozenset[int] | None = None) -> Kill:
        """Return the state right after a kill, for :meth:`recovery_s`."""
        at_s = time.monotonic()
        offsets = self._await_committed(120)
        return Kill(at_s, partitions or frozenset(offsets), offsets)

    def recovery_s(self, kill: Kill, timeout_s: float = 60) -> float:
        """Wait for the first commit after an interruption; return how long that took."""

        def commits() -> bool:
            now = self.committed()
            return any(now[partition] > kill.offsets[partition] for partition in kill.partitions)

        self.await_that(commits, timeout_s, "no recovery")
        return time.monotonic() - kill.at_s

    def verdict(self, *, with_log: bool = False, examples: int = 10) -> VerifyReport:
        """Verify the outputs in another process, which shares nothing with the scorers."""
        return StreamVerifier(self.settings, with_log=with_log, examples=examples).verdict()

    def await_log(self, timeout_s: float = 60) -> VerifyReport:
        """Wait until the audit log is complete; return the last report."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            verdict = self.verdict(with_log=True)
            if verdict.holds or time.monotonic() > deadline_s:
                return verdict
            time.sleep(1)

    def delete_records(self, ranges: Mapping[str, Mapping[int, tuple[int, int]]]) -> None:
        """Delete the records of ranges (first offset, end), by topic and partition."""
        self._progress.delete_before(
            {
                (topic, partition): end
                for topic, parts in ranges.items()
                for partition, (_, end) in parts.items()
            }
        )

    def logs(self) -> str:
        """Return the last lines of every process."""
        return "\n".join(
            f"--- {process.log.name} (exit {process.exit_code})\n{process.output()[-3000:]}"
            for process in self.processes[-6:]
        )


def _now(holds: Callable[[], bool]) -> bool:
    """Return whether a condition holds; ``False`` if the broker is away and cannot tell."""
    try:
        return holds()
    except KafkaException:
        return False
