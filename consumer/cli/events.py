"""``events …``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer

from consumer.cli.context import Context
from consumer.errors import BadInputError
from consumer.ops.event_check import read_events
from consumer.pipeline.dead_letter import summarize_detail
from consumer.printable import printable
from schemas.avro import AvroSchema, SchemaError
from schemas.repository import BundledSchemas, read_schemas

events = typer.Typer(
    help="Check the platform's events.",
    epilog="Example: purchase-stream events check events.avro",
    no_args_is_help=True,
)

EXIT_SOME: Final = 1
"""Some events would be rejected."""


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(events, name="events")


@events.command(epilog="Example: purchase-stream events check events.jsonl --json | jq 'select(.code)'")
def check(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help="An Avro container, JSON Lines, or one value of the topic.", metavar="FILE..."),
    ],
    schema: Annotated[
        Path | None,
        typer.Option(help="The writer schema of a value in Confluent framing or without a frame."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")] = False,
) -> None:
    """Check events offline: print those that the stream would reject, with the reason.

    Exits with 0 if every event is accepted, 1 if some would be rejected, and 65 if a file cannot be read.
    """
    given: Context = context.obj
    known = BundledSchemas(given.settings().schemas.path)
    writer = None if schema is None else _schema(schema)
    n_events, rejected = 0, Counter[str]()
    for path in files:
        event_file = read_events(path, writer)
        for number, rejection in event_file.check(known):
            n_events += 1
            code = None if rejection is None else rejection.code
            if rejection is not None:
                rejected[rejection.code] += 1
            detail = None if rejection is None else rejection.detail
            if as_json:
                answer = {"file": str(path), event_file.unit: number, "code": code, "detail": detail}
                typer.echo(json.dumps(answer))
            elif rejection is not None:
                what = printable(summarize_detail(rejection.detail))
                typer.echo(f"{path}: {event_file.unit} {number}: {code}: {what}")
    if not as_json:
        codes = ", ".join(f"{n:,} {code}" for code, n in rejected.most_common())
        typer.echo(f"{rejected.total():,} of {n_events:,} events would be rejected{codes and f': {codes}'}")
    if rejected:
        raise typer.Exit(EXIT_SOME)


def _schema(path: Path) -> AvroSchema:
    try:
        return read_schemas([path])[path]
    except (SchemaError, KeyError) as error:
        raise BadInputError(f"{error}; --schema takes one .avsc file") from error
