"""``schemas …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from consumer.cli.context import Context
from consumer.errors import BadInputError, StartupError, UsageError
from consumer.kafka.writer_schemas import writer_schemas
from consumer.ops.schema_check import SchemaComparison, compare_schemas, unread
from consumer.printable import printable
from schemas.bundled import BundledSchemas
from schemas.errors import SchemaError
from schemas.framing import single_object_header
from schemas.repository import FOLDER, AvroSchema, known_schemas, read_schema

schemas = typer.Typer(
    help="The Avro schemas: ours, and whether the platform's fit.",
    epilog="Example: purchase-stream schemas check platform.avsc",
    no_args_is_help=True,
)

_PREDICTION: Final = "PurchasePrediction"
_TOPICS: Final = {
    "EngagementEvent": "events",
    _PREDICTION: "predictions",
    "PurchaseOutcome": "outcomes",
}
"""Which setting under `topics` names the topic of a record."""

Name = Annotated[str, typer.Argument(help="A record's name or its file's, such as EngagementEvent.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(schemas, name="schemas")


@schemas.command("list", epilog="Example: purchase-stream schemas list")
def list_schemas(
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """List the schemas that are known without a registry, with their CRC-64-AVRO fingerprints."""
    found = dict(sorted(_ours().items()))
    if as_json:
        entries = [
            {"name": schema.name, "fingerprint": _hex(schema), "file": path.name}
            for path, schema in found.items()
        ]
        typer.echo(json.dumps(entries, indent=2))
        return
    for path, schema in found.items():
        typer.echo(f"{_hex(schema)}  {schema.name:<36} {path.name}")


@schemas.command(epilog="Example: purchase-stream schemas show EngagementEvent > engagement_event.avsc")
def show(name: Name) -> None:
    """Print a schema, as its file has it."""
    path, _ = _named(name)
    typer.echo(path.read_text("utf-8"), nl=False)


@schemas.command(epilog="Example: purchase-stream schemas fingerprint platform.avsc")
def fingerprint(
    schema: Annotated[
        str, typer.Argument(help="A schema file, or the name of one of ours.", metavar="FILE|NAME")
    ],
) -> None:
    """Print a schema's CRC-64-AVRO fingerprint, and the ten bytes that stand before its records."""
    parsed = _file(Path(schema)) if Path(schema).is_file() else _named(schema)[1]
    typer.echo(f"{_hex(parsed)}  {parsed.name}")
    typer.echo(f"frame: {single_object_header(parsed.fingerprint).hex(' ')}")


@schemas.command(epilog="Example: purchase-stream schemas check platform.avsc")
def check(
    file: Annotated[Path, typer.Argument(help="The platform's schema.", metavar="FILE.avsc")],
    against: Annotated[str, typer.Option(help="Which of ours is to be read from it.")] = "EngagementEvent",
) -> None:
    """Check whether records of another schema can be read as ours; ends with 65 if they cannot."""
    writer, (_, reader) = _file(file), _named(against)
    verdicts = compare_schemas(writer, reader)
    typer.echo(f"{printable(writer.name)}, fingerprint {_hex(writer)}, read as {reader.name}")
    for one in verdicts:
        typer.echo(f"{one.verdict:<4}  {printable(one.field)}: {printable(one.what)}")
    for name in unread(writer, reader):
        typer.echo(f"-     {printable(name)}: nobody reads it here")
    bad = [one.field for one in verdicts if one.verdict is SchemaComparison.NO]
    if bad:
        raise BadInputError(f"{file} cannot be read as {reader.name}: {', '.join(bad)}; see above")
    if writer.fingerprint not in known_schemas():
        typer.echo("its records are unknown_schema until it lies in schemas/, or a schema registry has it")


@schemas.command(epilog="Example: purchase-stream schemas register")
def register(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which of ours; by default the one that we write.", metavar="[NAME]...", show_default=False
        ),
    ] = None,
) -> None:
    """Register schemas with the schema registry, each for the values of its topic, and print their ids.

    The subject of a topic that somebody else writes is theirs, so name those on purpose only.
    """
    given: Context = context.obj
    settings = given.settings()
    chosen = [_named(name)[1] for name in names or [_PREDICTION]]
    registry = writer_schemas(settings)
    if isinstance(registry, BundledSchemas):
        raise StartupError("no schema registry is set; set schema_registry.url")
    for schema in chosen:
        short = schema.name.rpartition(".")[2]
        if short not in _TOPICS:
            raise UsageError(f"{schema.name} is of no topic of ours; register one of {', '.join(_TOPICS)}")
        topic = getattr(settings.topics, _TOPICS[short])
        typer.echo(f"{topic}-value: {schema.name} has id {registry.register(topic, schema)}")


def _ours() -> dict[Path, AvroSchema]:
    return {path: read_schema(path) for path in FOLDER.rglob("*.avsc")}


def _named(name: str) -> tuple[Path, AvroSchema]:
    """Return one of our schemas, by its record's name or its file's."""
    ours = _ours()
    for path, schema in ours.items():
        if name in (schema.name, schema.name.rpartition(".")[2], path.stem, path.name):
            return path, schema
    known = ", ".join(sorted(schema.name.rpartition(".")[2] for schema in ours.values()))
    raise UsageError(f"no schema {name}; one of {known}")


def _file(path: Path) -> AvroSchema:
    """Read somebody's schema.

    Raises:
        BadInputError: it is none.
    """
    try:
        return read_schema(path)
    except SchemaError as error:
        raise BadInputError(f"{error}; give an .avsc file with a record") from error


def _hex(schema: AvroSchema) -> str:
    """Return the fingerprint as people write it: the number in hexadecimal, highest digit first."""
    return schema.fingerprint[::-1].hex()
