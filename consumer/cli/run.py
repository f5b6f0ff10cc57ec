"""``run``: all roles on one machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from consumer.cli.context import Context


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream run --workers 2 --serve")(run)


def run(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="Scorers.", min=1)] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Run the synchronous API, too.")] = False,
) -> None:
    """Run scorers and the monitor, each in a process of its own, until one dies or ctrl-C."""
    from consumer.runtime.lifecycle import stopping_on_signals  # noqa: PLC0415 - scikit-learn takes a second to import
    from consumer.runtime.supervisor import Supervisor, roles  # noqa: PLC0415

    given: Context = context.obj
    given.settings()  # what is wrong with them should be said once, not by every child
    supervisor = Supervisor(roles(workers, serve=serve), before_verb(given))
    with stopping_on_signals(supervisor.request_stop):
        death = supervisor.run()
    if death is not None:
        typer.echo(f"purchase-stream: {death}", err=True)
        sys.exit(death.exit_code)


def before_verb(given: Context) -> list[str]:
    """Return the options that stood before the verb, for a child's command line."""
    config = ["--config", str(given.config_file)] if given.config_file else []
    overrides = [word for override in given.overrides for word in ("--set", override)]
    return [*config, *overrides, *(["--debug"] if given.debug else [])]
