"""Every exception this package raises on purpose; the axis is whose fault, therefore what next.

::

    Rejection (a value: core/rejections.py)
                           the event's fault                dead letter, the offset advances
    ServiceError
      UsageError       64  the caller's words               correct the command line
      BadInputError    65  a file's content                 correct the file
      StartupError     78  settings, schema, model, topic   correct the configuration
      BatchAborted      -  undone, nothing was seen         retry the same batch
        RecordRejectedByBroker   -  because of one record            halve the batch to find it
      Unavailable      75  an outage                        pause, keep polling, go on by itself
      FatalError       75  this process must not go on      stop, let the supervisor restart it
      InvariantError   70  our own bug                      stop, tell us

A data fault is never raised: one bad event must not cost its neighbours anything.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Base of everything raised here. The message is one line: what is wrong and what to do.

    Attributes:
        exit_code: what the command exits with if the error ends it (sysexits.h).
    """

    exit_code: ClassVar[int] = 70


class UsageError(ServiceError):
    """The command line asks for something that makes no sense."""

    exit_code = 64


class BadInputError(ServiceError):
    """A file that was given holds something unusable; the message names the place."""

    exit_code = 65


class StartupError(ServiceError):
    """The configuration cannot work: settings, schema, model or topics."""

    exit_code = 78


class BatchAborted(ServiceError):  # noqa: N818 - an outcome, not a mistake
    """The transaction was undone and no reader saw any of it. Retry the same batch."""

    exit_code = 75


class RecordRejectedByBroker(BatchAborted):
    """The transaction was undone because the broker will not take one of its records."""


class Unavailable(ServiceError):  # noqa: N818 - a state of the world, not a mistake
    """Something outside is down. Pause, stay in the group and try again.

    Attributes:
        condition: which of :class:`consumer.runtime.readiness.Name` keeps us from being ready.
    """

    exit_code = 75

    def __init__(self, message: str, condition: str = "broker") -> None:
        super().__init__(message)
        self.condition = condition


class FatalError(ServiceError):
    """This process cannot go on (fenced, refused by the broker, stuck). Stop and be restarted."""

    exit_code = 75


class InvariantError(ServiceError):
    """Something that cannot happen did: a bug in this software."""

    exit_code = 70
