"""Fixtures for every test that needs a real Kafka; nothing of it is imported or started for the others."""

from __future__ import annotations

import re
import secrets
import sys
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says more about what else the machine does than about us.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


class NewTopic(Protocol):
    """What the fixture ``topics`` gives."""

    def __call__(self, label: str = "topic", *, partitions: int = 1, **config: str) -> str:
        """Create a topic of the running test's own and return its name."""


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Forget where a test that ran a command has sent log lines: its captured stream is closed by then."""
    yield
    if "structlog" in sys.modules:
        sys.modules["structlog"].reset_defaults()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a Kafka that all tests share."""
    from consumer.embedded_kafka.available import available_kafka  # noqa: PLC0415 - only broker tests need it

    with available_kafka() as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture
def topics(kafka: str, request: pytest.FixtureRequest) -> Iterator[NewTopic]:
    """A function that creates topics with unique names; they go when the test ends.

    Keywords are topic settings, ``_`` for ``.``: ``topics("in", partitions=3, max_message_bytes="1000")``.
    """
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - only broker tests need it

    from consumer.kafka.admin import ClusterAdmin, TopicSpec  # noqa: PLC0415 - the same

    client_config: dict[str, Any] = {"bootstrap.servers": kafka}
    test = re.sub(r"[^A-Za-z0-9._-]", "-", request.node.name)[:80]
    names: list[str] = []

    def create(label: str = "topic", *, partitions: int = 1, **config: str) -> str:
        name = f"{test}.{label}.{secrets.token_hex(4)}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        ClusterAdmin(client_config).create_topics(
            [TopicSpec(name=name, partitions=partitions, config=settings)]
        )
        names.append(name)
        return name

    yield create
    if names:
        AdminClient(client_config).delete_topics(names)
