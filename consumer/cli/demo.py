"""``demo``: run the whole stream on one machine, with generated students."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from consumer.cli.context import Context
from consumer.cli.roles import options_before_verb
from consumer.demo.environment import (
    DemoEnvironment,
    empty_folder,
    overrides,
    start_environment,
    train_model,
)
from consumer.demo.progress import Display
from consumer.demo.run import DemoPlan, DemoRun
from consumer.embedded_kafka.available import BOOTSTRAP_VARIABLE, available_kafka
from consumer.errors import InvariantError

FOLDER = Path("artifacts/demo")


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream demo --events 100000 --workers 2 --keep")(demo)


def demo(
    context: typer.Context,
    events: Annotated[
        int, typer.Option(help="Number of good events in the burst.", min=1, metavar="N")
    ] = 50_000,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Events per second in the burst; without it, as fast as possible.",
            min=1,
            metavar="EVENTS/S",
        ),
    ] = None,
    broken: Annotated[
        float,
        typer.Option(help="Additional broken events per good event.", min=0, max=10, metavar="RATIO"),
    ] = 0.02,
    workers: Annotated[int, typer.Option(help="Number of scorers.", min=1, metavar="N")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the roles running until Ctrl-C.")] = False,
) -> None:
    """Run the whole stream with generated students, and verify the result.

    Uses the Kafka that PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS names, else a container, else an embedded
    one. It creates its own topics and groups, and deletes them at the end.
    """
    try:
        _run(context.obj, DemoPlan(events, rate, broken), workers, keep=keep)
    except KeyboardInterrupt:
        raise typer.Abort from None  # nothing was verified, so this is not a success


def _run(given: Context, plan: DemoPlan, workers: int, *, keep: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    empty_folder(FOLDER)
    console.print("Kafka: starting (the first start downloads about 45 MB)")
    with available_kafka() as bootstrap_servers:
        own = dataclasses.replace(
            given, overrides=[*given.overrides, *overrides(FOLDER, bootstrap_servers, workers)]
        )
        settings = own.settings()
        console.print(f"Kafka: {bootstrap_servers}")
        console.print(f"model: {train_model(settings)}, trained on generated students")
        with start_environment(
            settings,
            options_before_verb(own),
            FOLDER,
            workers,
            shared_kafka=BOOTSTRAP_VARIABLE in os.environ,
        ) as environment:
            console.print(f"roles: {workers} x score, monitor; their logs are in {environment.log_path}")
            with Display(console) as display:
                summary = DemoRun(environment, plan, display).run(keep=keep)
            for line in summary.lines():
                console.print(line)
            problem = summary.problem()
            if problem is not None:
                raise InvariantError(problem)
            if keep:
                _wait(console, environment)


def _wait(console: Console, environment: DemoEnvironment) -> None:
    """Print the addresses, and wait until Ctrl-C."""
    for what, url in environment.urls().items():
        console.print(f"{what}: {url}")
    console.print(f"audit log: {environment.settings.audit.path}")
    console.print("stop with Ctrl-C")
    try:
        while environment.supervisor.first_exit() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("stopped")
