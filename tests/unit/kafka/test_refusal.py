"""Real log lines of librdkafka, and a handshake with the listener, distinguish a refusal from an outage."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from consumer.errors import StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.errors import ClientLog, missing_right, outage_reason, refusal_in
from consumer.kafka.producer import CommitRights
from tests.support.certificates import PASS_PHRASE, Authority

PLAIN = "FAIL [rdkafka#producer-1] [thrd:127.0.0.1:9/bootstrap]: 127.0.0.1:9/bootstrap: "
REFUSALS = {
    "SASL authentication error: Authentication failed during authentication due to invalid credentials with"
    " SASL mechanism SCRAM-SHA-256 (after 329ms in state AUTH_REQ)": "refuses the user name or the password",
    "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported"
    " mechanisms: SCRAM-SHA-256 (after 306ms in state AUTH_HANDSHAKE)": "sasl.mechanism, but SCRAM-SHA-256",
    "SASL SCRAM-SHA-256 mechanism handshake failed: Broker: Request not valid in current SASL state: broker's"
    " supported mechanisms:  (after 13ms in state AUTH_HANDSHAKE)": "does not use SASL",
    "SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker"
    " listener? (after 76ms in state SSL_HANDSHAKE)": "does not use TLS",
    "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could"
    " not be verified, verify that ssl.ca.location is correctly configured"
    " (after 36ms in state SSL_HANDSHAKE)": ("cannot be verified"),
    "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116"
    " (after 0ms in state APIVERSION_QUERY)": "requires a client certificate",
    "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42"
    " (after 145ms in state APIVERSION_QUERY)": "requires a client certificate",
    "Receive failed: error:0A000418:SSL routines::tlsv1 alert unknown ca: SSL alert number 48"
    " (after 0ms in state APIVERSION_QUERY)": "does not accept the client's certificate",
    "Receive failed: error:0A000416:SSL routines::ssl/tls alert certificate unknown: SSL alert number 46"
    " (after 80ms in state APIVERSION_QUERY)": "does not accept the client's certificate",
    "Receive failed: error:0A000415:SSL routines::ssl/tls alert certificate expired: SSL alert number 45"
    " (after 1ms in state APIVERSION_QUERY)": "client's certificate has expired",
    "Failed to resolve 'no-such-host.invalid:9092': Name or service not known (after 0ms in state CONNECT)": (
        "no-such-host.invalid:9092 is unknown"
    ),
    "Disconnected: connection closed by peer: receive 0 after POLLIN (after 3ms in state UP)": (
        "closes the connection at the first request"
    ),
}
OUTAGES = (
    "Connect to ipv4#127.0.0.1:19999 failed: Connection refused (after 0ms in state CONNECT)",
    "Disconnected: connection closed by peer: receive 0 after POLLIN (after 56165ms in state UP)",
    "MetadataRequest in flight timed out (after 8000ms, timeout #0)",
)


@pytest.mark.parametrize(("line", "reason"), REFUSALS.items())
def test_the_cause_is_read_from_the_clients_log_line(line: str, reason: str) -> None:
    """Every line was written by librdkafka 2 when a real broker refused it."""
    found = refusal_in(PLAIN + line)
    assert found is not None
    assert reason in found.reason
    assert found.is_lasting is not reason.startswith(("no-such-host", "closes"))


def test_raw_lines_are_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    """The client reports each failed connection as an error; a verb prints one line of its own instead."""
    with caplog.at_level(logging.DEBUG):
        ClientLog().log(logging.ERROR, "%s", PLAIN + OUTAGES[0])
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_the_topic_that_a_transaction_may_not_write_to_is_known() -> None:
    """The broker does not attempt to add the others, and the client reports these as well."""
    log = ClientLog()
    for topic, reason in (("a", "Topic authorization failed"), ("b", "Operation not attempted")):
        failed = f'Failed to add partition "{topic}" [0] to transaction: Broker: {reason}'
        log.log(logging.ERROR, "%s", f"ADDPARTS [thrd:main]: {failed}")
    assert log.refused_topic == "a"
    error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    missing = CommitRights(["a", "b"]).missing(error, {"logger": log, "sasl.username": "u"})
    assert missing is not None
    assert missing.startswith("User:u lacks the right Write on topic a (")


@pytest.mark.parametrize("line", OUTAGES)
def test_an_outage_is_not_a_refusal(line: str) -> None:
    """A broker that is down, or goes down, does not refuse the client; it replaces an older refusal."""
    log = ClientLog()
    log.log(40, "%s", PLAIN + next(iter(REFUSALS)))
    assert log.refusal is not None
    assert log.server == "127.0.0.1:9"
    log.log(40, "%s", PLAIN + line)
    assert log.refusal is None


def test_a_vague_error_is_explained_by_the_log() -> None:
    """The client reports that all brokers are down; the line before it says why."""
    error = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    log = ClientLog()
    assert outage_reason(error, {"logger": log}).startswith("_ALL_BROKERS_DOWN")
    log.log(40, "%s", PLAIN + next(iter(REFUSALS)))
    assert "password" in outage_reason(error, {"logger": log})
    assert outage_reason(error, {}).startswith("_ALL_BROKERS_DOWN")


def test_a_missing_right_names_right_and_principal() -> None:
    """Other errors are none of these."""
    error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    said = missing_right(error, "Read on topic t", {"sasl.username": "alice"})
    assert said is not None
    assert said.startswith("User:alice lacks the right Read on topic t (TOPIC_AUTHORIZATION_FAILED)")
    assert missing_right(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), "Read on topic t", {}) is None


@contextmanager
def listener(context: ssl.SSLContext | None) -> Iterator[str]:
    """Run a listener that closes every connection after the first bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) if context else connection as peer:
                        peer.recv(100)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the clients trust."""
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.mark.parametrize(
    ("host", "days", "trusted", "reason"),
    [
        ("127.0.0.1", -1, "trusted", "has expired"),
        ("kafka.example.org", 1, "trusted", "is not for 127.0.0.1"),
        ("127.0.0.1", 1, "stranger", "is not trusted"),
    ],
)
def test_why_a_certificate_is_not_verified(
    authority: Authority, tmp_path: Path, host: str, days: int, trusted: str, reason: str
) -> None:
    """The client says only that it failed; we distinguish expiry, name and trust without waiting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer = authority if trusted == "trusted" else Authority(tmp_path, "stranger")
    context.load_cert_chain(*issuer.issue(f"broker{days}{host}", host=host, days=days))
    with listener(context) as server:
        config = {
            "bootstrap.servers": server,
            "security.protocol": "SSL",
            "ssl.ca.location": str(authority.certificate),
        }
        with pytest.raises(StartupError, match=reason):
            ClusterAdmin(config).cluster()


