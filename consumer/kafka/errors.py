"""Translate librdkafka errors into what to do next, and find out why a broker refuses a client.

librdkafka marks an error as ``fatal``, ``txn_requires_abort`` or ``retriable`` (its INTRODUCTION.md,
"Transactional producer API"). An error without any mark has to be treated like a fatal one.

If a client is refused before the end of the handshake, its calls only report a timeout, or that all brokers
are down. The cause is in its log lines, which :class:`ClientLog` receives. A missing right is different: the
broker answers, with an error code of its own.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")


class Policy(Enum):
    """What to do after an error of a transactional call."""

    RETRY_CALL = "make the same call again"
    ABORT = "abort the transaction, then retry the batch"
    RECREATE_PRODUCER = "replace the producer; the transaction may or may not have been committed"


_OUTAGE_REASONS: Final = {
    # From the client itself: it could not reach a broker.
    KafkaError._TRANSPORT: "The connection to a broker broke; the client reconnects.",
    KafkaError._ALL_BROKERS_DOWN: "No broker can be reached at the moment.",
    KafkaError._RESOLVE: "A broker's host name cannot be resolved; name servers fail for a while, too.",
    KafkaError._TIMED_OUT: "A broker did not answer within socket.timeout.ms, or the call's own timeout.",
    KafkaError._TIMED_OUT_QUEUE: "The request waited in the client for a connection until it expired.",
    KafkaError._WAIT_COORD: "The coordinator of the group or transaction is not known yet.",
    KafkaError._MSG_TIMED_OUT: "A record was not acknowledged within message.timeout.ms.",
    # From a broker: it is starting, stopping, or passing its work on to another one.
    KafkaError.REQUEST_TIMED_OUT: "The leader did not hear from enough replicas in time.",
    KafkaError.BROKER_NOT_AVAILABLE: "The broker that the request was meant for is not in the cluster now.",
    KafkaError.LEADER_NOT_AVAILABLE: "The partition is between two leaders.",
    KafkaError.NOT_LEADER_FOR_PARTITION: "Another broker leads the partition now; the client's view is old.",
    KafkaError.COORDINATOR_NOT_AVAILABLE: "The cluster has not placed the coordinator yet.",
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: "The coordinator is still loading its state after a move.",
    KafkaError.NOT_COORDINATOR: "Another broker is the coordinator now; the client's view is old.",
    KafkaError.NOT_ENOUGH_REPLICAS: "Fewer replicas than min.insync.replicas; nothing was written.",
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: "The same, noticed after the leader had written.",
    KafkaError.NETWORK_EXCEPTION: "The broker lost a connection while it served the request.",
}
"""The error codes of an outage, and why each goes away without anybody's help."""


def kafka_error(exception: KafkaException) -> KafkaError:
    """Return the error inside an exception."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)  # noqa: S101 - the client's documented contract
    return error


def policy_of(error: KafkaError) -> Policy:
    """Return what to do after an error of a transactional call."""
    if error.fatal():
        return Policy.RECREATE_PRODUCER
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Policy.ABORT  # The client itself refused the record; the transaction is still good.
    if error.txn_requires_abort():
        return Policy.ABORT
    if error.retriable():
        return Policy.RETRY_CALL
    return Policy.RECREATE_PRODUCER


def is_outage(error: KafkaError) -> bool:
    """Return whether the broker, or the network on the way to it, is away for now."""
    return error.code() in _OUTAGE_REASONS


def format_error(error: KafkaError) -> str:
    """Return an error as one line, such as ``_TRANSPORT: broker transport failure``."""
    return f"{error.name()}: {error.str()}"


def unwrap_callback_errors(function: Callable[..., T], *arguments: Any) -> T:
    """Call a client function that may run callbacks, and raise the client's own error if it fails.

    A client call that meets a fatal error may run a callback before it returns. CPython then reports the
    pending error as a SystemError of the callback, with the client's error as its ``__cause__``.

    Raises:
        KafkaException: The client's own error.
    """
    try:
        return function(*arguments)
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


_LOGGER: Final = logging.getLogger("librdkafka")
_PROBE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client cannot use a broker.

    Attributes:
        reason: What is wrong and what to do, one line.
        is_lasting: Whether only a person can help; otherwise waiting may.
    """

    reason: str
    is_lasting: bool = True


