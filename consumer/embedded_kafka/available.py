"""Some Kafka to run the demo and the tests on, whatever this machine has."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOTSTRAP_VARIABLE: Final = "PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS"
_IMAGE: Final = "confluentinc/cp-kafka:7.6.0"
"""The image that testcontainers' Kafka starts by default."""
_PING_TIMEOUT_S: Final = 3
_CONTAINER_TIMEOUT_S: Final = 120


@contextlib.contextmanager
def available_kafka() -> Iterator[str]:
    """Yield the bootstrap servers of the first of these that there is.

    1. The Kafka that ``PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS`` names; nothing is started.
    2. A container, if a Docker daemon answers and testcontainers (extra ``docker``) is installed.
    3. An :class:`EmbeddedKafka` in a temporary folder.

    What was started is stopped, and its data removed, when the context is left or this process dies.

    Raises:
        StartupError: none could be started; the message says what to install.
    """
    configured = os.environ.get(BOOTSTRAP_VARIABLE)
    if configured:
        yield configured
    elif docker_answers():
        with _container() as servers:
            yield servers
    else:
        folder = Path(tempfile.mkdtemp(prefix="purchase-stream-kafka-"))
        with EmbeddedKafka(folder, remove_data=True) as kafka:
            yield kafka.bootstrap_servers


def docker_answers() -> bool:
    """Tell whether a container could be started: testcontainers is installed and the daemon is up."""
    if importlib.util.find_spec("testcontainers") is None or importlib.util.find_spec("docker") is None:
        return False
    with warnings.catch_warnings():
        # docker-py forgets its socket when nobody answers; collect it here, not as a riddle elsewhere.
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


@contextlib.contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - optional, slow to import

    container = (
        KafkaContainer(_IMAGE)
        .with_kraft()
        # One broker cannot hold the three replicas that transactions ask for by default.
        .with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .with_env("KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS", "5")
        .with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        .with_env("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000")
    )
    try:
        container.start(timeout=_CONTAINER_TIMEOUT_S)
    except Exception as error:
        container.stop()
        # Docker, its HTTP client and testcontainers each raise their own; all mean the same here.
        raise StartupError(
            f"Docker answers but could not start {_IMAGE}: {str(error).splitlines()[0]}; "
            f"see `docker logs`, or set {BOOTSTRAP_VARIABLE} to a Kafka of yours"
        ) from error
    try:
        yield container.get_bootstrap_server()
    finally:
        container.stop()
