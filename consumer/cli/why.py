"""``why``: what became of an event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.context import Context
from consumer.cli.formatting import parse_partition_offset, printable
from consumer.cli.report import parse_time
from consumer.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from consumer.pipeline.framing import WriterSchemas
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
            help="Where the event is in the events topic.", metavar="[PARTITION:OFFSET]", show_default=False
        ),
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--event-id", help="Its id instead; the topic is read through for it.")
    ] = None,
    since: Annotated[
        str,
        typer.Option(help="For --event-id: how far back to look: a time, or 24h, 7d, 30m ago.", metavar="T"),
    ] = "24h",
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer in JSON: a list, an object per event.")
    ] = False,
) -> None:
    """Say what became of an event, and why: its prediction taken apart, or what is wrong with it."""
    from consumer.ops.why import text  # noqa: PLC0415
    from consumer.ops.why.trace import EventTracer  # noqa: PLC0415
    from consumer.roles.shared import writer_schemas  # noqa: PLC0415 - scikit-learn takes a second to import

    if (event is None) == (event_id is None):
        raise UsageError("name the event, by PARTITION:OFFSET or by --event-id")
    given: Context = context.obj
    settings = given.settings()
    writers = writer_schemas(settings)
    places = (
        [parse_partition_offset(event)]
        if event is not None
        else _places(settings, writers, str(event_id), since)
    )
    teller = EventTracer(settings, writers)
    stories = [teller.tell(*place) for place in places]
    if as_json:
        typer.echo(json.dumps([text.as_json(story) for story in stories], indent=2))
    else:
        if len(stories) > 1:
            typer.echo(f"{len(stories)} events have this id; each is decided for itself")
        for story in stories:
            for line in text.lines(story):
                typer.echo(printable(line))
    for story in stories:
        if story.problem:
            raise BadInputError(f"{story.partition}:{story.offset}: {story.problem}")


def _places(settings: Settings, writers: WriterSchemas, event_id: str, since: str) -> list[tuple[int, int]]:
    from consumer.ops.why.lookup import places_of  # noqa: PLC0415 - as above

    moment = parse_time(since, datetime.now(UTC), "--since")
    assert moment is not None  # noqa: S101 - there is a text
    found = places_of(settings, writers, event_id, int(moment.timestamp() * 1000))
    if not found:
        raise BadInputError(
            f"{settings.topics.events} has no event with id {event_id} since {moment:%Y-%m-%dT%H:%M:%SZ};"
            " look further back with --since"
        )
    return found