_UNVERIFIED: Final = Refusal(
    "the broker's certificate cannot be verified: it is not trusted, has expired, or is for another name;"
    " check ssl.ca.location and the certificate"
)
_DROPPED: Final = Refusal(
    "the broker closes the connection at the first request; check security.protocol and the port",
    is_lasting=False,
)

_PATTERNS: Final = (
    (
        r"mechanism handshake failed: .*not valid in current SASL state",
        Refusal("the broker's listener does not use SASL; correct security.protocol or the port"),
    ),
    (
        r"mechanism handshake failed: .*supported mechanisms: (?P<detail>.*?)(?: \(after|$)",
        Refusal("the broker does not accept this sasl.mechanism, but {detail}; correct kafka.client"),
    ),
    (
        r"SASL authentication error|SASL \S+ authentication failed|ServerSignature mismatch",
        Refusal("the broker refuses the user name or the password; correct sasl.username and sasl.password"),
    ),
    (
        r"might require SASL authentication",
        Refusal("the broker requires SASL; correct security.protocol in kafka.client"),
    ),
    (
        r"connecting to a PLAINTEXT broker listener\?",
        Refusal("the broker's listener does not use TLS; correct security.protocol or the port"),
    ),
    (
        r"alert certificate required|alert bad certificate|alert handshake failure",
        Refusal(
            "the broker requires a client certificate from an authority that it trusts;"
            " check ssl.certificate.location and ssl.key.location"
        ),
    ),
    (
        r"alert certificate expired",
        Refusal("the client's certificate has expired; renew the file in ssl.certificate.location"),
    ),
    (
        r"alert unknown ca|alert certificate unknown",
        Refusal(
            "the broker does not accept the client's certificate: it is not trusted or has expired;"
            " check ssl.certificate.location"
        ),
    ),
    (r"certificate verify failed", _UNVERIFIED),
    (
        r"Failed to resolve '(?P<detail>[^']*)'",
        Refusal("the host of {detail} is unknown; check kafka.bootstrap_servers", is_lasting=False),
    ),
    (r"Disconnected.*(?: in state APIVERSION_QUERY|after \d{1,3}ms in state UP)", _DROPPED),
)
"""The log lines of librdkafka that report a refusal, the more specific ones first."""

_RIGHTS_CODES: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)

_REFUSED_TOPIC: Final = re.compile(r'Failed to add partition "([^"]*)".*Topic authorization failed')

_FILES: Final = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location")


class ClientLog:
    """Receives the log lines of a client, passes them on, and keeps the cause of the latest failure.

    It is the ``logger`` in the configuration of a client, which calls :meth:`log`.
    """

    def __init__(self) -> None:
        self.refusal: Refusal | None = None
        """Why the latest connection failed, if the reason is known."""
        self.server: str | None = None
        """The ``host:port`` of that connection."""
        self.refused_topic: str | None = None
        """The topic that the latest transaction was not allowed to write to."""

    def log(self, _level: int, message: str, *arguments: object) -> None:
        """Pass a line on to the logger ``librdkafka``, for ``--debug``.

        The level of a line says little: the client reports every failed connection as an error. What matters
        of it is in the messages and in the conditions.
        """
        line = message % arguments if arguments else message
        _LOGGER.debug("%s", line)
        if found := _REFUSED_TOPIC.search(line):
            self.refused_topic = found[1]
        if line.startswith("FAIL"):
            # A failure that is not a refusal, such as a broker that is down, replaces an older refusal.
            self.refusal = refusal_in(line)
            found = re.search(r"(?:thrd:)(?:\w+://)?([^/\]]+)", line)
            self.server = found[1] if found else None


def refusal_in(line: str) -> Refusal | None:
    """Return the refusal that a log line of librdkafka reports, or ``None`` if it reports none.

    >>> refusal_in("sasl_plaintext://b:9092/1: SASL authentication error: Authentication failed").is_lasting
    True
    >>> refusal_in("127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused")
    """
    for pattern, refusal in _PATTERNS:
        if found := re.search(pattern, line):
            detail = found.groupdict().get("detail")
            return replace(refusal, reason=refusal.reason.format(detail=detail)) if detail else refusal
    return None


