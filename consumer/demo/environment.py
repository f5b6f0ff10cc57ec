"""What the demo runs on: topics, a model, settings of its own and the roles."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from consumer.embedded_kafka.properties import LOOPBACK, free_port
from consumer.kafka import client_config
from consumer.kafka.admin import TopicSpec, create_topics
from consumer.runtime.supervisor import Supervisor, roles
from consumer.settings import Settings
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train

PARTITIONS: Final = 3
TRAINING_STUDENTS: Final = 5_000
_HTTP_TIMEOUT_S: Final = 2.0
_DELETE_TIMEOUT_S: Final = 10.0
_AUDIT_LINES: Final = re.compile(r"^purchase_stream_audit_lines_total (\S+)$", re.MULTILINE)


def overrides(folder: Path, bootstrap_servers: str, workers: int) -> list[str]:
    """Return the settings of one demo, as ``section.key=value``: nothing it shares with anything else.

    Args:
        folder: for the model and the audit log.
        bootstrap_servers: the Kafka.
        workers: how many neighbouring ports the scorers need.
    """
    name = f"demo-{secrets.token_hex(3)}"
    return [
        f"kafka.bootstrap_servers={bootstrap_servers}",
        f"kafka.group_id=purchase-stream-{name}",
        f"topics.events={name}.engagement-events",
        f"topics.predictions={name}.purchase-predictions",
        f"topics.dead_letters={name}.engagement-events.dlq",
        f"topics.outcomes={name}.purchase-outcomes",
        f"model_store.path={folder / 'models'}",
        f"audit.path={folder / 'prediction_log.jsonl'}",
        f"http.monitor_port={free_port()}",
        f"http.score_port={_free_ports(workers)}",
    ]


def _free_ports(count: int) -> int:
    """Return the first of so many neighbouring ports that are free."""
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
    """A stream that runs.

    Attributes:
        settings: its settings.
        supervisor: its roles.
        log_path: what the roles say.
        workers: scorers.
    """

    settings: Settings
    supervisor: Supervisor
    log_path: Path
    workers: int

    def urls(self) -> dict[str, str]:
        """Return the addresses to look at, by what is to be seen there."""
        http = self.settings.http
        scorers = {
            f"metrics of scorer {worker}": f"http://{http.host}:{http.score_port + worker}/metrics"
            for worker in range(self.workers)
        }
        return {"monitor": f"http://{http.host}:{http.monitor_port}/", **scorers}

    def is_ready(self) -> bool:
        """Tell whether every role says so."""
        bases = [url.rsplit("/", 1)[0] for url in self.urls().values()]
        return all(_get(f"{base}/health/ready") is not None for base in bases)

    def audit_lines(self) -> int:
        """Return how many lines the monitor has written."""
        found = _AUDIT_LINES.search(_get(f"{self.urls()['monitor']}metrics") or "")
        return int(float(found[1])) if found else 0


def empty_folder(folder: Path) -> None:
    """Recreate the demo's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def train_model(settings: Settings) -> str:
    """Train on generated students, promote, and return the version."""
    store = ModelStore(settings.model_store.path, settings.model_store.model)
    version = store.add(train(generate_students(TRAINING_STUDENTS)))
    store.promote(version, reason="demo", actor="demo")
    return version


@contextlib.contextmanager
def start_environment(
    settings: Settings, options: Sequence[str], folder: Path, workers: int
) -> Iterator[DemoEnvironment]:
    """Create the topics and start the roles; stop the roles in order and delete the topics in the end.

    Args:
        settings: with :func:`overrides` in them.
        options: the same for the children's command lines.
        folder: for what the roles say.
        workers: scorers.
    """
    client = client_config.common(settings.kafka)
    topics = list(settings.topics.model_dump().values())
    create_topics(client, [TopicSpec(name=name, partitions=PARTITIONS) for name in topics])
    log_path = folder / "roles.log"
    try:
        with log_path.open("w", encoding="utf-8") as log:
            supervisor = Supervisor(roles(workers, serve=False), options, log=log)
            try:
                supervisor.start()
                yield DemoEnvironment(settings, supervisor, log_path, workers)
            finally:
                supervisor.stop()
    finally:
        admin = AdminClient(client, logger=logging.getLogger("librdkafka"))
        for deleted in admin.delete_topics(topics).values():
            # A broker that is gone has taken its topics with it.
            with contextlib.suppress(KafkaException):
                deleted.result(_DELETE_TIMEOUT_S)


def _get(url: str) -> str | None:
    """Return the answer, or ``None`` where it is no 200."""
    try:
        with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S) as answer:  # noqa: S310 - our own address
            return str(answer.read(), "utf-8")
    except OSError:
        return None
