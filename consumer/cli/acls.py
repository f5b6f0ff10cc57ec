"""``acls``: print the rights on Kafka that each role needs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from consumer.cli.context import Context
from consumer.errors import UsageError
from consumer.ops.acls import User, kafka_acls, merged, strimzi_user
from consumer.printable import printable


class Format(StrEnum):
    """The form in which the rights are printed."""

    KAFKA_ACLS = "kafka-acls"
    STRIMZI = "strimzi"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream acls --principal User:scorer --role score")(acls)


def acls(
    context: typer.Context,
    principal: Annotated[
        str,
        typer.Option(help="The principal that gets the rights, such as User:scorer.", metavar="User:NAME"),
    ],
    role: Annotated[
        list[User] | None, typer.Option(help="A role or verb. Repeatable; by default the three roles.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="Commands, or a Strimzi KafkaUser.")
    ] = Format.KAFKA_ACLS,
    cluster: Annotated[str, typer.Option(help="The Strimzi Kafka resource.", metavar="NAME")] = "my-cluster",
) -> None:
    """Print the rights on Kafka that a role needs, and no more.

    The topics, the group and the delivery guarantee are those of the settings. Nothing is changed.
    """
    if not principal.startswith("User:") or principal == "User:":
        raise UsageError("--principal takes User:NAME")
    given: Context = context.obj
    settings = given.settings()
    rights = merged(settings, role or [User.SCORE, User.MONITOR, User.SERVE])
    if format_ is Format.STRIMZI:
        lines = strimzi_user(principal, cluster, rights)
    else:
        lines = kafka_acls(principal, settings.kafka.bootstrap_servers, rights)
    for line in lines:
        typer.echo(printable(line))
