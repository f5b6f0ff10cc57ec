"""The drift report: one HTML file that needs nothing beside it, on a screen or on paper. Pure."""

from __future__ import annotations

from typing import Any

from consumer.dashboard.rendering import render
from consumer.dashboard.view import series_cards


def render_report(view: dict[str, Any]) -> bytes:
    """Return the report.

    Args:
        view: the drift over a span, see :func:`consumer.monitor.view.report_view`.
    """
    versions = [
        {**version, "cards": [] if version["problem"] else series_cards(version)}
        for version in view["versions"]
    ]
    return render("report.html", {**view, "versions": versions})
