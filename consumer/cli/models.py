"""``train`` and ``models …``."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.errors import UsageError
from consumer.settings import Settings
from model_store.inputs import EngagementWeights
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train as fit
from model_store.training_data import read_training_csv

models = typer.Typer(
    help="The model store.", epilog="Example: purchase-stream models ls", no_args_is_help=True
)

GENERATED_STUDENTS = 20_000

Reason = Annotated[str, typer.Option(help="The reason, recorded in the history.")]
Version = Annotated[str, typer.Argument(help="A version's id, or an alias.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog="Example: purchase-stream train --data students.csv --promote")(train)
    app.add_typer(models, name="models")


def train(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="CSV with the seven inputs and `purchased`.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the champion.")] = False,
    criterion: Annotated[str, typer.Option(help="How to choose the threshold: max_f1 or cost.")] = "max_f1",
    false_positive_cost: Annotated[
        float, typer.Option(help="For cost: the cost of flagging a student who will not buy.")
    ] = 1.0,
    false_negative_cost: Annotated[
        float, typer.Option(help="For cost: the cost of missing a student who will buy.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(help="The seed of the splits: equal data and seeds give equal models.")
    ] = 0,
) -> None:
    """Train a model and add it to the store; without --data, train on generated students."""
    if criterion not in ("max_f1", "cost"):
        raise UsageError(f"--criterion {criterion}: max_f1 or cost")
    settings = _settings(context)
    weights = settings.training
    table = read_training_csv(data) if data else generate_students(GENERATED_STUDENTS, seed)
    try:
        trained = fit(
            table,
            weights=EngagementWeights(
                minutes_watched=weights.weight_minutes_watched,
                days_on_platform=weights.weight_days_on_platform,
                courses_started=weights.weight_courses_started,
            ),
            criterion=criterion,  # type: ignore[arg-type]  # checked above
            false_positive_cost=false_positive_cost,
            false_negative_cost=false_negative_cost,
            seed=seed,
        )
    except ValueError as error:  # a weight or a cost is out of range
        raise UsageError(str(error)) from error
    store = _store(settings)
    version = store.add(trained)
    quality = trained.metrics.cross_validated
    typer.echo(f"trained on {table.rows} students from {table.source}, {table.positives} of them buyers")
    typer.echo(
        f"cross-validated: average precision {quality.average_precision:.3f}, "
        f"ROC AUC {quality.roc_auc:.3f}, Brier score {quality.brier_score:.4f}"
    )
    typer.echo(
        f"threshold {trained.threshold.value:.4f} ({trained.threshold.criterion}): "
        f"precision {trained.threshold.precision:.3f}, recall {trained.threshold.recall:.3f}"
    )
    typer.echo(f"version {version} in {store.folder}")
    if promote:
        store.promote(version, reason="train --promote", actor=getpass.getuser())
        typer.echo("it is now the champion")
    else:
        typer.echo(f"activate it with: purchase-stream models promote {version}")


@models.command("ls", epilog="Example: purchase-stream models ls")
def list_versions(context: typer.Context) -> None:
    """List versions, oldest first, with their quality and aliases."""
    store = _store(_settings(context))
    names: dict[str, list[str]] = {}
    for alias, target in store.aliases().items():
        names.setdefault(target.version, []).append(alias)
    for version in store.versions():
        manifest = store.manifest(version)
        quality = manifest.metrics.cross_validated
        typer.echo(
            f"{version}  AP {quality.average_precision:.3f}  AUC {quality.roc_auc:.3f}  "
            f"threshold {manifest.threshold.value:.4f}  {', '.join(names.get(version, []))}".rstrip()
        )


@models.command(epilog="Example: purchase-stream models show champion")
def show(context: typer.Context, version: Version = "champion") -> None:
    """Print a version's manifest."""
    typer.echo(_store(_settings(context)).manifest(version).model_dump_json(indent=2))


@models.command(epilog="Example: purchase-stream models verify champion")
def verify(context: typer.Context, version: Version = "champion") -> None:
    """Check a version's digests, library versions and feature names, and run its self-test."""
    manifest = _store(_settings(context)).verify(version)
    typer.echo(f"{manifest.version} is good")


@models.command(
    epilog="Example: purchase-stream models promote 20261122T101500Z-1a2b3c4d --reason 'new term'"
)
def promote(context: typer.Context, version: Version, reason: Reason = "") -> None:
    """Make a version the champion; running scorers switch to it within seconds."""
    target = _store(_settings(context)).promote(version, reason=reason, actor=getpass.getuser())
    typer.echo(f"champion is {target.version}")


@models.command(epilog="Example: purchase-stream models rollback --reason 'flags too many'")
def rollback(context: typer.Context, reason: Reason = "") -> None:
    """Make the previous champion the champion again."""
    target = _store(_settings(context)).rollback(reason=reason, actor=getpass.getuser())
    typer.echo(f"champion is {target.version}")


def _settings(context: typer.Context) -> Settings:
    given: Context = context.obj
    return given.settings()


def _store(settings: Settings) -> ModelStore:
    return ModelStore(settings.model_store.path, settings.model_store.model)
