"""The roles: ``score``, ``monitor``, ``serve``, ``run``; and ``check``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.settings import ResumeFrom, Settings, masked


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog="Example: purchase-stream score --worker 1")(score)
    app.command(epilog="Example: purchase-stream monitor")(monitor)
    app.command(epilog="Example: purchase-stream serve")(serve)
    app.command(epilog="Example: purchase-stream check")(check)


def score(
    context: typer.Context,
    worker: Annotated[
        int, typer.Option(help="Number of this scorer among several on one machine.", min=0)
    ] = 0,
    resume_from: Annotated[
        ResumeFrom | None,
        typer.Option(
            help="Where to resume if neither the group's offsets nor the outputs tell: behind the last"
            " outputs, at the beginning or the end of the events, or at the committed offset."
        ),
    ] = None,
) -> None:
    """Consume events, publish predictions and dead letters."""
    from consumer.roles.scorer import run_scorer  # noqa: PLC0415 - each role imports only what it needs

    given: Context = context.obj
    settings = given.settings()
    run_scorer(for_worker(settings, worker), worker, resume_from=resume_from)


def monitor(context: typer.Context) -> None:
    """Read committed predictions, write the audit log, serve the monitoring endpoints."""
    from consumer.roles.monitor import run_monitor  # noqa: PLC0415 - as above

    given: Context = context.obj
    run_monitor(given.settings())


def serve(context: typer.Context) -> None:
    """Answer POST /predict and POST /batch_predict."""
    from consumer.roles.serve import run_serve  # noqa: PLC0415 - as above

    given: Context = context.obj
    run_serve(given.settings())


def for_worker(settings: Settings, worker: int) -> Settings:
    """Return the settings of a worker. From worker 1 on, the number is added to the instance id."""
    if worker == 0:
        return settings
    kafka = settings.kafka.model_copy(update={"instance_id": f"{settings.kafka.instance_id}-{worker}"})
    return settings.model_copy(update={"kafka": kafka})


def check(context: typer.Context) -> None:
    """Print the effective settings, secrets masked."""
    given: Context = context.obj
    typer.echo(json.dumps(masked(given.settings()), indent=2))
