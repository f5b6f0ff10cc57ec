"""The command ``purchase-stream``: its verbs, and how errors become exit codes."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from consumer.cli.context import Context
from consumer.errors import ServiceError
from consumer.runtime import logging as logs
from consumer.runtime.lifeline import stop_with_parent
from model_store.errors import ModelStoreError, TrainingDataError
from schemas.avro import SchemaError

EXIT_USAGE, EXIT_BAD_INPUT, EXIT_BUG, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 64, 65, 70, 78, 130


_EXTRAS: Final = {"fastapi": "api", "pyarrow": "parquet", "testcontainers": "docker"}
"""The extra that installs each optional module."""


class Verb(NamedTuple):
    """A verb or a group of verbs.

    Attributes:
        module: The module of this package whose ``add_to`` registers it.
        summary: Its line in ``--help``.
    """

    module: str
    summary: str


VERBS: Final = {
    "score": Verb("roles", "Consume events, publish predictions and dead letters."),
    "monitor": Verb(
        "roles", "Read committed predictions, write the audit log, serve the monitoring endpoints."
    ),
    "serve": Verb("roles", "Answer POST /predict and POST /batch_predict."),
    "run": Verb("roles", "Run scorers and the monitor as child processes, until one exits or Ctrl-C."),
    "demo": Verb("demo", "Run the whole stream with generated students, and verify the result."),
    "check": Verb("roles", "Print the effective settings, secrets masked."),
    "doctor": Verb("doctor", "Check everything that the roles need, one line per check."),
    "topics": Verb("topics", "Create the Kafka topics."),
    "acls": Verb("acls", "Print the rights on Kafka that a role needs, and no more."),
    "schemas": Verb("schemas", "Show our Avro schemas, and check whether the platform's fit."),
    "events": Verb("events", "Check events offline, as the stream would."),
    "train": Verb(
        "models", "Train a model and add it to the store; without --data, train on generated students."
    ),
    "models": Verb("models", "Manage the versions in the model store."),
    "score-file": Verb("score_file", "Score the students of a CSV file, exactly as the stream would."),
    "produce": Verb(
        "produce", "Send engagement events of students to the events topic, as the platform would."
    ),
    "dlq": Verb("dlq", "Inspect dead letters, and replay their events."),
    "why": Verb("why", "Explain what happened to an event: its prediction or its rejection."),
    "audit": Verb("audit", "Verify the guarantees, and rebuild the audit log."),
    "erase": Verb("erase", "Erase a student from the audit log, the monitor's state and compacted topics."),
    "report": Verb(
        "report", "Write a drift report of a span of the audit log, or of the topic, as one HTML file."
    ),
    "bench": Verb("bench", "Measure the scorer's and the monitor's own work per event, without a broker."),
}


class LazyGroup(TyperGroup):
    """A group that imports the module of a verb when the verb is called. Help and completion import none."""

    def __init__(self, **attributes: Any) -> None:
        placeholders = {name: TyperCommand(name, short_help=verb.summary) for name, verb in VERBS.items()}
        super().__init__(**attributes | {"commands": placeholders})

    def resolve_command(
        self, ctx: Any, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        """Replace the placeholder of the called verb by the verb itself."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_verb(name), rest


def load_verb(name: str) -> TyperCommand | TyperGroup:
    """Import a verb's module and return its command."""
    verbs = typer.Typer(rich_markup_mode=None)
    importlib.import_module(f"{__name__}.{VERBS[name].module}").add_to(verbs)
    command = typer.main.get_group(verbs).commands[name]
    assert isinstance(command, TyperCommand | TyperGroup)  # noqa: S101 - Typer makes no other
    return command


app = typer.Typer(
    name="purchase-stream",
    cls=LazyGroup,
    help="Score student engagement events from Kafka, exactly once: will this student buy?",
    epilog="Example: purchase-stream --config prod.toml score",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer passes the flag
    if wanted:
        typer.echo(f"purchase-stream {version('purchase-stream')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file instead of ./purchase-stream.toml.", metavar="FILE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting, as section.key=value; overrides file and environment. Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show tracebacks.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print name and version.", callback=_print_version, is_eager=True),
    ] = False,
    with_parent: Annotated[
        bool, typer.Option("--lifeline", help="Stop when standard input ends.", hidden=True)
    ] = False,
) -> None:
    """Read the options that precede every verb."""
    if with_parent:
        stop_with_parent()
    logs.configure("debug" if debug else "info")
    context.obj = Context(config_file=config, overrides=settings or [], debug=debug)


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; a failure prints one line on standard error and sets the exit code."""
    debug = "--debug" in (arguments or sys.argv[1:])
    try:
        code = app(args=arguments, prog_name="purchase-stream", standalone_mode=False)
    except typer.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except typer.exceptions.TyperException as error:
        message = error.format_message()
        if "\n" in message:  # a group without a verb: its help
            typer.echo(message, err=True)
            sys.exit(EXIT_USAGE)
        _fail(f"{message} (--help shows how)", EXIT_USAGE)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))
    if code:
        sys.exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    """Return the line that describes an error, and its exit code."""
    if isinstance(error, ServiceError):
        return str(error), error.exit_code
    if isinstance(error, TrainingDataError):
        return str(error), EXIT_BAD_INPUT
    if isinstance(error, ModelStoreError | SchemaError):
        return str(error), EXIT_CONFIGURATION
    if isinstance(error, ModuleNotFoundError) and (
        extra := _EXTRAS.get((error.name or "").partition(".")[0])
    ):
        return f"{error.name} is not installed: pip install 'purchase-stream[{extra}]'", EXIT_CONFIGURATION
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", EXIT_BUG


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    print(f"purchase-stream: {line}", file=sys.stderr)  # noqa: T201 - the command's answer
    sys.exit(code)
