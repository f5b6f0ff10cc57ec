"""``erase``: erase a student."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer
from rich.console import Console

from consumer.cli.context import Context
from consumer.errors import UsageError
from consumer.kafka.schema_registry import writer_schemas
from consumer.ops.erase import ERASABLE, Footprint, StudentErasure
from consumer.printable import printable


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream erase student-17 --dry-run")(erase)


def erase(
    context: typer.Context,
    student: Annotated[str, typer.Argument(help="The student's id, as the events have it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say where the student is found; the monitor may run.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
) -> None:
    """Erase a student from the audit log, the monitor's state and compacted topics.

    Stop the monitor first. Scorers may run; but the platform should no longer send events of the student,
    because later ones are scored and logged again.
    """
    if not student:
        raise UsageError("name the student")
    given: Context = context.obj
    settings = given.settings()
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("reading")) if console.is_terminal else None
        erasure = StudentErasure(
            settings,
            writer_schemas(settings),
            student,
            lambda name: status.update(f"reading {name}") if status else None,
        )
        log = None if dry_run else stack.enter_context(erasure.locked())
        footprint = erasure.find()
        if status:
            status.stop()
        _echo(footprint)
        if log is None:
            return
        if not yes:
            typer.confirm(f"Erase {printable(student)}? It cannot be undone", abort=True)
        finished = erasure.erase(log, footprint)
    typer.echo(
        f"erased: {finished.lines} lines, {footprint.state} places of the monitor's state,"
        f" {finished.tombstones} tombstones written; start the monitor again"
    )


def _echo(footprint: Footprint) -> None:
    for name, lines in footprint.files.items():
        typer.echo(f"audit log {name}: {lines} lines")
    if not footprint.files:
        typer.echo("audit log: no lines")
    if footprint.foreign_keys:
        typer.echo(
            f"audit log: {footprint.foreign_keys} lines are hashed with another key; run this again with"
            " audit.hash_ids_key_file naming that key"
        )
    typer.echo(f"monitor's state: {footprint.state} places")
    for role, trace in footprint.topics.items():
        outlook = trace.outlook(erasable=role in ERASABLE)
        typer.echo(
            f"topic {trace.topic}: {trace.records} records; {outlook}"
            if trace.records
            else f"topic {trace.topic}: no records"
        )
