"""Provide a Kafka for the demo and the tests with whatever this machine has."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from consumer.embedded_kafka.broker import EmbeddedKafka, free_port
from consumer.embedded_kafka.jars import kafka_version
from consumer.errors import Unavailable
from consumer.kafka.admin import ClusterAdmin

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)

BOOTSTRAP_VARIABLE: Final = "PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS"
_PING_TIMEOUT_S: Final = 3
_CONTAINER_TIMEOUT_S: Final = 120
_CONTAINER_PORT: Final = 9092


@contextlib.contextmanager
def available_kafka() -> Iterator[str]:
    """Yield the bootstrap servers of the first of these that is available.

    1. The Kafka that ``PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS`` names. Nothing is started.
    2. A container, if a Docker daemon answers, testcontainers (extra ``docker``) is installed, and the
       image can be started.
    3. An :class:`EmbeddedKafka` in a temporary folder.

    What was started is stopped and its data removed when the context exits or this process dies.

    Raises:
        StartupError: None could be started; the message says what to install.
    """
    configured = os.environ.get(BOOTSTRAP_VARIABLE)
    if configured:
        yield configured
        return
    with contextlib.ExitStack() as stack:
        servers = _start_container(stack) if docker_answers() else None
        if servers is None:
            folder = Path(tempfile.mkdtemp(prefix="purchase-stream-kafka-"))
            servers = stack.enter_context(EmbeddedKafka(folder, remove_data=True)).bootstrap_servers
        yield servers


def docker_answers() -> bool:
    """Return whether testcontainers is installed and a Docker daemon answers."""
    if importlib.util.find_spec("testcontainers") is None or importlib.util.find_spec("docker") is None:
        return False
    with warnings.catch_warnings():
        # docker-py leaks its socket if nobody answers. Collect it here, where the warning is expected.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _ping_docker()
        gc.collect()
    return answers


def _ping_docker() -> bool:
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - optional, slow to import; has no stubs

    try:
        client = docker.from_env(timeout=_PING_TIMEOUT_S)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def _start_container(stack: contextlib.ExitStack) -> str | None:
    """Start a container with the Kafka version of the jars; return ``None`` if Docker refuses.

    Not testcontainers' KafkaContainer: it needs the scripts of Confluent's images, whose versions are not
    Kafka's. The host port is chosen before the start because the broker advertises it.
    """
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - optional, slow to import

    image, port = f"apache/kafka:{kafka_version()}", free_port()
    container = DockerContainer(image)
    servers = f"{container.get_docker_client().host()}:{port}"
    container.with_bind_ports(_CONTAINER_PORT, port).with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS=f"PLAINTEXT://:{_CONTAINER_PORT},CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{servers}",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
        # These topics have three replicas by default, which one broker cannot hold.
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="5",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="5",
    )
    stack.callback(container.stop)
    try:
        container.start()
        _await_broker(servers)
    except Exception as error:  # noqa: BLE001 - Docker, its HTTP client and testcontainers raise their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        log.warning("Docker answers but could not start Kafka", image=image, reason=reason)
        return None
    return servers


def _await_broker(servers: str) -> None:
    admin = ClusterAdmin({"bootstrap.servers": servers}, timeout_s=1.0)
    deadline_s = time.monotonic() + _CONTAINER_TIMEOUT_S
    while True:
        try:
            admin.cluster()
        except Unavailable:
            if time.monotonic() > deadline_s:
                raise
        else:
            return
