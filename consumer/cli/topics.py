"""``topics create``."""

from __future__ import annotations

from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, TopicSpec

topics = typer.Typer(
    help="Create the Kafka topics.",
    epilog="Example: purchase-stream topics create --partitions 6",
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(topics, name="topics")


@topics.command(epilog="Example: purchase-stream topics create --partitions 6")
def create(
    context: typer.Context,
    partitions: Annotated[
        int, typer.Option(help="Partitions of each topic that is created.", min=1, metavar="N")
    ] = 3,
) -> None:
    """Create the five topics; existing ones stay as they are."""
    given: Context = context.obj
    settings = given.settings()
    names = settings.topics.model_dump().values()
    specs = [TopicSpec(name=name, partitions=partitions) for name in names]
    admin = ClusterAdmin(client_config.common(settings.kafka), timeout_s=15)
    for name, outcome in admin.create_topics(specs).items():
        state = "created" if outcome.created else "exists"
        typer.echo(f"{name}: {state}, {outcome.partitions} partitions")
