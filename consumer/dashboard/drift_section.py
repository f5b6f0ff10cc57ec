"""Where scores and inputs stand against training, and the model that is on. Pure."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from consumer import timestamps
from consumer.dashboard.facts import PageView
from consumer.dashboard.markup import Child, duration, moment, number, percent, scrolling, table, tag
from consumer.dashboard.series import badge, legend, series_cards
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, judge
from consumer.monitor.outcomes.quality import Comparison


def drift_section(facts: PageView) -> ET.Element:
    """Draw the last closed window; the running one while none is closed; training while that is empty."""
    drift = facts.findings.drift
    content: list[Child]
    if drift.baseline is None:
        content = [tag("p", f"Nothing to compare with: {drift.problem}.", class_="empty")]
    else:
        baseline = drift.baseline.baseline
        running = judge(drift.running, baseline, facts.drift, closed=False) if drift.running else None
        shown = drift.latest or (running if running and running.students else None)
        content = [
            tag("p", *_which(shown, running, facts)),
            _windows(drift.recent) if drift.recent else None,
            legend(),
            tag("div", *series_cards(shown, baseline), class_="cards"),
        ]
    return tag(
        "section",
        tag("h2", "Live against training", id="drift-title"),
        *content,
        id="drift",
        aria_labelledby="drift-title",
        data_live=True,
    )


def model_section(facts: PageView) -> ET.Element:
    """Say which model is on, how good it was, and how good it is."""
    drift = facts.findings.drift
    if drift.baseline is None:
        name = drift.model_version
        words = f"{name}, of which nothing is known: {drift.problem}." if name else f"None: {drift.problem}."
        content: list[Child] = [tag("p", words, class_="empty")]
    else:
        manifest = drift.baseline.manifest
        quality = manifest.metrics.held_out
        since: Child = "not the champion now"
        if facts.champion_since:
            since = moment(timestamps.parse(facts.champion_since).timestamp(), with_date=True)
        created_s = manifest.created_at.timestamp()
        content = [
            tag(
                "dl",
                _fact("Version", tag("code", drift.model_version or "")),
                _fact("On since", since),
                _fact("Trained", moment(created_s, with_date=True), f" ({_ago(facts.at_s - created_s)})"),
                _fact(
                    "Trained on",
                    manifest.training_data.source,
                    f" ({number(manifest.training_data.rows)} rows)",
                ),
                _fact("Predicts a purchase at", f"a probability of {percent(manifest.threshold.value)}"),
                _fact("Average precision", number(quality.average_precision), " held out"),
                _fact("Precision, recall", f"{percent(quality.precision)}, {percent(quality.recall)}"),
                _fact("Brier score", number(quality.brier_score)),
                class_="facts",
            ),
            _outcomes(facts),
        ]
    return tag(
        "section",
        tag("h2", "Which model is on", id="model-title"),
        *content,
        id="model",
        aria_labelledby="model-title",
        data_live=True,
    )


def _which(shown: WindowVerdict | None, running: WindowVerdict | None, facts: PageView) -> list[Child]:
    students = number(running.students if running else 0)
    progress = f"{students} of {number(facts.drift.window_students)} students are in the running window."
    if shown is None or shown.last_ms is None:
        return ["Training alone, for no prediction of this model was seen yet. ", progress]
    if not shown.closed:
        return ["The running window, which is judged when it is full. ", progress]
    return [
        f"Window {shown.number}: {number(shown.students)} different students, until ",
        moment(shown.last_ms / 1000),
        ". ",
        progress,
    ]


def _windows(recent: tuple[WindowVerdict, ...]) -> ET.Element:
    """List the last windows, a sign each, in words for those who cannot see it."""
    items = []
    for window in recent:
        drifted = bool(window.drifted_features) or window.predictions_shifted
        status = (
            DriftStatus.UNKNOWN if not window.judged else DriftStatus.DRIFT if drifted else DriftStatus.OK
        )
        words = tag("span", f": {status}", class_="unseen")
        items.append(tag("li", badge(status, f"{window.number}"), words))
    return tag("div", tag("span", "Last windows: "), tag("ol", *items, class_="windows"), class_="strip")


def _outcomes(facts: PageView) -> ET.Element:
    outcomes = facts.findings.outcomes
    if outcomes.state == "off":
        return tag("p", "No outcomes topic: live precision and recall are not known.", class_="empty")
    matured = outcomes.running.outcomes if outcomes.running else 0
    words = (
        f"Outcomes: {number(outcomes.joined)} joined, {number(matured)} of"
        f" {number(facts.outcomes.window_outcomes)} for the next verdict."
    )
    if outcomes.verdict is None:
        return tag("p", words, class_="empty")
    verdict = outcomes.verdict
    rows = [
        _compared("Precision", verdict.precision),
        _compared("Recall", verdict.recall),
        _compared("Brier score", verdict.brier),
    ]
    columns = ["Quality", "Realised", "Expected", "Verdict"]
    shown = table(f"Of the last {number(verdict.outcomes)} outcomes", columns, rows)
    return tag("div", scrolling(shown, "quality", "Realised quality"), tag("p", words))


def _compared(name: str, figure: Comparison) -> list[Child]:
    status = (
        DriftStatus.UNKNOWN
        if figure.decayed is None
        else DriftStatus.DRIFT
        if figure.decayed
        else DriftStatus.OK
    )
    words = {DriftStatus.UNKNOWN: "not judged", DriftStatus.DRIFT: "decayed", DriftStatus.OK: "as expected"}[
        status
    ]
    return [name, number(figure.realised), number(figure.expected), badge(status, words)]


def _fact(name: str, *values: Child) -> ET.Element:
    return tag("div", tag("dt", name), tag("dd", *values))


def _ago(seconds: float) -> str:
    return f"{duration(max(0.0, seconds))} ago"
