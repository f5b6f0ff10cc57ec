"""Translate librdkafka errors into what to do next.

librdkafka marks an error as ``fatal``, ``txn_requires_abort`` or ``retriable`` (its INTRODUCTION.md,
"Transactional producer API"). An error without any mark has to be treated like a fatal one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
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
"""Error codes of an outage, with why each passes without anybody's help."""


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
