"""Each refusal names its cause, on a real broker with passwords, TLS and an authorizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.errors import ServiceError
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.ops.acls import User, grants
from consumer.settings import Settings
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train
from tests.support.certificates import PASS_PHRASE, Authority
from tests.support.secured_kafka import SecuredKafka, secured_kafka

pytestmark = pytest.mark.broker

WAIT, CORRECT = 75, 78


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """The broker, with the product's topics and a user that has no right."""
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        names = Settings().topics.model_dump().values()
        specs = [TopicSpec(name=name, partitions=1) for name in names]
        ClusterAdmin({"bootstrap.servers": kafka.broker.bootstrap_servers}, 30).create_topics(specs)
        kafka.add_user("nobody")
        yield kafka


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with a champion."""
    folder = tmp_path_factory.mktemp("models")
    models = ModelStore(folder, "purchase")
    models.promote(models.add(train(generate_students(2_000))), reason="test", actor="test")
    return folder


def refused(client: dict[str, Any], words: str, **options: Any) -> tuple[str, int]:
    """Run a verb in this process; return what it says and its exit code."""
    own = {key: value for key, value in client.items() if key != "bootstrap.servers"}
    arguments = [
        "--set", f"kafka.bootstrap_servers={client['bootstrap.servers']}",
        "--set", f"kafka.client={json.dumps(own)}",
    ]  # fmt: skip
    for key, value in options.items():
        arguments += ["--set", f"{key.replace('__', '.')}={value}"]
    result = CliRunner().invoke(app, [*arguments, *words.split()])
    error = result.exception
    assert isinstance(error, ServiceError), f"{error!r} {result.output}"
    assert "\n" not in str(error)
    return str(error), error.exit_code


Client = Callable[[SecuredKafka], dict[str, Any]]


def _certificate(kafka: SecuredKafka, **changes: Any) -> dict[str, Any]:
    """Return the settings of a client with a certificate."""
    name = f"client-{abs(hash(str(changes)))}"
    certificate, key = kafka.authority.issue(name, **changes)
    return kafka.tls("MTLS", ssl_certificate_location=str(certificate), ssl_key_location=str(key))


def _stranger(kafka: SecuredKafka) -> Authority:
    folder = kafka.authority.folder / "stranger"
    folder.mkdir(exist_ok=True)
    return Authority(folder, "stranger")


def _foreign(kafka: SecuredKafka) -> dict[str, Any]:
    certificate, key = _stranger(kafka).issue("foreign")
    return kafka.tls("MTLS", ssl_certificate_location=str(certificate), ssl_key_location=str(key))


def _plain_listener(kafka: SecuredKafka) -> dict[str, str]:
    return {"bootstrap.servers": kafka.broker.bootstrap_servers}


def _without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


HANDSHAKES: Final[dict[str, tuple[Client, str, int]]] = {
    "wrong password": (
        lambda k: k.scram("nobody", "wrong"),
        "refuses the user name or the password",
        CORRECT,
    ),
    "unknown user": (
        lambda k: k.scram("stranger"),
        "refuses the user name or the password",
        CORRECT,
    ),
    "other SASL mechanism": (
        lambda k: k.scram("nobody") | {"sasl.mechanism": "PLAIN"},
        "does not accept this sasl.mechanism, but SCRAM-SHA-256",
        CORRECT,
    ),
    "no user name": (
        lambda k: _without(k.scram("nobody"), "sasl.username"),
        "sasl.username and sasl.password must be set",
        CORRECT,
    ),
    "SASL to a listener without": (
        lambda k: k.scram("nobody") | _plain_listener(k),
        "the broker's listener does not use SASL",
        CORRECT,
    ),
    "no SASL to a listener that requires it": (
        lambda k: {"bootstrap.servers": k.broker.listener_address("SCRAM")},
        "the broker's listener requires SASL",
        CORRECT,
    ),
    "plaintext to TLS": (
        lambda k: {"bootstrap.servers": k.broker.listener_address("TLS")},
        "the broker's listener uses TLS",
        CORRECT,
    ),
    "SASL without TLS to TLS": (
        lambda k: k.scram("nobody") | {"bootstrap.servers": k.broker.listener_address("MTLS")},
        "the broker's listener uses TLS",
        CORRECT,
    ),
    "TLS to plaintext": (
        lambda k: k.tls() | _plain_listener(k),
        "the broker's listener does not use TLS",
        CORRECT,
    ),
    "another authority": (
        lambda k: k.tls(ssl_ca_location=str(_stranger(k).certificate)),
        "the broker's certificate is not trusted",
        CORRECT,
    ),
    "no authority": (
        lambda k: _without(k.tls(), "ssl.ca.location"),
        "the broker's certificate is not trusted",
        CORRECT,
    ),
    "broker's certificate expired": (
        lambda k: k.tls("EXPIRED"),
        "the broker's certificate has expired",
        CORRECT,
    ),
    "broker's certificate for another name": (
        lambda k: k.tls("OTHERNAME"),
        "the broker's certificate is not for 127.0.0.1",
        CORRECT,
    ),
    "authority's file missing": (
        lambda k: k.tls(ssl_ca_location="/nowhere/ca.pem"),
        "ssl.ca.location /nowhere/ca.pem: No such file",
        CORRECT,
    ),
    "no client certificate": (
        lambda k: k.tls("MTLS"),
        "the broker requires a client certificate",
        CORRECT,
    ),
    "client certificate of another authority": (
        _foreign,
        "client certificate from an authority that it trusts",
        CORRECT,
    ),
    "client certificate expired": (
        lambda k: _certificate(k, days=-1),
        "not trusted or has expired",
        CORRECT,
    ),
    "client's key missing": (
        lambda k: _certificate(k) | {"ssl.key.location": "/nowhere/client.key"},
        "ssl.key.location /nowhere/client.key: No such file",
        CORRECT,
    ),
    "pass phrase missing": (
        lambda k: _certificate(k, pass_phrase=PASS_PHRASE),
        "the pass phrase in ssl.key.password is missing",
        CORRECT,
    ),
    "pass phrase wrong": (
        lambda k: _certificate(k, pass_phrase=PASS_PHRASE) | {"ssl.key.password": "wrong"},
        "the pass phrase in ssl.key.password is wrong",
        CORRECT,
    ),
    "unknown host": (
        lambda _: {"bootstrap.servers": "no-such-host.invalid:9092"},
        "the host of no-such-host.invalid:9092 is unknown",
        WAIT,
    ),
    "nothing listens": (
        lambda _: {"bootstrap.servers": "127.0.0.1:1"},
        "no Kafka answers at 127.0.0.1:1",
        WAIT,
    ),
}


@pytest.mark.parametrize("way", HANDSHAKES)
def test_a_refused_handshake_is_told_with_its_reason(secured: SecuredKafka, way: str) -> None:
    """Each with the exit code: 78 if somebody has to correct something, 75 if waiting may help."""
    client, sentence, exit_code = HANDSHAKES[way]
    said, code = refused(client(secured), "dlq list")
    assert sentence in said
    assert code == exit_code


VERBS = (
    "score",
    "monitor",
    "serve",
    "topics create",
    "produce --count 1",
    "audit verify --no-log",
    "why 0:0",
    "dlq list",
    "dlq replay",
    "report --topic --out x.html",
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_a_wrong_password(
    secured: SecuredKafka, store: Path, tmp_path: Path, verb: str
) -> None:
    """And none waits for a timeout: the broker has answered."""
    options = {"model_store__path": store, "audit__path": tmp_path / "log.jsonl"}
    said, code = refused(secured.scram("nobody", "wrong"), verb, **options)
    assert "refuses the user name or the password" in said
    assert code == CORRECT


RIGHTS: Final[dict[str, tuple[str, User, tuple[str, str], str]]] = {
    "monitor": ("monitor", User.MONITOR, ("topic", "purchase-predictions"), "on topic purchase-predictions"),
    "topics create": (
        "topics create",
        User.TOPICS_CREATE,
        ("topic", "purchase-outcomes"),
        "Create on topic purchase-outcomes",
    ),
    "audit verify": (
        "audit verify --no-log",
        User.AUDIT_VERIFY,
        ("topic", "engagement-events.dlq"),
        "on topic engagement-events.dlq",
    ),
}


@pytest.mark.parametrize("case", RIGHTS)
def test_a_missing_right_is_named(secured: SecuredKafka, store: Path, tmp_path: Path, case: str) -> None:
    """The user has all rights that `acls` prints for the verb but those on one resource."""
    verb, user, missing, sentence = RIGHTS[case]
    name = case.replace(", ", "-").replace(" ", "-")
    secured.add_user(name)
    secured.allow(
        name,
        *[
            (grant.resource, grant.name + "*" * grant.prefixed, grant.operation)
            for grant in grants(Settings(), user)
            if (grant.resource, grant.name) != missing
        ],
    )
    options = {
        "model_store__path": store,
        "audit__path": tmp_path / "log.jsonl",
        "http__score_port": 0,
        "http__monitor_port": 0,
        "http__serve_port": 0,
    }
    said, code = refused(secured.scram(name), verb, **options)
    assert f"User:{name} lacks the right" in said
    assert sentence in said
    assert code == CORRECT
