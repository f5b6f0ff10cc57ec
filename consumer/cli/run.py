"""``run``: all roles on one machine."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.errors import StartupError
from consumer.runtime.lifecycle import stopping_on_signals
from consumer.runtime.supervisor import Supervisor, roles
from consumer.settings import ResumeFrom


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream run --workers 2 --serve")(run)


def run(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="Number of scorers.", min=1)] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Also run the synchronous API.")] = False,
    resume_from: Annotated[
        ResumeFrom | None,
        typer.Option(
            help="Where to resume if neither the group's offsets nor the outputs tell: behind the last"
            " outputs, at the beginning or the end of the events, or at the committed offset."
        ),
    ] = None,
) -> None:
    """Run scorers and the monitor as child processes, until one exits or Ctrl-C."""
    given: Context = context.obj
    settings = given.settings()  # report wrong settings once, not once per child
    if serve and find_spec("fastapi") is None:  # say so before anything starts
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