def missing_right(error: KafkaError, right: str, client_config: Mapping[str, Any]) -> str | None:
    """Explain which right is missing, or return ``None`` if the error has another cause.

    Args:
        error: The error.
        right: The right that the request needs, such as ``Read on topic events``.
        client_config: The client's settings.
    """
    if error.code() not in _RIGHTS_CODES:
        return None
    user = client_config.get("sasl.username")
    principal = f"User:{user}" if user else "the client's principal"
    return f"{principal} lacks the right {right} ({error.name()}); see: purchase-stream acls"


def outage_reason(error: KafkaError, client_config: Mapping[str, Any]) -> str:
    """Return why a running client cannot reach its brokers, as far as its error and its log lines say."""
    client_log = client_config.get("logger")
    refusal = refusal_in(error.str()) or (client_log.refusal if isinstance(client_log, ClientLog) else None)
    # A connection that is dropped is ambiguous: a broker that stops does the same.
    return format_error(error) if refusal is None or refusal is _DROPPED else refusal.reason


def explain_settings(message: str, client_config: Mapping[str, Any]) -> str:
    """Explain why the client refuses its settings. The client names the property, but not the file.

    Args:
        message: The client's message.
        client_config: The settings.
    """
    for key in _FILES:
        path = client_config.get(key)
        if f"{key} failed" not in message or path is None:
            continue
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            return f"{key} {path}: {error.strerror}"
        if key == "ssl.key.location":
            if "mismatch" in message:
                return f"{key} {path} does not belong to the certificate in ssl.certificate.location"
            if b"ENCRYPTED" in Path(path).read_bytes():
                given = "is wrong" if client_config.get("ssl.key.password") else "is missing"
                return f"{key} {path} is encrypted, and the pass phrase in ssl.key.password {given}"
        return f"{key} {path} is not a PEM file with what is needed"
    return message.rpartition("client: ")[2]


def examine(refusal: Refusal, server: str | None, client_config: Mapping[str, Any]) -> Refusal:
    """Find the exact reason of a refusal whose log line is ambiguous, by a handshake of our own.

    Args:
        refusal: The refusal.
        server: The ``host:port`` that refused.
        client_config: The client's settings.

    Returns:
        The exact reason, or the refusal itself if nothing more can be found out.
    """
    protocol = str(client_config.get("security.protocol", "plaintext")).lower()
    if server is None or refusal not in (_UNVERIFIED, _DROPPED):
        return refusal
    host, _, port = server.rpartition(":")
    address = (host.strip("[]"), int(port))
    try:
        if protocol.endswith("ssl"):
            context = ssl.create_default_context(cafile=client_config.get("ssl.ca.location"))
            _shake_hands(address, context)
        elif _speaks_tls(address):
            return Refusal("the broker's listener uses TLS; correct security.protocol or the port")
        elif protocol == "plaintext" and _requires_sasl(address):
            return Refusal("the broker's listener requires SASL; correct security.protocol in kafka.client")
    except ssl.SSLCertVerificationError as error:
        return Refusal(_verification_reason(error, host))
    except OSError:
        pass
    return refusal


def _shake_hands(address: tuple[str, int], context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(address, _PROBE_TIMEOUT_S) as connection,
        context.wrap_socket(connection, server_hostname=address[0]),
    ):
        pass


def _speaks_tls(address: tuple[str, int]) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _shake_hands(address, context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # such as an alert that asks for a client certificate
    except OSError:
        return False
    return True


_SASL_HANDSHAKE: Final = bytes.fromhex("0011 0001 00000000 ffff 0001 3f")
"""A SaslHandshake request, version 1, without a client id, for the mechanism ``?``."""
_UNSUPPORTED_SASL_MECHANISM: Final = 33


def _requires_sasl(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, _PROBE_TIMEOUT_S) as connection:
        connection.sendall(len(_SASL_HANDSHAKE).to_bytes(4, "big") + _SASL_HANDSHAKE)
        answer = connection.recv(10)  # length, correlation id, error code
    return len(answer) == 10 and int.from_bytes(answer[8:], "big") == _UNSUPPORTED_SASL_MECHANISM  # noqa: PLR2004


def _verification_reason(error: ssl.SSLCertVerificationError, host: str) -> str:
    reason = error.verify_message
    if "expired" in reason:
        return "the broker's certificate has expired; renew it"
    if "mismatch" in reason or "not valid for" in reason:
        return f"the broker's certificate is not for {host}; use its name in kafka.bootstrap_servers"
    return f"the broker's certificate is not trusted ({reason}); correct ssl.ca.location"
