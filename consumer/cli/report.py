"""``report``: write the drift over a span of the audit log or the predictions topic to a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

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
from consumer.monitor.drift.verdict import DriftStatus
from consumer.monitor.view import report_view
from model_store.countries import country_code

EXIT_DRIFT: Final = 1
"""The exit code of ``--fail-on-drift`` if there is drift."""

_DEFAULT_FILE: Final = Path("report.html")


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
        Path | None,
        typer.Option(
            help="File to write. A name that ends in .json gets JSON instead of HTML. Default: report.html,"
            " with --json none.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with 1 if a model version has drifted.")
    ] = False,
) -> None:
    """Write a report on drift over a span of the audit log, or of the topic, as one HTML or JSON file.

    The span is judged in the monitor's windows. Exit code with --fail-on-drift: 1 if a window drifted.
    """
    given: Context = context.obj
    settings = given.settings()
    now = datetime.now(UTC)
    store = settings.model_store.open()
    start = parse_time(since, now, "--since")
    if topic and log:
        raise UsageError("--topic and --log exclude each other; give only one")
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
    view = report_view(found, settings.drift, time.time(), list(removal_lines(removals)))
    content = orjson.dumps(view, option=orjson.OPT_INDENT_2)
    file = out or (None if as_json else _DEFAULT_FILE)
    if file is not None:
        try:
            file.write_bytes(content if file.suffix.lower() == ".json" else render_report(view))
        except OSError as error:
            raise StartupError(
                f"{file} cannot be written: {error.strerror}; name another with --out"
            ) from error
    if as_json:
        typer.echo(content)
    else:
        for line in _summary(found, file, view["removals"]):
            typer.echo(line)
    if found.damaged:
        typer.echo(f"skipped {found.damaged} damaged lines, the first: {found.first_damaged}", err=True)
    if fail_on_drift and any(version.status == DriftStatus.DRIFT for version in found.versions):
        raise typer.Exit(EXIT_DRIFT)


def _summary(found: span.Span, file: Path | None, removals: list[str]) -> Iterator[str]:
    """Summarize the report, one fact per line."""
    yield f"{file}: {found.predictions} predictions of {len(found.versions)} model versions"
    yield from removals
    for version in found.versions:
        verdict = version.verdict
        if verdict is None:
            yield f"{version.version}: not comparable: {version.problem}"
            continue
        windows = [window for window in version.windows if window.judged]
        drifted = sum(window.status == DriftStatus.DRIFT for window in windows)
        judged = f"{drifted} of {len(windows)} windows drifted" if windows else "no full window"
        if not windows and not verdict.judged:
            judged += ", too few to judge"
        features = ", ".join(version.drifted_features) or "none"
        yield (
            f"{version.version}: {version.status}; {verdict.students} students, {judged},"
            f" drifted features: {features}"
        )
