"""The command ``purchase-stream``: one module per group of verbs, and how errors become exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from consumer.cli import (
    audit,
    bench,
    demo,
    dlq,
    doctor,
    models,
    produce,
    report,
    roles,
    run,
    schemas,
    topics,
    why,
)
from consumer.cli.context import Context
from consumer.errors import ServiceError
from consumer.runtime import logging as logs
from consumer.runtime.lifeline import stop_with_parent
from model_store.errors import ModelStoreError, TrainingDataError
from schemas.errors import SchemaError

EXIT_USAGE, EXIT_BAD_INPUT, EXIT_BUG, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 64, 65, 70, 78, 130

app = typer.Typer(
    name="purchase-stream",
    help="Scores student engagement events from Kafka: will this student buy? Exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file instead of ./purchase-stream.toml.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="One setting, as section.key=value; overrides everything.", metavar="KEY=VALUE"
        ),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Log more, and show tracebacks.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--lifeline", help="Stop when standard input ends.", hidden=True)
    ] = False,
) -> None:
    """Read what holds for every verb."""
    if with_parent:
        stop_with_parent()
    logs.configure(debug=debug)
    context.obj = Context(config_file=config, overrides=settings or [], debug=debug)


roles.add_to(app)
models.add_to(app)
topics.add_to(app)
run.add_to(app)
produce.add_to(app)
dlq.add_to(app)
why.add_to(app)
doctor.add_to(app)
schemas.add_to(app)
bench.add_to(app)
audit.add_to(app)
report.add_to(app)
demo.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; every failure is one line on standard error and an exit code."""
    debug = "--debug" in (arguments or sys.argv[1:])
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except typer.exceptions.TyperException as error:
        _fail(f"{error.format_message()} (--help shows how)", EXIT_USAGE)
    except Exception as error:
        if debug:
            raise
        _fail(*_explained(error))
    if code:
        sys.exit(code)


def _explained(error: Exception) -> tuple[str, int]:
    if isinstance(error, ServiceError):
        return str(error), error.exit_code
    if isinstance(error, TrainingDataError):
        return str(error), EXIT_BAD_INPUT
    if isinstance(error, ModelStoreError | SchemaError):
        return str(error), EXIT_CONFIGURATION
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", EXIT_BUG


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    print(f"purchase-stream: {line}", file=sys.stderr)  # noqa: T201 - this is the command's answer
    sys.exit(code)
