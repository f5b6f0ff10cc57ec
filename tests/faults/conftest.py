"""Fixtures of the fault suite: brokers, a service on them, and the table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.fault_table import FILE, FaultTable, Row

_TABLE: Final = pytest.StashKey[FaultTable]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the table."""
    config.stash[_TABLE] = FaultTable()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, and write it to a file."""
    table = config.stash[_TABLE]
    if table.rows:
        terminalreporter.section("faults")
        terminalreporter.write(table.markdown())
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(table.markdown(), encoding="utf-8")


@pytest.fixture
def holds(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that adds a verdict to the table and asserts that the promise holds."""

    def check(fault: str, injected: str, verdict: Any, recoveries_s: Sequence[float] = ()) -> None:
        request.config.stash[_TABLE].rows.append(Row(fault, injected, verdict, recoveries_s))
        assert verdict.holds, "\n".join(verdict.lines())

    return check


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with a champion."""
    from model_store.store import ModelStore  # noqa: PLC0415 - nothing is imported for other tests
    from model_store.synthetic import generate_students  # noqa: PLC0415
    from model_store.training import train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("models")
    models = ModelStore(folder, "purchase")
    models.promote(models.add(train(generate_students(3000, seed=1))))
    return folder


@dataclass(frozen=True)
class Broker:
    """A Kafka that can be reached directly or through a proxy.

    Attributes:
        kafka: Its nodes, which can be stopped and started.
        proxy: The proxy before node 1.
        direct: The bootstrap servers past the proxy.
        proxied: The bootstrap server behind the proxy.
    """

    kafka: Any
    proxy: Any
    direct: str
    proxied: str


def _direct_servers(kafka: Any) -> str:
    # The listener between brokers also serves clients, and no proxy is ever advertised on it.
    return ",".join(f"127.0.0.1:{node.internal_port}" for node in kafka._nodes.values())


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker, with a proxy on the side."""
    from consumer.embedded_kafka.broker import EmbeddedKafka  # noqa: PLC0415
    from tests.faults.proxy import KafkaProxy  # noqa: PLC0415

    kafka = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), remove_data=True)
    with KafkaProxy(kafka.client_address(1)) as proxy:
        kafka.advertise(1, proxy.address)
        with kafka:
            yield Broker(kafka, proxy, _direct_servers(kafka), proxy.address)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three brokers: three replicas of everything, two of them in sync."""
    from consumer.embedded_kafka.broker import EmbeddedKafka  # noqa: PLC0415

    with EmbeddedKafka(tmp_path_factory.mktemp("cluster"), brokers=3, heap_mb=256, remove_data=True) as kafka:
        yield kafka


@pytest.fixture
def deploy(broker: Broker, store: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that deploys a ``Service``, by default on the single broker, past its proxy."""
    from tests.faults.service import Service  # noqa: PLC0415

    with ExitStack() as services:

        def make(servers: str = broker.direct, **choices: Any) -> Any:
            return services.enter_context(Service(servers, tmp_path, store, **choices))

        yield make
