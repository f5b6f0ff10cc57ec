"""Is it well? The conditions, the recommendation and what could not be asked, in words. Pure."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

from consumer.dashboard.facts import PageView
from consumer.dashboard.markup import duration, moment, number, sentence, tag
from consumer.dashboard.series import title
from consumer.errors import Condition

_CONDITIONS: Final = {
    Condition.STARTING: "Starting.",
    Condition.BROKER: "Kafka does not answer.",
    Condition.PARTITION: "A partition cannot be read.",
    Condition.SCHEMA_REGISTRY: "The schema registry does not answer.",
    Condition.MODEL: "No usable model.",
    Condition.AUDIT_LOG: "The audit log cannot be written.",
}

_ADVICE: Final = {
    "baseline_not_loaded": "No training baseline to compare with: train and promote a model.",
    "no_predictions_observed": "No prediction of this model has been seen yet.",
    "insufficient_samples": "Too few students yet to judge drift.",
    "feature_distribution_drift": "Students differ from those in training: train again.",
    "prediction_rate_shift": "Predictions differ from those in training: train again.",
    "performance_decay": "Predictions come true less often than they should: train again.",
    "below_threshold": "Nothing asks for a new model.",
}


def health_section(facts: PageView) -> ET.Element:
    """Say whether all is well, and what is not."""
    recommendation = facts.findings.recommendation
    notes: list[ET.Element] = []
    for name, condition in facts.conditions.items():
        lasting = f" ({duration(max(0.0, facts.at_s - condition.since_s))})"
        reason, since = f"{condition.reason}. Since ", moment(condition.since_s)
        notes.append(_note("bad", "✗", _CONDITIONS[name], reason, since, lasting))
    advice = _ADVICE[recommendation.reason]
    causes = ", ".join(title(cause) for cause in recommendation.causes)
    if recommendation.should_retrain:
        notes.append(_note("warn", "▲", advice, f"Confirmed: {causes}." if causes else ""))
    elif recommendation.reason == "baseline_not_loaded":
        notes.append(_note("warn", "▲", advice, sentence(facts.findings.drift.problem)))
    else:
        notes.append(_note("quiet", "○", advice, _waiting(facts)))
    problems = {facts.stream.progress_problem, facts.stream.rejections_problem} - {""}
    if not facts.conditions:  # else it has been said
        notes += [_note("quiet", "○", "Not known.", sentence(problem)) for problem in sorted(problems)]
    return tag(
        "section",
        tag("h2", "Is it well?", id="health-title"),
        tag("p", *_headline(facts), class_=f"headline {_level(facts)}"),
        tag("ul", *notes, class_="notes"),
        id="health",
        aria_labelledby="health-title",
        data_live=True,
    )


def short_status(facts: PageView) -> str:
    """Return the verdict in a word, for the title of the tab."""
    return {"bad": "✗ not well", "warn": "▲ attention", "good": "✓ well"}[_level(facts)]


def _level(facts: PageView) -> str:
    if facts.conditions:
        return "bad"
    recommendation = facts.findings.recommendation
    needs_someone = recommendation.should_retrain or recommendation.reason == "baseline_not_loaded"
    return "warn" if needs_someone else "good"


def _headline(facts: PageView) -> tuple[ET.Element, str]:
    sign, words = {
        "bad": ("✗", " Not well"),
        "warn": ("▲", " Running, and needs someone to look"),
        "good": ("✓", " All is well"),
    }[_level(facts)]
    return tag("span", sign, aria_hidden="true"), words


def _waiting(facts: PageView) -> str:
    if facts.findings.recommendation.reason != "insufficient_samples":
        return ""
    running, needed = facts.findings.drift.running, facts.drift.window_students
    return f"{number(running.students if running else 0)} of {number(needed)} in the window."


def _note(level: str, sign: str, headline: str, *more: ET.Element | str) -> ET.Element:
    mark = tag("span", sign, class_="sign", aria_hidden="true")
    return tag("li", mark, tag("div", tag("strong", headline), " ", *more), class_=level)
