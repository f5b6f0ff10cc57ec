"""``report``: drift over a span of the audit log or the predictions topic, as a file."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from consumer import timestamps
from consumer.cli.context import Context
from consumer.errors import StartupError, UsageError

_AGO: Final = re.compile(r"(\d+)([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(epilog="Example: purchase-stream report --since 7d --out report.html")(report)


def report(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(help="Begin: a time such as 2026-01-31T12:00Z, or 24h, 7d, 30m ago.", metavar="T"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="End (exclusive), in the same form; without it, what there is now.", metavar="T"),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Audit log instead of the configured one.")] = None,
    topic: Annotated[
        bool, typer.Option("--topic", help="Read the predictions topic instead of an audit log.")
    ] = False,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Write a drift report of a span of the audit log, or of the topic, as one HTML file."""
    from consumer.dashboard.report import render_report  # noqa: PLC0415
    from consumer.monitor.audit.reader import audit_log_lines  # noqa: PLC0415 - NumPy is not needed for --help
    from consumer.monitor.drift import span  # noqa: PLC0415
    from consumer.monitor.drift.baselines import Baselines  # noqa: PLC0415
    from consumer.monitor.drift.span import topic_lines  # noqa: PLC0415
    from consumer.monitor.view import report_view  # noqa: PLC0415
    from consumer.roles.shared import writer_schemas  # noqa: PLC0415
    from model_store.countries import country_code  # noqa: PLC0415
    from model_store.store import ModelStore  # noqa: PLC0415

    given: Context = context.obj
    settings = given.settings()
    now = datetime.now(UTC)
    store = ModelStore(settings.model_store.path, settings.model_store.model)
    begin = parse_time(since, now, "--since")
    if topic and log:
        raise UsageError("--topic and --log name two sources; give one of them")
    path = log or settings.audit.path
    found = span.read_span(
        topic_lines(settings, writer_schemas(settings), begin) if topic else audit_log_lines(path),
        f"the topic {settings.topics.predictions}" if topic else f"the audit log {path.name}",
        begin,
        parse_time(until, now, "--until"),
        Baselines(store),
        country_code,
        settings.drift,
    )
    html = render_report(report_view(found, settings.drift, time.time()))
    try:
        out.write_bytes(html)
    except OSError as error:
        raise StartupError(f"{out} cannot be written: {error.strerror}; name another with --out") from error
    typer.echo(f"{out}: {found.predictions} predictions of {len(found.versions)} model versions")
    for version in found.versions:
        verdict = version.verdict
        if verdict is None:
            typer.echo(f"{version.version}: not comparable: {version.problem}")
            continue
        drifted = ", ".join(verdict.drifted_features) or "none"
        judged = "" if verdict.judged else " (too few to be judged)"
        typer.echo(f"{version.version}: {verdict.students} students{judged}, drifted features: {drifted}")


def parse_time(text: str | None, now: datetime, option: str) -> datetime | None:
    """Return the time that an option names; without a zone it is UTC.

    Raises:
        UsageError: it names none.
    """
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return timestamps.parse(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text}: write 2026-01-31T12:00Z, or 24h, 7d, 30m") from error
