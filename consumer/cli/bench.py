"""``bench``: how fast the decision is on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from consumer.cli.context import Context


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream bench --batch 1000 --repeats 50")(bench)


def bench(
    context: typer.Context,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Events of a batch; batch.max_events without it.", min=1, max=100_000, show_default=False
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="How often the batch is decided on.", min=1)] = 30,
    broken: Annotated[float, typer.Option(help="Broken events per good one.", min=0, max=10)] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Time what a scorer and the monitor compute per event, with the champion and without a broker.

    Medians over the repeats, in microseconds per event. What Kafka adds is measured by `make bench` in a
    clone, against programs that somebody would write instead.
    """
    from consumer.ops.bench import pipeline_of, time_core  # noqa: PLC0415 - scikit-learn takes a second to import
    from consumer.runtime.memory import tune_gc_and_malloc  # noqa: PLC0415 - beside the others
    from model_store.store import ModelStore  # noqa: PLC0415

    given: Context = context.obj
    settings = given.settings()
    model = ModelStore(settings.model_store.path, settings.model_store.model).load("champion")
    pipeline = pipeline_of(model)
    tune_gc_and_malloc()  # as a scorer does
    timing = time_core(
        pipeline,
        batch_events=batch or settings.batch.max_events,
        repeats=repeats,
        broken_ratio=broken,
    )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "model_version": model.version,
                    "batch_events": timing.batch_events,
                    "repeats": timing.repeats,
                    "microseconds_per_event": timing.microseconds,
                },
                indent=2,
            )
        )
        return
    typer.echo(f"{timing.repeats} batches of {timing.batch_events} generated events, model {model.version}")
    for line in timing.lines():
        typer.echo(line)
