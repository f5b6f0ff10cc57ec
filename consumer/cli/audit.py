"""``audit …``."""

from __future__ import annotations

from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.errors import BadInputError
from consumer.ops.verify import verifier

audit = typer.Typer(
    help="The audit log and the guarantees that it documents.",
    epilog="Example: purchase-stream audit verify --until-idle",
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(audit, name="audit")


@audit.command(epilog="Example: purchase-stream audit verify --until-idle")
def verify(
    context: typer.Context,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Wait until the stream is idle, then verify.")
    ] = False,
    idle_s: Annotated[
        float,
        typer.Option(
            help="For --until-idle: a stream that lags and does not move for this long is idle.",
            metavar="SECONDS",
        ),
    ] = 10.0,
    log: Annotated[bool, typer.Option(help="Verify the audit log too.")] = True,
    examples: Annotated[
        int, typer.Option(help="Coordinates to print for each kind of finding.", min=0, metavar="N")
    ] = 10,
) -> None:
    """Verify that every event was decided exactly once, in order, and logged exactly once."""
    given: Context = context.obj
    settings = given.settings()
    try:
        if until_idle:
            report = verifier.verify_until_idle(settings, with_log=log, examples=examples, idle_s=idle_s)
        else:
            report = verifier.verify(settings, with_log=log, examples=examples)
    except KeyboardInterrupt:
        raise typer.Abort from None  # an interrupted verification is no success
    for line in report.lines():
        typer.echo(line)
    if not report.holds:
        raise BadInputError(report.problem())
