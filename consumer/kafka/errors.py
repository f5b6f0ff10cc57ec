"""KafkaError → what to do next. The one place that knows librdkafka's classes of errors.

librdkafka marks an error ``fatal``, ``txn_requires_abort`` or ``retriable`` (its INTRODUCTION.md,
"Transactional producer API"); one that is marked with none of them is to be treated as fatal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")


class Policy(Enum):
    """What an error asks for."""

    RETRY_CALL = "make the same call again"
    ABORT = "abort the transaction, then retry the batch"
    RECYCLE = "throw the producer away; what became of the transaction is unknown"


OUTAGE_CODES: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._WAIT_COORD,
        KafkaError._MSG_TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NETWORK_EXCEPTION,
    }
)
"""The broker, or the way to it, is away; it will be back."""


def error_of(exception: KafkaException) -> KafkaError:
    """Return the error inside an exception."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)  # noqa: S101 - the client's documented contract
    return error


def policy_of(error: KafkaError) -> Policy:
    """Return what an error of a transactional call asks for."""
    if error.fatal():
        return Policy.RECYCLE
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Policy.ABORT  # refused by the client itself; the transaction stays good
    if error.txn_requires_abort():
        return Policy.ABORT
    if error.retriable():
        return Policy.RETRY_CALL
    return Policy.RECYCLE


def is_outage(error: KafkaError) -> bool:
    """Tell whether the broker, or the way to it, is away for the moment."""
    return error.code() in OUTAGE_CODES


def describe(error: KafkaError) -> str:
    """Say an error in one line: ``_TRANSPORT: broker transport failure``."""
    return f"{error.name()}: {error.str()}"


def served(function: Callable[..., T], *arguments: Any) -> T:
    """Make a call that serves callbacks; a fatal error leaves it as what it is.

    The client raises a fatal error from whatever call meets it, but may call us back before that call
    returns. Python then takes the callback for broken: a SystemError, caused by the error we want.

    Raises:
        KafkaException: the client's own.
    """
    try:
        return function(*arguments)
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise
