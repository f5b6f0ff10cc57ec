"""Each way to be refused is reported with its cause, as docs/refusals.md says, on a real, secured broker."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.errors import Condition, ServiceError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.kafka.consumer import EventConsumer
from consumer.runtime.readiness import Readiness
from consumer.settings import KafkaSettings, Settings
from tests.support.certificates import PASS_PHRASE, Authority
from tests.support.markdown_tables import rows
from tests.support.secured_kafka import SecuredKafka

pytestmark = pytest.mark.broker


class Row(NamedTuple):
    """A row of the table: a way to be refused, and what is said about it."""

    way: str
    verb: str
    sentence: str
    exit_code: str
    condition: str


TABLE: Final = [Row(*cells) for cells in rows("refusals.md", "way")]
ROWS: Final = [pytest.param(row, id=row.way) for row in TABLE]

ARGUMENTS: Final = {
    "produce": ["--count", "1"],
    "audit verify": ["--no-log"],
    "why": ["0:0"],
    "dlq show": ["0:0"],
    "dlq repair": ["--drop", "x"],
    "report --topic": ["--out", "report.html"],
}
"""What a verb needs beside its name."""


@pytest.fixture(scope="module")
def kafka(secured: SecuredKafka) -> SecuredKafka:
    """The secured broker, with the product's topics."""
    specs = [TopicSpec(name=name, partitions=1) for name in Settings().topics.model_dump().values()]
    ClusterAdmin({"bootstrap.servers": secured.broker.bootstrap_servers}, 30).create_topics(specs)
    return secured


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a broker that is away for 2 s, not 10 or 15."""
    connect = ClusterAdmin.__init__

    def connect_briefly(self: ClusterAdmin, config: dict[str, Any], timeout_s: float = 2.0) -> None:
        connect(self, config, min(timeout_s, 2.0))

    monkeypatch.setattr(ClusterAdmin, "__init__", connect_briefly)


def refused(client: dict[str, Any], verb: str, store: Path, folder: Path) -> tuple[str, int]:
    """Run a role or verb in this process; return its error message and exit code."""
    own = {key: value for key, value in client.items() if key != "bootstrap.servers"}
    settings = {
        "kafka.bootstrap_servers": client["bootstrap.servers"],
        "kafka.client": json.dumps(own),
        "model_store.path": store,
        "audit.path": folder / "log.jsonl",
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, [*overrides, *verb.split(), *ARGUMENTS.get(verb, [])])
    error = result.exception
    assert isinstance(error, ServiceError), f"{error!r} {result.output}"
    assert "\n" not in str(error)
    return str(error), error.exit_code


def _certificate(kafka: SecuredKafka, name: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a client with a certificate."""
    certificate, key = kafka.authority.issue(name, **changes)
    return kafka.tls("MTLS", ssl_certificate_location=str(certificate), ssl_key_location=str(key))


def _stranger(kafka: SecuredKafka) -> Authority:
    folder = kafka.authority.folder / "stranger"
    folder.mkdir(exist_ok=True)
    return Authority(folder, "stranger")


def _foreign(kafka: SecuredKafka) -> dict[str, Any]:
    certificate, key = _stranger(kafka).issue("foreign")
    return kafka.tls("MTLS", ssl_certificate_location=str(certificate), ssl_key_location=str(key))


def _mismatched(kafka: SecuredKafka) -> dict[str, Any]:
    _, key = kafka.authority.issue("another")
    return _certificate(kafka, "mismatched") | {"ssl.key.location": str(key)}


def _not_pem(kafka: SecuredKafka) -> dict[str, Any]:
    path = kafka.authority.folder / "not.pem"
    path.write_text("not a certificate")
    return kafka.tls(ssl_ca_location=str(path))


def _plain_listener(kafka: SecuredKafka) -> dict[str, str]:
    return {"bootstrap.servers": kafka.broker.bootstrap_servers}


def _without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