def test_a_tls_listener_is_told_to_a_plaintext_client(authority: Authority) -> None:
    """The client hears only that the connection is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("plain", host="127.0.0.1"))
    with listener(context) as server, pytest.raises(StartupError, match="listener uses TLS"):
        ClusterAdmin({"bootstrap.servers": server}, timeout_s=1).cluster()


def test_a_listener_that_closes_every_connection_may_come_back() -> None:
    """It may be a load balancer without brokers behind it: wait."""
    with listener(None) as server, pytest.raises(Unavailable, match="closes the connection"):
        ClusterAdmin({"bootstrap.servers": server}, timeout_s=1).cluster()


def test_an_unusable_file_is_named_with_its_path(authority: Authority, tmp_path: Path) -> None:
    """The client names only the setting."""
    certificate, key = authority.issue("client")
    _, other_key = authority.issue("other")
    secret_certificate, secret_key = authority.issue("secret", pass_phrase=PASS_PHRASE)
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    pair, secret_pair = (
        {"ssl.certificate.location": str(one), "ssl.key.location": str(two)}
        for one, two in ((certificate, key), (secret_certificate, secret_key))
    )
    for settings, said in (
        ({"ssl.ca.location": "/nowhere/ca.pem"}, "ssl.ca.location /nowhere/ca.pem: No such file"),
        ({"ssl.ca.location": str(rubbish)}, "rubbish.pem is not a PEM file"),
        (pair | {"ssl.certificate.location": "/nowhere/c.pem"}, "/nowhere/c.pem: No such file"),
        (pair | {"ssl.key.location": "/nowhere/c.key"}, "/nowhere/c.key: No such file"),
        (pair | {"ssl.key.location": str(other_key)}, "other.key does not belong to the certificate"),
        (secret_pair, "secret.key is encrypted, and the pass phrase in ssl.key.password is missing"),
        (secret_pair | {"ssl.key.password": "wrong"}, "in ssl.key.password is wrong"),
    ):
        with pytest.raises(StartupError) as raised:
            ClusterAdmin({"bootstrap.servers": "127.0.0.1:1", "security.protocol": "SSL", **settings})
        assert said in str(raised.value)
