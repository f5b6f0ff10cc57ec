"""The demo's environment: its own topics, model and settings, and the running roles."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.embedded_kafka.broker import LOOPBACK, free_port
from consumer.errors import ServiceError, StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.kafka.client_config import SESSION_TIMEOUT_MS
from consumer.runtime.supervisor import Supervisor, roles
from consumer.settings import Settings
from model_store.synthetic import generate_students
from model_store.training import train

PARTITIONS: Final = 3
TRAINING_STUDENTS: Final = 5_000
_HTTP_TIMEOUT_S: Final = 2.0
_GROUP_TIMEOUT_S: Final = 2 * SESSION_TIMEOUT_MS / 1000
_GROUP_POLL_S: Final = 0.5
_AUDIT_LINES: Final = re.compile(r"^purchase_stream_audit_lines_total (\S+)$", re.MULTILINE)


def overrides(folder: Path, bootstrap_servers: str, workers: int) -> list[str]:
    """Return the settings of one demo as ``section.key=value``; every topic and group has a unique name.

    Args:
        folder: The folder of the model and the audit log.
        bootstrap_servers: The Kafka cluster.
        workers: The number of scorers, each of which needs a port.
    """
    name = f"demo-{secrets.token_hex(6)}"
    return [
        f"kafka.bootstrap_servers={bootstrap_servers}",
        f"kafka.group_id=purchase-stream-{name}",
        f"topics.events={name}.engagement-events",
        f"topics.predictions={name}.purchase-predictions",
        f"topics.dead_letters={name}.engagement-events.dlq",
        f"topics.outcomes={name}.purchase-outcomes",
        f"topics.control={name}.purchase-stream-control",
        f"model_store.path={folder / 'models'}",
        f"audit.path={folder / 'prediction_log.jsonl'}",
        f"http.monitor_port={free_port()}",
        f"http.score_port={_free_ports(workers)}",
    ]


def _free_ports(count: int) -> int:
    """Return the first of ``count`` consecutive free ports."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server((LOOPBACK, port)))
            except OSError:
                continue
        return first


@dataclass(frozen=True, slots=True)
class DemoEnvironment:
    """A running stream.

    Attributes:
        settings: The settings of all roles.
        supervisor: Runs the roles.
        log_path: The file with the roles' logs.
        workers: The number of scorers.
    """

    settings: Settings
    supervisor: Supervisor
    log_path: Path
    workers: int

    def urls(self) -> dict[str, str]:
        """Return the addresses of the running roles, by description."""
        http = self.settings.http
        scorers = {
            f"metrics of scorer {worker}": f"http://{http.host}:{http.score_port + worker}/metrics"
            for worker in range(self.workers)
        }
        return {"monitor": f"http://{http.host}:{http.monitor_port}/", **scorers}

    def is_ready(self) -> bool:
        """Return whether every role is ready."""
        bases = [url.rsplit("/", 1)[0] for url in self.urls().values()]
        return all(_get(f"{base}/health/ready") is not None for base in bases)

    def audit_lines(self) -> int:
        """Return the number of audit lines that the monitor reports."""
        match = _AUDIT_LINES.search(_get(f"{self.urls()['monitor']}metrics") or "")
        return int(float(match[1])) if match else 0


def empty_folder(folder: Path) -> None:
    """Recreate the demo's folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def train_model(settings: Settings) -> str:
    """Train on generated students, promote, and return the version."""
    store = settings.model_store.open()
    version = store.add(train(generate_students(TRAINING_STUDENTS)))
    store.promote(version, reason="demo", actor="demo")
    return version


@contextlib.contextmanager
def start_environment(
    settings: Settings, options: Sequence[str], folder: Path, workers: int, *, shared_kafka: bool
) -> Iterator[DemoEnvironment]:
    """Create the topics and start the roles; on exit stop the roles and delete the topics and the group.

    Args:
        settings: Settings that include :func:`overrides`.
        options: The same settings for the command lines of the roles.
        folder: The folder of the roles' log file.
        workers: The number of scorers.
        shared_kafka: Whether Kafka outlives the demo; if so, wait until the group can be deleted.

    Raises:
        StartupError: A topic cannot be created, or existed before.
        Unavailable: The broker is down.
    """
    admin = ClusterAdmin(client_config.common(settings.kafka))
    topics = list(settings.topics.model_dump().values())
    if existing := admin.describe_topics(topics):
        raise StartupError(f"the demo does not touch existing topics: {', '.join(existing)}; run it again")
    log_path = folder / "roles.log"
    try:
        admin.create_topics([TopicSpec(name=name, partitions=PARTITIONS) for name in topics])
        with log_path.open("w", encoding="utf-8") as log:
            supervisor = Supervisor(roles(workers, serve=False), options, log=log)
            try:
                supervisor.start()
                yield DemoEnvironment(settings, supervisor, log_path, workers)
            finally:
                supervisor.stop()
    finally:
        # The topics disappear with their broker.
        with contextlib.suppress(ServiceError):
            admin.delete_topics(list(admin.describe_topics(topics)))
            if shared_kafka:
                _delete_group(admin, settings.kafka.group_id)


def _delete_group(admin: ClusterAdmin, group: str) -> None:
    """Delete the scorers' group once the sessions of its stopped static members have ended."""
    deadline_s = time.monotonic() + _GROUP_TIMEOUT_S
    while admin.describe_group(group).members and time.monotonic() < deadline_s:
        time.sleep(_GROUP_POLL_S)
    admin.delete_group(group)


def _get(url: str) -> str | None:
    """Return the body of a 200 answer, else ``None``."""
    try:
        with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S) as answer:  # noqa: S310 - a loopback address
            return str(answer.read(), "utf-8")
    except OSError:
        return None
