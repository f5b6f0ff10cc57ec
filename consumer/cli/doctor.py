"""``doctor``: check everything that the roles need."""

from __future__ import annotations

import json

import typer

from consumer.cli.context import Context, Json
from consumer.errors import StartupError, Unavailable
from consumer.ops.doctor import examine
from consumer.ops.doctor.check import CONFIGURATION, Check, CheckStatus
from consumer.printable import printable


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream --config prod.toml doctor")(doctor)


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check everything that the roles need, one line per check.

    Checks settings, broker, topics, group, model, registry, audit log, clock and ports. Commits one offset
    under the group `<group>-doctor` and deletes that group again; changes nothing else. Exit code: 0 if no
    check failed, 78 if something must be corrected, 75 if the problem may pass by itself.
    """
    given: Context = context.obj
    found: list[Check] = []
    for check in examine(given.settings):
        found.append(check)
        if not as_json:
            typer.echo(printable(check.line()))
    failed = [check for check in found if check.status is CheckStatus.FAIL]
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "checks": [check.as_json() for check in found]}, indent=2))
    if failed:
        names = ", ".join(dict.fromkeys(check.name for check in failed))
        problem = f"{len(failed)} of {len(found)} checks failed: {names}; each says above what to do"
        kind = StartupError if any(check.exit_code == CONFIGURATION for check in failed) else Unavailable
        raise kind(problem)
