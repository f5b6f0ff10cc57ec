"""``produce``: send events as the platform would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.runtime.lifecycle import stopping_on_signals
from consumer.simulator.producer import EventProducer
from model_store.synthetic import generate_students
from model_store.training_data import read_training_csv

GENERATED_STUDENTS = 10_000


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream produce --data students.csv --rate 1000 --broken 0.02")(
        produce
    )


def produce(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(help="CSV of students, columns as for `train`; without it, generated students."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Events per second; without it, as fast as possible.", min=0.001, metavar="EVENTS/S"
        ),
    ] = None,
    broken: Annotated[
        float,
        typer.Option(
            help="Additional broken events per good event, all kinds in turn.",
            min=0,
            max=10,
            metavar="RATIO",
        ),
    ] = 0.0,
    count: Annotated[
        int | None,
        typer.Option(help="Number of good events; without it, one per student.", min=1, metavar="N"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the generated students.", metavar="N")] = 0,
) -> None:
    """Send engagement events of students to the events topic, as the platform would."""
    given: Context = context.obj
    settings = given.settings()
    if data is not None:
        students = read_training_csv(data)
    else:
        students = generate_students(min(count or GENERATED_STUDENTS, GENERATED_STUDENTS), seed)
    producer = EventProducer(settings, students, count=count, broken_ratio=broken, rate=rate)
    with stopping_on_signals(producer.stop):
        sent = producer.run()
    typer.echo(sent.summary())
