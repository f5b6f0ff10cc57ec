"""``report``: write the drift over a span of the audit log or the predictions topic to a file."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from consumer.cli.context import Context
from consumer.cli.formatting import parse_time
from consumer.dashboard.view import render_report
from consumer.errors import StartupError, UsageError
from consumer.kafka.schema_registry import writer_schemas
from consumer.monitor.audit.log import audit_log_lines
from consumer.monitor.audit.removals import read_removals, removal_lines
from consumer.monitor.audit.topic import read_topic_lines
from consumer.monitor.drift import span
from consumer.monitor.drift.tracker import Baselines
from consumer.monitor.view import report_view
from model_store.countries import country_code
from model_store.store import ModelStore


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream report --since 7d --out report.html")(report)


def report(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(help="Start: a time such as 2026-01-31T12:00Z, or an age: 24h, 7d, 30m.", metavar="T"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="End (exclusive), in the same form. Default: now.", metavar="T"),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Audit log instead of the configured one.")] = None,
    topic: Annotated[
        bool, typer.Option("--topic", help="Read the predictions topic instead of an audit log.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="File to write. A name that ends in .json gets JSON instead of HTML.")
    ] = Path("report.html"),
) -> None:
    """Write a report on drift over a span of the audit log, or of the topic, as one HTML or JSON file."""
    given: Context = context.obj
    settings = given.settings()
    now = datetime.now(UTC)
    store = ModelStore(settings.model_store.path, settings.model_store.model)
    start = parse_time(since, now, "--since")
    if topic and log:
        raise UsageError("--topic and --log name two sources; give one of them")
    path = log or settings.audit.path
    removals = read_removals(path)
    found = span.read_span(
        read_topic_lines(settings, writer_schemas(settings), start, removals)
        if topic
        else audit_log_lines(path),
        f"the topic {settings.topics.predictions}" if topic else f"the audit log {path.name}",
        start,
        parse_time(until, now, "--until"),
        Baselines(store),
        country_code,
        settings.drift,
    )
    view = report_view(found, settings.drift, time.time())
    as_json = out.suffix.lower() == ".json"
    try:
        out.write_bytes(orjson.dumps(view, option=orjson.OPT_INDENT_2) if as_json else render_report(view))
    except OSError as error:
        raise StartupError(f"{out} cannot be written: {error.strerror}; name another with --out") from error
    typer.echo(f"{out}: {found.predictions} predictions of {len(found.versions)} model versions")
    for line in removal_lines(removals):
        typer.echo(line)
    if found.damaged:
        typer.echo(f"skipped {found.damaged} damaged lines, the first: {found.first_damaged}", err=True)
    for version in found.versions:
        verdict = version.verdict
        if verdict is None:
            typer.echo(f"{version.version}: not comparable: {version.problem}")
            continue
        drifted = ", ".join(verdict.drifted_features) or "none"
        judged = "" if verdict.judged else " (too few to judge)"
        typer.echo(f"{version.version}: {verdict.students} students{judged}, drifted features: {drifted}")
