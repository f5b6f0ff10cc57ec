"""``why``: what happened to an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.cli.formatting import parse_partition_offset, parse_time
from consumer.errors import BadInputError, UsageError
from consumer.kafka.writer_schemas import writer_schemas
from consumer.ops.why import text
from consumer.ops.why.lookup import find_events
from consumer.ops.why.trace import EventTracer
from consumer.pipeline.framing import WriterSchemas
from consumer.printable import printable
from consumer.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(
        epilog="Example: purchase-stream why 0:1234, or: purchase-stream why --event-id 1a2b3c --since 7d"
    )(why)


def why(
    context: typer.Context,
    event: Annotated[
        str | None,
        typer.Argument(
            help="The event's position in the events topic.",
            metavar="PARTITION:OFFSET",
            show_default=False,
        ),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id", help="The event's id instead; this reads the topic to find it.", metavar="ID"
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            help="For --event-id: the oldest event to search: a time, or an age such as 24h, 7d, 30m.",
            metavar="T",
        ),
    ] = "24h",
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer in JSON: a list with one object per event.")
    ] = False,
) -> None:
    """Explain what happened to an event: its prediction or its rejection."""
    if (event is None) == (event_id is None):
        raise UsageError("name the event, by PARTITION:OFFSET or by --event-id")
    given: Context = context.obj
    settings = given.settings()
    writers = writer_schemas(settings)
    if event is not None:
        positions = [parse_partition_offset(event)]
    else:
        positions = _find_by_id(settings, writers, str(event_id), since)
    tracer = EventTracer(settings, writers)
    traces = [tracer.trace(*position) for position in positions]
    if as_json:
        typer.echo(json.dumps([text.as_json(trace) for trace in traces], indent=2))
    else:
        if len(traces) > 1:
            typer.echo(f"{len(traces)} events have this id; each is decided on its own")
        for trace in traces:
            for line in text.lines(trace):
                typer.echo(printable(line))
    for trace in traces:
        if trace.problem:
            raise BadInputError(f"{trace.partition}:{trace.offset}: {trace.problem}")


def _find_by_id(
    settings: Settings, writers: WriterSchemas, event_id: str, since: str
) -> list[tuple[int, int]]:
    oldest = parse_time(since, datetime.now(UTC), "--since")
    assert oldest is not None  # noqa: S101 - the option has a default
    found = find_events(settings, writers, event_id, int(oldest.timestamp() * 1000))
    if not found:
        raise BadInputError(
            f"{settings.topics.events} has no event with id {event_id} since {oldest:%Y-%m-%dT%H:%M:%SZ};"
            " search further back with --since"
        )
    return found
