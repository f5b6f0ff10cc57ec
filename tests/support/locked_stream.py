"""A deployment on the secured Kafka, where every process has a user of its own with few rights."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from consumer.cli import app
from consumer.embedded_kafka.broker import free_port
from consumer.kafka.lag import LagReader
from consumer.ops.acls import User
from consumer.settings import Settings
from tests.faults.process import RoleProcess
from tests.support.secured_kafka import Right, SecuredKafka, granted_by

_PORTS = {User.SCORE: "SCORE_PORT", User.MONITOR: "MONITOR_PORT", User.SERVE: "SERVE_PORT"}


class Running:
    """A role that runs.

    Attributes:
        user: Its user on Kafka.
        process: Its process.
        url: Its HTTP address.
    """

    def __init__(self, user: str, process: RoleProcess, port: int) -> None:
        self.user = user
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def conditions(self) -> dict[str, str]:
        """Return the reason of each active condition; ``silent`` if the role does not answer."""
        answer = self.readiness()
        return {found["condition"]: found["reason"] for found in answer["conditions"]}

    def causes(self) -> dict[str, str]:
        """Return what the monitor says about the stream, by cause."""
        found = self.readiness().get("stream", {}).get("causes", [])
        return {cause["cause"]: cause["text"] for cause in found}

    def readiness(self) -> dict[str, Any]:
        """Return the answer of ``/health/ready``; a role that is silent has that condition."""
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/health/ready", timeout=5).json()
        except httpx.TransportError as error:
            return {"conditions": [{"condition": "silent", "reason": str(error)}]}
        return answer

    def await_ready(self) -> None:
        """Wait until no condition is active."""
        self.await_that(lambda: not self.conditions(), "it is not ready")

    def await_that(self, holds: Callable[[], bool], otherwise: str, timeout_s: float = 60) -> None:
        """Wait until something holds."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if self.process.exit_code is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"{otherwise}: {self.conditions()}\n{self.process.output()[-3000:]}")
            time.sleep(0.1)


class LockedStream:
    """Topics, a group and an audit log on the secured Kafka.

    Args:
        kafka: The broker.
        store: A model store with a champion.
        folder: The folder of the logs and the audit log.
    """

    def __init__(self, kafka: SecuredKafka, store: Path, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.group = f"locked-{secrets.token_hex(4)}"
        topics = {topic: f"{self.group}.{topic}" for topic in Settings().topics.model_dump()}
        self.settings = Settings.model_validate(
            {
                "kafka": {"bootstrap_servers": kafka.broker.bootstrap_servers, "group_id": self.group},
                "topics": topics,
                "audit": {"path": folder / "log.jsonl"},
            }
        )
        self._client = {"bootstrap.servers": kafka.broker.bootstrap_servers}
        self._environment = {
            "KAFKA__GROUP_ID": self.group,
            "MODEL_STORE__PATH": str(store),
            "AUDIT__PATH": str(self.settings.audit.path),
            "HTTP__SCORE_PORT": "0",
            "HTTP__MONITOR_PORT": "0",
            "HTTP__SERVE_PORT": "0",
            **{f"TOPICS__{topic.upper()}": name for topic, name in topics.items()},
        }
        self._numbers = itertools.count()
        self._processes: list[RoleProcess] = []

    def rights(self, role: User, group: str | None = None) -> list[Right]:
        """Return the rights that ``acls`` prints for a role or verb."""
        words = ["--set", f"kafka.group_id={group or self.group}"]
        for topic, name in self.settings.topics.model_dump().items():
            words += ["--set", f"topics.{topic}={name}"]
        printed = CliRunner().invoke(app, [*words, "acls", "--principal", "User:x", "--role", role.value])
        assert printed.exit_code == 0, printed.output
        return granted_by(printed.output.splitlines())

    def add_group(self) -> str:
        """Return the name of a consumer group that has committed nothing."""
        return f"{self.group}-{next(self._numbers)}"

    def add_user(self, *rights: Right) -> str:
        """Add a user with these rights; return its name."""
        user = f"{self.group}-{next(self._numbers)}"
        self.kafka.add_user(user)
        self.kafka.allow(user, *rights)
        return user

    def start(self, user: str, words: str, **environment: str) -> RoleProcess:
        """Start a command as a user. Environment variables are given without their prefix."""
        client = self.kafka.scram(user)
        servers = {"KAFKA__BOOTSTRAP_SERVERS": client.pop("bootstrap.servers")}
        variables = servers | {"KAFKA__CLIENT": json.dumps(client)} | self._environment | environment
        process = RoleProcess(
            words.split(),
            {f"PURCHASE_STREAM_{name}": value for name, value in variables.items()},
            self.folder,
            self.folder / f"{user}.log",
        )
        self._processes.append(process)
        return process

    def run(self, user: str, words: str, **environment: str) -> tuple[int, str]:
        """Run a command as a user; return its exit code and output."""
        process = self.start(user, words, **environment)
        code = process.wait(90)
        assert code is not None, f"{words} does not end:\n{process.output()}"
        return code, process.output()

    @contextlib.contextmanager
    def running(self, role: User, user: str, **environment: str) -> Iterator[Running]:
        """Run a role as a user until the context is left."""
        port = free_port()
        ports = {f"HTTP__{_PORTS[role]}": str(port)}
        process = self.start(user, role.value, **ports, **environment)
        try:
            yield Running(user, process, port)
        finally:
            process.kill()

    def await_decided(self, role: Running) -> None:
        """Wait until the group has committed every event."""
        reader = LagReader(self._client, self.group, self.settings.topics.events)
        role.await_that(lambda: reader.read().lag_events == 0, "events are undecided")

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