@contextlib.contextmanager
def _closing_listener() -> Iterator[dict[str, Any]]:
    """Listen, and close every connection after its first request, as a program of another protocol does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield {"bootstrap.servers": f"127.0.0.1:{listener.getsockname()[1]}"}
        listener.shutdown(socket.SHUT_RDWR)


Client = Callable[[SecuredKafka], dict[str, Any]]
CLOSING: Final = "a listener that closes every connection"
CLIENTS: Final[dict[str, Client]] = {
    "wrong password": lambda k: k.scram("nobody", "wrong"),
    "unknown user": lambda k: k.scram("stranger"),
    "another SASL mechanism": lambda k: k.scram("nobody") | {"sasl.mechanism": "PLAIN"},
    "no user name": lambda k: _without(k.scram("nobody"), "sasl.username"),
    "SASL, and the listener has none": lambda k: k.scram("nobody") | _plain_listener(k),
    "no SASL, and the listener requires it": lambda k: {
        "bootstrap.servers": k.broker.listener_address("SCRAM")
    },
    "no TLS, and the listener requires it": lambda k: {"bootstrap.servers": k.broker.listener_address("TLS")},
    "SASL without TLS, and the listener requires TLS": lambda k: (
        k.scram("nobody") | {"bootstrap.servers": k.broker.listener_address("MTLS")}
    ),
    "TLS, and the listener has none": lambda k: k.tls() | _plain_listener(k),
    "broker's certificate from an unknown authority": lambda k: k.tls(
        ssl_ca_location=str(_stranger(k).certificate)
    ),
    "no ssl.ca.location": lambda k: _without(k.tls(), "ssl.ca.location"),
    "broker's certificate expired": lambda k: k.tls("EXPIRED"),
    "broker's certificate for another name": lambda k: k.tls("OTHERNAME"),
    "no client certificate": lambda k: k.tls("MTLS"),
    "client certificate from an unknown authority": _foreign,
    "client certificate expired": lambda k: _certificate(k, "expired", days=-1),
    "authority's file missing": lambda k: k.tls(ssl_ca_location="/nowhere/ca.pem"),
    "authority's file not PEM": _not_pem,
    "client's key missing": lambda k: (
        _certificate(k, "keyless") | {"ssl.key.location": "/nowhere/client.key"}
    ),
    "client's key of another certificate": _mismatched,
    "pass phrase missing": lambda k: _certificate(k, "encrypted", pass_phrase=PASS_PHRASE),
    "pass phrase wrong": lambda k: (
        _certificate(k, "encrypted-too", pass_phrase=PASS_PHRASE) | {"ssl.key.password": "wrong"}
    ),
    "unknown host": lambda _: {"bootstrap.servers": "no-such-host.invalid:9092"},
    "nothing listens": lambda _: {"bootstrap.servers": "127.0.0.1:1"},
}


@contextlib.contextmanager
def client_of(way: str, kafka: SecuredKafka) -> Iterator[dict[str, Any]]:
    """Return the settings of a client that is refused in a way."""
    if way == CLOSING:
        with _closing_listener() as client:
            yield client
    else:
        yield CLIENTS[way](kafka)


def test_every_way_is_documented_and_tried() -> None:
    """The table and this file have the same ways, at least 25."""
    assert [row.way for row in TABLE] == [*CLIENTS, CLOSING]
    assert len(TABLE) >= 25


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("row", ROWS)
def test_a_refused_connection_is_reported_with_its_cause(
    kafka: SecuredKafka, trained_store: Path, tmp_path: Path, row: Row
) -> None:
    """Exit code 78 if somebody has to correct something, 75 if waiting may help."""
    with client_of(row.way, kafka) as client:
        said, code = refused(client, row.verb, trained_store, tmp_path)
    assert row.sentence in said
    assert code == int(row.exit_code)


@pytest.mark.faults
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("verb", sorted({row.verb for row in TABLE}))
@pytest.mark.parametrize("row", ROWS)
def test_every_verb_reports_every_cause(
    kafka: SecuredKafka, trained_store: Path, tmp_path: Path, row: Row, verb: str
) -> None:
    """The sentence and the exit code do not depend on the verb."""
    with client_of(row.way, kafka) as client:
        said, code = refused(client, verb, trained_store, tmp_path)
    assert row.sentence in said
    assert code == int(row.exit_code)


RUNNING: Final = [pytest.param(row, id=row.way) for row in TABLE if row.condition]


@pytest.mark.parametrize("row", RUNNING)
def test_a_running_scorer_that_is_refused_is_not_ready(kafka: SecuredKafka, row: Row) -> None:
    """Its consumer waits, and says why; the ambiguous causes are examined only at the start."""
    readiness = Readiness(time.time)
    with client_of(row.way, kafka) as client:
        servers = client.pop("bootstrap.servers")
        settings = KafkaSettings(bootstrap_servers=servers, client=client)
        consumer = EventConsumer(client_config.consumer(settings), "engagement-events", readiness)
        consumer.open()
        deadline_s = time.monotonic() + 30
        while Condition.BROKER not in readiness.active():
            assert time.monotonic() < deadline_s, readiness.active()
            consumer.poll(1, 0, 0.1)
        consumer.close()
    assert [condition.value for condition in readiness.active() if condition != Condition.STARTING] == [
        row.condition
    ]
