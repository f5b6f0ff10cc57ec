"""``bench``: measure how fast the pipeline is on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from consumer.cli.context import Context, Json
from consumer.ops.bench import pipeline_of, time_core
from consumer.runtime.memory import tune_gc_and_malloc


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream bench --batch 1000 --repeats 50")(bench)


def bench(
    context: typer.Context,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Events per batch; without it, batch.max_events.",
            min=1,
            max=100_000,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured runs.", min=1, metavar="N")] = 30,
    broken: Annotated[
        float, typer.Option(help="Broken events per good one.", min=0, max=10, metavar="RATIO")
    ] = 0.0,
    version: Annotated[
        str, typer.Option("--model", help="A version's id, or an alias.", metavar="VERSION")
    ] = "champion",
    as_json: Json = False,
) -> None:
    """Measure the scorer's and the monitor's own work per event, without a broker.

    Prints medians over the repeats, in microseconds per event; `score` is the cost of the model. `make bench`
    in a clone measures the whole stream with Kafka, beside other ways to build it.
    """
    given: Context = context.obj
    settings = given.settings()
    model = settings.model_store.open().load(version)
    pipeline = pipeline_of(model)
    tune_gc_and_malloc()  # as a scorer does
    timing = time_core(
        pipeline,
        batch_events=batch or settings.batch.max_events,
        repeats=repeats,
        broken_ratio=broken,
    )
    if as_json:
        answer = {
            "model_version": model.version,
            "batch_events": timing.batch_events,
            "repeats": timing.repeats,
            "microseconds_per_event": timing.microseconds,
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(f"{timing.repeats} batches of {timing.batch_events} generated events, model {model.version}")
    for line in timing.lines():
        typer.echo(line)
