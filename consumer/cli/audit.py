"""``audit …``."""

from __future__ import annotations

from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.errors import BadInputError

audit = typer.Typer(help="The audit log and what it must agree with.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(audit, name="audit")


@audit.command(epilog="Example: purchase-stream audit verify --until-idle")
def verify(
    context: typer.Context,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Wait until nothing changes any more, then verify.")
    ] = False,
    idle_s: Annotated[
        float, typer.Option(help="For --until-idle: a stream that is behind and silent for so long is idle.")
    ] = 10.0,
    log: Annotated[bool, typer.Option(help="Look at the audit log, too.")] = True,
    examples: Annotated[int, typer.Option(help="Coordinates to print of each kind of finding.", min=0)] = 10,
) -> None:
    """Check that every event was decided exactly once, in order, and logged exactly once."""
    from consumer.ops.verify import verifier  # noqa: PLC0415 - librdkafka is not needed for --help

    given: Context = context.obj
    settings = given.settings()
    try:
        if until_idle:
            verdict = verifier.verify_until_idle(settings, with_log=log, examples=examples, idle_s=idle_s)
        else:
            verdict = verifier.verify(settings, with_log=log, examples=examples)
    except KeyboardInterrupt:
        raise typer.Abort from None  # nothing was verified, so this is no success
    for line in verdict.lines():
        typer.echo(line)
    if not verdict.holds:
        raise BadInputError(verdict.problem())
