"""Define the exceptions of this package, by the cause that they report.

::

    Rejection                      the event (a value)      dead letter; the offset advances
    ServiceError
      UsageError               64  the command line         correct the command
      BadInputError            65  an input file            correct the file
      StartupError             78  the configuration        correct settings, schema, model or topic
      BatchAborted              -  nobody's                 retry the same batch
        RecordRejectedByBroker  -  one record of the batch  split the batch to find the record
      CommitOutcomeUnknown      -  nobody's                 read the committed offsets, retry the rest
      Unavailable              75  an outage                pause, keep polling, resume
        RightMissing           78  the broker's rights      the same; a command ends
      FatalError               75  this process             stop and be restarted
      InvariantError           70  our own bug              stop and report it

A bad event never raises an exception, because one event must not affect its neighbours. It becomes a
:class:`consumer.pipeline.rejections.Rejection`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Condition(StrEnum):
    """The reasons why a role may not be ready."""

    STARTING = "starting"
    BROKER = "broker"
    PARTITION = "partition"
    SCHEMA_REGISTRY = "schema_registry"
    MODEL = "model"
    BREAKER = "breaker"
    AUDIT_LOG = "audit_log"


class ServiceError(Exception):
    """Base class. The message is one line that says what is wrong and what to do.

    Attributes:
        exit_code: The exit code of a command that ends with this error (see sysexits.h).
    """

    exit_code: ClassVar[int] = 70


class UsageError(ServiceError):
    """The command line is wrong."""

    exit_code = 64


class BadInputError(ServiceError):
    """The content of an input file is unusable. The message says where in the file."""

    exit_code = 65


class StartupError(ServiceError):
    """The configuration cannot work: settings, schema, model or topics."""

    exit_code = 78


class BatchAborted(ServiceError):  # noqa: N818 - the state of a transaction, not a mistake
    """The transaction was aborted and no reader saw any of it. Retry the same batch."""

    exit_code = 75


class RecordRejectedByBroker(BatchAborted):
    """The transaction was aborted because the broker refuses one of its records."""


class CommitOutcomeUnknown(ServiceError):  # noqa: N818 - the state of a transaction, not a mistake
    """The batch may or may not have been committed. The group's committed offsets show which."""

    exit_code = 75


class Unavailable(ServiceError):  # noqa: N818 - a state of the world, not a mistake
    """A dependency is down, or a batch is held. Pause, stay in the group and retry.

    Attributes:
        condition: The condition that holds meanwhile, so that the role is not ready.
    """

    exit_code = 75

    def __init__(self, message: str, condition: Condition = Condition.BROKER) -> None:
        super().__init__(message)
        self.condition = condition


class RightMissing(Unavailable):
    """The broker refuses a right. A role that runs waits until it is granted; a command ends."""

    exit_code = 78


class FatalError(ServiceError):
    """This process cannot continue (fenced, refused by the broker, stalled). Stop and be restarted."""

    exit_code = 75


class InvariantError(ServiceError):
    """A state that should be impossible was reached: a bug in this software."""

    exit_code = 70
