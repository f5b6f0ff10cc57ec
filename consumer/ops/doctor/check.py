"""Represent the result of a check, and keep checks independent of each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from consumer.errors import InvariantError, ServiceError, StartupError, Unavailable
from model_store.errors import ModelStoreError
from schemas.avro import SchemaError

CONFIGURATION: Final = StartupError.exit_code
OUTAGE: Final = Unavailable.exit_code
BUG: Final = InvariantError.exit_code


class CheckStatus(StrEnum):
    """The severity of a result."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The thing that was checked.
        status: The severity.
        what: The finding, in one line.
        do: The advice, or ``None``.
        exit_code: For a failure: 75 if it may pass by itself, 78 if a person must correct something, 70
            if the check itself failed.
    """

    name: str
    status: CheckStatus
    what: str
    do: str | None = None
    exit_code: int = CONFIGURATION

    def line(self) -> str:
        """Format the result as one line."""
        finding = f"{self.what}; {self.do}" if self.do else self.what
        return f"{self.status:<4}  {self.name:<16} {finding}"

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {"check": self.name, "status": self.status, "found": self.what, "do": self.do}


def ok(name: str, what: str) -> Check:
    """Return the result of a check that found nothing wrong."""
    return Check(name, CheckStatus.OK, what)


def warn(name: str, what: str, do: str | None = None) -> Check:
    """Return the result of a check that found something to correct, although every role can work."""
    return Check(name, CheckStatus.WARN, what, do)


def fail(name: str, what: str, do: str | None = None, exit_code: int = CONFIGURATION) -> Check:
    """Return the result of a check that found something that keeps a role from working."""
    return Check(name, CheckStatus.FAIL, what, do, exit_code)


def guarded(name: str, checks: Iterable[Check]) -> Iterator[Check]:
    """Yield checks; turn an exception into a failed check, so that the remaining checks still run.

    Args:
        name: The name of the failed check.
        checks: The checks of one examination.
    """
    try:
        yield from checks
    except Unavailable as error:
        yield fail(name, str(error), "try again", OUTAGE)
    except (ServiceError, ModelStoreError, SchemaError) as error:
        yield fail(name, str(error))
    except Exception as error:  # noqa: BLE001 - one check that breaks must not cost the others
        what = f"the check itself failed: {type(error).__name__}: {error}"
        yield fail(name, what, "run it again with --debug, and report it", BUG)
