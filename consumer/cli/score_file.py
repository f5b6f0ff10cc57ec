"""``score-file``: score a file with the stream's own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from consumer.cli.context import Context
from consumer.errors import BadInputError
from consumer.ops.score_file import score_file
from consumer.printable import printable

_SHOWN: Final = 10
"""The number of bad rows to print."""


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("score-file", epilog="Example: purchase-stream score-file students.csv scores.csv")(
        score_a_file
    )


def score_a_file(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(help="CSV with the seven inputs; other columns are copied.", metavar="IN.csv")
    ],
    target: Annotated[
        Path,
        typer.Argument(help="The file to write: .csv, .jsonl or .parquet.", metavar="OUT.csv|jsonl|parquet"),
    ],
    version: Annotated[
        str, typer.Option(help="The model: a version's id, or an alias.", metavar="VERSION")
    ] = "champion",
) -> None:
    """Score the students of a CSV file, exactly as the stream would.

    Prints the rows that cannot be scored, and then ends with exit code 65. The output has every row of the
    input, with a prediction or the error.
    """
    given: Context = context.obj
    settings = given.settings()
    model = settings.model_store.open().load(version)
    console = Console(stderr=True)
    total_bytes = source.stat().st_size if source.is_file() else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"scoring {printable(source.name)}", total=total_bytes)
        score = score_file(source, target, model, lambda _, n_bytes: progress.update(task, completed=n_bytes))
    for line, error in score.bad[:_SHOWN]:
        typer.echo(f"{source}, line {line}: {printable(error)}", err=True)
    if len(score.bad) > _SHOWN:
        typer.echo(f"… and {len(score.bad) - _SHOWN} more; see the column error", err=True)
    scored = score.rows - len(score.bad)
    typer.echo(f"{target}: {scored} students scored by {model.version}, {score.positive} will buy")
    if score.bad:
        raise BadInputError(f"{len(score.bad)} of {score.rows} rows could not be scored; see above")
