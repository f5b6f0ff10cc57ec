"""``audit …``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from consumer.cli.context import Context
from consumer.errors import BadInputError
from consumer.ops.audit_rebuild import rebuild_audit_log
from consumer.ops.verify import verifier

audit = typer.Typer(
    help="Verify the guarantees, and rebuild the audit log.",
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
        raise typer.Abort from None  # an interrupted verification is not a success
    for line in report.lines():
        typer.echo(line)
    if not report.holds:
        raise BadInputError(report.problem())


@audit.command(epilog="Example: purchase-stream audit rebuild")
def rebuild(context: typer.Context) -> None:
    """Rebuild the audit log from the predictions topic, for example after it was damaged.

    Stop the monitor and move the old log away first, but leave the .removals file: it names those who
    were erased. Predictions whose retention is over cannot be
    brought back: keep the old log's segments.
    """
    given: Context = context.obj
    settings = given.settings()
    path, console = settings.audit.path, Console(stderr=True)
    description, is_terminal = TextColumn("{task.description}"), console.is_terminal
    with Progress(description, console=console, disable=not is_terminal) as progress:
        task = progress.add_task("rebuilding")
        rebuilt = rebuild_audit_log(
            settings, path, lambda lines: progress.update(task, description=f"rebuilding: {lines} lines")
        )
    typer.echo(f"{path}: {rebuilt.lines} lines; the monitor resumes after them")
    if rebuilt.erased:
        typer.echo(f"{rebuilt.erased} predictions are about erased students and have no line")
    if rebuilt.undecodable:
        typer.echo(f"{rebuilt.undecodable} records are not predictions and have no line")
    for partition, offset in rebuilt.expired.items():
        typer.echo(f"partition {partition}: predictions before offset {offset} have expired; they are lost")
