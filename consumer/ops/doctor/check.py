"""What one look has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from consumer.errors import StartupError, Unavailable

CONFIGURATION: Final = StartupError.exit_code
OUTAGE: Final = Unavailable.exit_code


class CheckStatus(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One look.

    Attributes:
        name: what was looked at.
        status: how it is.
        what: what was found, one line.
        do: what to do about it, where there is something.
        exit_code: for a failure: 75 if it may pass by itself, 78 if a person has to correct something.
    """

    name: str
    status: CheckStatus
    what: str
    do: str | None = None
    exit_code: int = CONFIGURATION

    def line(self) -> str:
        """Say it in one line."""
        told = f"{self.what}; {self.do}" if self.do else self.what
        return f"{self.status:<4}  {self.name:<16} {told}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"check": self.name, "status": self.status, "found": self.what, "do": self.do}


def ok(name: str, what: str) -> Check:
    """Return a look that found nothing wrong."""
    return Check(name, CheckStatus.OK, what)


def warn(name: str, what: str, do: str | None = None) -> Check:
    """Return a look that found something that should not stay as it is."""
    return Check(name, CheckStatus.WARN, what, do)


def fail(name: str, what: str, do: str | None = None, exit_code: int = CONFIGURATION) -> Check:
    """Return a look that found something that keeps a role from working."""
    return Check(name, CheckStatus.FAIL, what, do, exit_code)
