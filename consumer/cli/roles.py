"""``score``, ``monitor``, ``serve``, ``run``: run the roles; and ``check``: print the settings."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Annotated, TypeAlias

import typer

from consumer.cli.context import Context
from consumer.errors import StartupError
from consumer.runtime.lifecycle import stopping_on_signals
from consumer.runtime.supervisor import Supervisor, roles
from consumer.settings import ResumeFrom, Settings, masked

ResumeFromOption: TypeAlias = Annotated[
    ResumeFrom | None,
    typer.Option(
        help="Where to resume if neither the group's offsets nor the outputs show it: after the last outputs,"
        " at the beginning or the end of the events, or at the committed offset."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog="Example: purchase-stream score --worker 1")(score)
    app.command(epilog="Example: purchase-stream monitor")(monitor)
    app.command(epilog="Example: purchase-stream serve")(serve)
    app.command(epilog="Example: purchase-stream run --workers 2 --serve")(run)
    app.command(epilog="Example: purchase-stream check")(check)


def score(
    context: typer.Context,
    worker: Annotated[int, typer.Option(help="Number of this scorer on this machine, from 0.", min=0)] = 0,
    resume_from: ResumeFromOption = None,
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


def run(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="Number of scorers.", min=1)] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Also run the synchronous API.")] = False,
    resume_from: ResumeFromOption = None,
) -> None:
    """Run scorers and the monitor as child processes, until one exits or Ctrl-C."""
    given: Context = context.obj
    settings = given.settings()  # report wrong settings once, not once per child
    if serve and find_spec("fastapi") is None:  # report it before anything starts
        raise StartupError("--serve needs: pip install 'purchase-stream[api]'")
    options = options_before_verb(given)
    if settings.log.format == "auto" and sys.stderr.isatty():  # a child's standard error is a pipe
        options += ["--set", "log.format=console"]
    supervisor = Supervisor(roles(workers, serve=serve, resume_from=resume_from), options)
    with stopping_on_signals(supervisor.request_stop):
        child_exit = supervisor.run()
    if child_exit is not None:
        typer.echo(f"purchase-stream: {child_exit}", err=True)
        sys.exit(child_exit.exit_code)


def options_before_verb(given: Context) -> list[str]:
    """Return the options that were given before the verb, for a child's command line."""
    config = ["--config", str(given.config_file)] if given.config_file else []
    overrides = [word for override in given.overrides for word in ("--set", override)]
    return [*config, *overrides, *(["--debug"] if given.debug else [])]


def check(context: typer.Context) -> None:
    """Print the effective settings, secrets masked."""
    given: Context = context.obj
    typer.echo(json.dumps(masked(given.settings()), indent=2))
