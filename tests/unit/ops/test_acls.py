"""The rights that each role needs: complete in the docs, and in two forms that administrators can apply."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from typer.testing import CliRunner

from consumer.cli import app
from consumer.ops.acls import Grant, User, grants, kafka_acls, merged, strimzi_user
from consumer.settings import Settings
from tests.support.secured_kafka import granted_by

DOCS = Path(__file__).parents[3] / "docs" / "security.md"


def row(user: User) -> str:
    """Return the row of the table in the docs."""
    cells = []
    for resource in ("topic", "group", "transactional-id"):
        names: dict[str, list[str]] = {}
        for grant in grants(Settings(), user):
            if grant.resource == resource:
                names.setdefault(grant.name + "*" * grant.prefixed, []).append(grant.operation)
        cells.append("; ".join(f"`{name}` {', '.join(operations)}" for name, operations in names.items()))
    return f"| `{user}` | {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def test_the_docs_list_the_rights_of_every_role() -> None:
    """The table is what `acls` prints."""
    text = DOCS.read_text(encoding="utf-8")
    for user in User:
        assert row(user) in text


def test_kafka_acls_are_commands_for_each_resource() -> None:
    """A prefixed name is one, and operations on the same resource share a command."""
    lines = list(kafka_acls("User:x", "b:9092", merged(Settings(), [User.SCORE])))
    assert [shlex.split(line)[:6] for line in lines] == [
        ["kafka-acls.sh", "--bootstrap-server", "b:9092", "--add", "--allow-principal", "User:x"]
    ] * len(lines)
    assert any("--operation Read --operation Write --topic engagement-events.dlq" in line for line in lines)
    assert any(
        line.endswith("--transactional-id purchase-stream- --resource-pattern-type prefixed")
        for line in lines
    )


@pytest.mark.parametrize("user", User)
def test_a_strimzi_user_has_the_rights_of_the_commands(user: User) -> None:
    """Its kinds and patterns have Strimzi's names."""
    rights = merged(Settings(), [user])
    manifest = yaml.safe_load("\n".join(strimzi_user("User:x", "c", rights)))
    assert manifest["metadata"] == {"name": "x", "labels": {"strimzi.io/cluster": "c"}}
    assert manifest["spec"]["authorization"]["type"] == "simple"
    kinds = {"transactionalId": "transactional-id"}
    granted = sorted(
        (
            kinds.get(entry["resource"]["type"], entry["resource"]["type"]),
            entry["resource"]["name"] + "*" * (entry["resource"]["patternType"] == "prefix"),
            operation,
        )
        for entry in manifest["spec"]["authorization"]["acls"]
        for operation in entry["operations"]
    )
    assert granted == sorted(granted_by(kafka_acls("User:x", "b:9092", rights)))
    assert granted == sorted((g.resource, g.name + "*" * g.prefixed, g.operation) for g in rights)


def test_the_verb_takes_names_and_delivery_from_the_settings() -> None:
    """At least once needs no transactional id."""
    words = "--set kafka.group_id=g --set kafka.delivery=at_least_once acls --principal User:x --role score"
    result = CliRunner().invoke(app, words.split())
    assert "--group g" in result.output
    assert "transactional" not in result.output
    assert Grant("group", "g", "Read") in grants(Settings(kafka={"group_id": "g"}), User.SCORE)
