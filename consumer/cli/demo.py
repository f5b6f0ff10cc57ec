"""``demo``: the whole on one machine, with generated students."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.context import Context
from consumer.cli.run import options_before_verb
from consumer.errors import InvariantError

if TYPE_CHECKING:
    from rich.console import Console

    from consumer.demo.environment import DemoEnvironment

FOLDER = Path("artifacts/demo")


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream demo --events 100000 --workers 2 --keep")(demo)


def demo(
    context: typer.Context,
    events: Annotated[int, typer.Option(help="Good events of the burst.", min=1)] = 50_000,
    rate: Annotated[
        float | None, typer.Option(help="Their rate per second; all at once without it.", min=1)
    ] = None,
    broken: Annotated[
        float, typer.Option(help="Broken events per good one, on top of them.", min=0, max=10)
    ] = 0.02,
    workers: Annotated[int, typer.Option(help="Scorers.", min=1)] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running, to look at, until ctrl-C.")] = False,
) -> None:
    """Run the stream on a Kafka of its own with generated students, and verify what came out."""
    try:
        _perform(context.obj, events, rate, broken, workers, keep=keep)
    except KeyboardInterrupt:
        raise typer.Abort from None  # the equation was not shown to hold, so this is no success


def _perform(
    given: Context, events: int, rate: float | None, broken: float, workers: int, *, keep: bool
) -> None:
    from rich.console import Console  # noqa: PLC0415 - none of this is needed for --help

    from consumer.demo.environment import empty_folder, overrides, start_environment, train_model  # noqa: PLC0415
    from consumer.demo.progress import Display  # noqa: PLC0415
    from consumer.demo.run import DemoPlan, DemoRun  # noqa: PLC0415
    from consumer.embedded_kafka.available import available_kafka  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    empty_folder(FOLDER)
    console.print("Kafka: starting (the first time it is fetched, about 45 MB)")
    with available_kafka() as bootstrap_servers:
        own = [*given.overrides, *overrides(FOLDER, bootstrap_servers, workers)]
        ours = dataclasses.replace(given, overrides=own)
        settings = ours.settings()
        console.print(f"Kafka: {bootstrap_servers}")
        console.print(f"model: {train_model(settings)}, trained on generated students")
        with start_environment(settings, options_before_verb(ours), FOLDER, workers) as stage:
            console.print(f"roles: {workers} x score, monitor; what they say is in {stage.log_path}")
            with Display(console) as display:
                summary = DemoRun(stage, DemoPlan(events, rate, broken), display).run(keep=keep)
            for line in summary.lines():
                console.print(line)
            problem = summary.problem()
            if problem is not None:
                raise InvariantError(problem)
            if keep:
                _wait(console, stage)


def _wait(console: Console, stage: DemoEnvironment) -> None:
    """DemoRun where to look, and wait until ctrl-C."""
    for what, url in stage.urls().items():
        console.print(f"{what}: {url}")
    console.print(f"audit log: {stage.settings.audit.path}")
    console.print("ctrl-C ends it")
    try:
        while stage.supervisor.first_exit() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("ended")
