"""``produce``: the sample upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.context import Context

GENERATED_STUDENTS = 10_000


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream produce --data students.csv --rate 1000 --broken 0.02")(
        produce
    )


def produce(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="CSV of students, columns as for `train`; without it, generated ones.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events per second; as fast as it goes without it.", min=0.001)
    ] = None,
    broken: Annotated[
        float,
        typer.Option(help="Broken events per good one, sent on top, every kind in turn.", min=0, max=10),
    ] = 0.0,
    count: Annotated[
        int | None, typer.Option(help="Good events; every student once without it.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generated students.")] = 0,
) -> None:
    """Send engagement events of students to the events topic, as the platform would."""
    from consumer.runtime.lifecycle import stopping_on_signals  # noqa: PLC0415 - scikit-learn takes a second to import
    from consumer.simulator.producer import EventProducer  # noqa: PLC0415
    from model_store.synthetic import generate_students  # noqa: PLC0415
    from model_store.training_data import read_training_csv  # noqa: PLC0415

    given: Context = context.obj
    settings = given.settings()
    if data is not None:
        students = read_training_csv(data)
    else:
        students = generate_students(min(count or GENERATED_STUDENTS, GENERATED_STUDENTS), seed)
    upstream = EventProducer(settings, students, count=count, broken_ratio=broken, rate=rate)
    with stopping_on_signals(upstream.stop):
        sent = upstream.run()
    typer.echo(sent.summary())
