"""``schemas …``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consumer.cli.context import Context, Json
from consumer.errors import BadInputError, StartupError, UsageError
from consumer.kafka.schema_registry import writer_schemas
from consumer.ops.asyncapi import asyncapi
from consumer.ops.schema_check import Readability, check_schema, summarize, unread_fields
from consumer.printable import printable
from consumer.settings import Settings
from schemas.avro import AvroSchema, SchemaError, type_name
from schemas.repository import FOLDER, BundledSchemas, known_schemas, read_schemas, single_object_header

schemas = typer.Typer(
    help="Show our Avro schemas, and check whether the platform's fit.",
    epilog="Example: purchase-stream schemas check platform.avsc",
    no_args_is_help=True,
)

EXIT_SOME: Final = 1
"""Some events would end as dead letters."""

_PREDICTION: Final = "PurchasePrediction"
_TOPICS: Final = {
    "EngagementEvent": "events",
    _PREDICTION: "predictions",
    "PurchaseOutcome": "outcomes",
}
"""The setting under `topics` that names the topic of each record."""

Name = Annotated[str, typer.Argument(help="The name of a record or of its file, such as EngagementEvent.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(schemas, name="schemas")


@schemas.command("list", epilog="Example: purchase-stream schemas list")
def list_schemas(
    as_json: Json = False,
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
    """Print a schema as it is in its file."""
    path, _ = _named(name)
    typer.echo(path.read_text("utf-8"), nl=False)


@schemas.command(epilog="Example: purchase-stream schemas fingerprint platform.avsc")
def fingerprint(
    schema: Annotated[
        str, typer.Argument(help="A schema file, or the name of one of ours.", metavar="FILE|NAME")
    ],
) -> None:
    """Print a schema's CRC-64-AVRO fingerprints, and the ten bytes before its records.

    The first is the specification's. The others are computed by libraries that keep logical types.
    """
    parsed = _read([Path(schema)])[Path(schema)] if Path(schema).is_file() else _named(schema)[1]
    typer.echo(f"{_hex(parsed)}  {parsed.name}")
    for one in parsed.fingerprints:
        typer.echo(f"frame: {single_object_header(one).hex(' ')}")


@schemas.command(epilog="Example: purchase-stream schemas check avro/ --json")
def check(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(help="The platform's schema, and files that it needs.", metavar="FILE.avsc|FOLDER..."),
    ],
    against: Annotated[
        str, typer.Option(help="The schema of ours to read the records with.")
    ] = "EngagementEvent",
    as_json: Json = False,
) -> None:
    """Check whether records of another schema can be read as ours, by the stream's own rules.

    Files may use the named types of each other. If there are several, the schemas with a record of our
    name are checked, or all records if none has it. Exits with 0 if all records can be read, 1 if some events
    will end as dead letters, and 65 if a schema is invalid or its records cannot be read.
    """
    given: Context = context.obj
    _, reader = _named(against)
    settings = given.settings()
    answers = [_answer(path, writer, reader, settings) for path, writer in _to_check(paths, reader).items()]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            _show(answer)
    broken = [answer for answer in answers if answer["verdict"] == Readability.NO]
    if broken:
        bad = [one["field"] for one in broken[0]["fields"] if one["verdict"] == Readability.NO]
        raise BadInputError(
            f"{broken[0]['file']} cannot be read as {reader.name}: {', '.join(bad)}; see above"
        )
    if any(answer["verdict"] == Readability.SOME for answer in answers):
        raise typer.Exit(EXIT_SOME)


def _to_check(paths: list[Path], reader: AvroSchema) -> dict[Path, AvroSchema]:
    """Read schema files; return those to check.

    Raises:
        BadInputError: A file is not a valid schema, or none has a record.
    """
    found = _read(paths)
    if len(found) == 1:
        return found
    wanted = reader.name.rpartition(".")[2]
    named = {path: one for path, one in found.items() if wanted in _record_names(one)}
    chosen = named or {path: one for path, one in found.items() if one.is_record}
    if not chosen:
        raise BadInputError(f"no file with a record in {', '.join(map(str, paths))}; give an .avsc file")
    return chosen


def _record_names(schema: AvroSchema) -> list[str]:
    """Return the short names of the record, or of the branches of a union."""
    branches = schema.parsed if isinstance(schema.parsed, list) else [schema.parsed]
    return [str(type_name(branch)).rpartition(".")[2] for branch in branches]


def _answer(path: Path, writer: AvroSchema, reader: AvroSchema, settings: Settings) -> dict[str, Any]:
    known = known_schemas(*filter(None, [settings.schemas.path]))
    verdicts = check_schema(writer, reader, by_fingerprint=settings.schema_registry.url is None)
    return {
        "file": str(path),
        "writer": writer.name,
        "reader": reader.name,
        "fingerprint": _hex(writer),
        "known": writer.fingerprint in known,
        "verdict": summarize(verdicts),
        "fields": [{"field": one.field, "verdict": one.verdict, "what": one.what} for one in verdicts],
        "unread": unread_fields(writer, reader),
    }


def _show(answer: dict[str, Any]) -> None:
    writer = printable(answer["writer"])
    typer.echo(f"{writer}, fingerprint {answer['fingerprint']}, read as {answer['reader']}")
    for one in answer["fields"]:
        typer.echo(f"{one['verdict']:<4}  {printable(one['field'])}: {printable(one['what'])}")
    for name in answer["unread"]:
        typer.echo(f"-     {printable(name)}: not read")
    if not answer["known"] and answer["verdict"] != Readability.NO:
        typer.echo(
            "Its records are unknown_schema until the file is in the folder schemas.path, "
            "or a schema registry has it."
        )


@schemas.command(epilog="Example: purchase-stream schemas register")
def register(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Our schemas to register; by default the schema that we write.",
            metavar="[NAME]...",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Register schemas with the schema registry, each for the values of its topic, and print their ids.

    By default, schemas of topics that others write are not registered.
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
            raise UsageError(
                f"{schema.name} is not the schema of one of our topics; register one of {', '.join(_TOPICS)}"
            )
        topic = getattr(settings.topics, _TOPICS[short])
        typer.echo(f"{topic}-value: {schema.name} has id {registry.register(topic, schema)}")


@schemas.command("asyncapi", epilog="Example: purchase-stream schemas asyncapi > asyncapi.json")
def asyncapi_document(context: typer.Context) -> None:
    """Print an AsyncAPI 3 document of the topics: payloads, keys, headers, an example of each dead letter."""
    given: Context = context.obj
    typer.echo(json.dumps(asyncapi(given.settings(), version("purchase-stream")), indent=2))


def _ours() -> dict[Path, AvroSchema]:
    return read_schemas([FOLDER])


def _named(name: str) -> tuple[Path, AvroSchema]:
    """Return one of our schemas by the name of its record or its file."""
    ours = _ours()
    for path, schema in ours.items():
        if name in (schema.name, schema.name.rpartition(".")[2], path.stem, path.name):
            return path, schema
    known = ", ".join(sorted(schema.name.rpartition(".")[2] for schema in ours.values()))
    raise UsageError(f"no schema {name}; one of {known}")


def _read(paths: list[Path]) -> dict[Path, AvroSchema]:
    """Read schema files.

    Raises:
        BadInputError: A file is not a valid schema.
    """
    try:
        return read_schemas(paths)
    except SchemaError as error:
        raise BadInputError(str(error)) from error


def _hex(schema: AvroSchema) -> str:
    """Return the fingerprint as people write it: the number in hexadecimal, highest digit first."""
    return schema.fingerprint[::-1].hex()
