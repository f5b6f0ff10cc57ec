"""The report as a document that needs nothing beside it, on a screen or on paper. Pure."""

from __future__ import annotations

from datetime import datetime
from xml.etree import ElementTree as ET

from consumer import timestamps
from consumer.dashboard.markup import Child, document, moment, number, percent, table, tag
from consumer.dashboard.series import badge, legend, series_cards, title
from consumer.monitor.drift.span import Span, VersionSpan
from consumer.monitor.drift.verdict import DriftStatus
from consumer.settings import DriftSettings


def report(span: Span, settings: DriftSettings, style: str, made_at_s: float) -> bytes:
    """Return the report.

    Args:
        span: what was read.
        settings: what was tolerated.
        style: the style sheet, to be put in.
        made_at_s: seconds since the epoch.
    """
    sections = [_section(version) for version in span.versions]
    return document(
        tag(
            "html",
            tag(
                "head",
                tag("meta", charset="utf-8"),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("meta", name="color-scheme", content="light dark"),
                tag("title", "Drift report · Purchase Stream"),
                tag("style", style),
            ),
            tag(
                "body",
                tag(
                    "header", tag("h1", "Drift report"), tag("p", "Made ", moment(made_at_s, with_date=True))
                ),
                tag("main", _overview(span), *sections, _explanation(settings)),
                class_="report",
            ),
            lang="en",
        )
    )


def _overview(span: Span) -> ET.Element:
    if not span.versions:
        return tag("p", f"No prediction in {_named(span)}.", class_="empty")
    rows: list[list[Child]] = [
        [
            tag("code", version.version),
            badge(_status(version)),
            number(version.predictions),
            number(version.verdict.students) if version.verdict else number(None),
            percent(version.verdict.rate.predicted_positive_ratio if version.verdict else None),
            percent(version.model.baseline.predicted_positive_ratio if version.model else None),
        ]
        for version in span.versions
    ]
    columns = ["Model", "Verdict", "Predictions", "Students", "Will buy", "Training"]
    return tag(
        "section",
        tag("p", f"Of {_named(span)}."),
        tag("div", table("Models in this span", columns, rows), class_="scroll", tabindex=0),
    )


def _section(version: VersionSpan) -> ET.Element:
    heading = tag("h2", "Model ", tag("code", version.version))
    made = tag(
        "p",
        f"{number(version.predictions)} predictions, from ",
        moment(version.first_s, with_date=True),
        " to ",
        moment(version.last_s, with_date=True),
        ".",
    )
    if version.verdict is None or version.model is None:
        return tag("section", heading, made, tag("p", f"Not comparable: {version.problem}", class_="empty"))
    named = ", ".join(title(name) for name in version.verdict.drifted_features)
    words = {
        DriftStatus.OK: "Students are as in training.",
        DriftStatus.DRIFT: f"Not as in training: {named or 'the predictions'}.",
        DriftStatus.UNKNOWN: "Too few students to be judged.",
    }[_status(version)]
    return tag(
        "section",
        heading,
        made,
        tag("p", tag("strong", words)),
        legend(),
        tag("div", *series_cards(version.verdict, version.model.baseline, open_numbers=True), class_="cards"),
    )


def _status(version: VersionSpan) -> DriftStatus:
    verdict = version.verdict
    if verdict is None or not verdict.judged:
        return DriftStatus.UNKNOWN
    return DriftStatus.DRIFT if verdict.drifted_features or verdict.predictions_shifted else DriftStatus.OK


def _explanation(settings: DriftSettings) -> ET.Element:
    return tag(
        "footer",
        tag("h2", "How to read this"),
        tag(
            "p",
            "Wide bars are training, narrow ones the students of this span, each counted once. PSI is the"
            " population stability index over the bins. Drift is an index beyond what"
            f" {number(settings.tolerated_psi)} in truth and chance explain in less than one of"
            f" {number(settings.windows_per_false_alarm)} such spans. z is the difference of the means in"
            f" standard deviations. A span of fewer than {number(settings.minimum_students)} students is not"
            " judged.",
        ),
    )


def _named(span: Span) -> str:
    return f"{span.source}, from {_time(span.since, 'its beginning')} to {_time(span.until, 'its end')}"


def _time(time: datetime | None, otherwise: str) -> str:
    return timestamps.format_s(time.timestamp()) if time else otherwise
