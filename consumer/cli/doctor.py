"""``doctor``: is everything there that the roles need?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.context import Context
from consumer.cli.formatting import printable
from consumer.errors import StartupError, Unavailable

if TYPE_CHECKING:
    from consumer.ops.doctor.check import Check


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream --config prod.toml doctor")(doctor)


def doctor(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False
) -> None:
    """Look at settings, broker, topics, group, model, registry, audit log, clock and ports; a line for each.

    Changes nothing that matters: it commits an offset under the group `<group>-doctor`, and removes that
    again. Ends with 0 if nothing failed, 78 if something must be corrected, 75 if it may pass by itself.
    """
    from consumer.ops.doctor.check import CONFIGURATION, CheckStatus  # noqa: PLC0415 - scikit-learn takes a second to import

    given: Context = context.obj
    found: list[Check] = []
    for check in _checks(given):
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


def _checks(given: Context) -> Iterator[Check]:
    from consumer.ops.doctor import broker, local  # noqa: PLC0415 - as above
    from consumer.ops.doctor.check import fail  # noqa: PLC0415

    try:
        settings = given.settings()
    except StartupError as error:
        yield fail("settings", str(error), "nothing else was looked at")
        return
    for look in (
        local.examine_settings,
        local.examine_model,
        local.examine_registry,
        broker.examine_broker,
        local.examine_audit_log,
        local.examine_ports,
    ):
        yield from look(settings)
