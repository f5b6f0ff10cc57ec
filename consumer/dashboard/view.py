"""Convert the monitor's answers to what the templates show: charts, ranges, tooltips.

:func:`render_report` fills the same templates for the drift report. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from consumer.dashboard.charts import gauge, history, shares
from consumer.dashboard.rendering import number, percent, precise_percent, render, seconds_between, title
from consumer.settings import Settings
from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS

_CSS_CLASSES: Final = {"not_well": "bad", "attention": "warn", "well": "good"}
_COUNTRY: Final = "student_country"
_SCORE: Final = "score"
_BACKLOG_CAUSES: Final = frozenset(
    {"catching_up", "falling_behind", "stalled", "no_scorer", "audit_log_behind"}
)
_JOINT_CHECKS: Final = frozenset({"means", "correlation"})
_UNITS: Final = {"minutes_watched": " min", "minutes_spent_on_exams": " min", "days_on_platform": " days"}


def page(answer: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return everything that the page's templates read.

    Args:
        answer: The answer, see :func:`consumer.monitor.view.page_view`.
        settings: The settings, which name the sources and the links.
    """
    trigger, rejected = answer["trigger"], answer["rejections"]["total"]
    decided = rejected + answer["predictions"]["total"]
    return {
        **answer,
        "level": _CSS_CLASSES[answer["health"]["level"]],
        "rejected_ratio": rejected / decided if decided else None,
        "history": _history(answer["predictions"]["per_second"]),
        "history_api": _history(answer["predictions"]["api"]["per_second"]),
        "latency_note": _latency_note(answer),
        "cards": series_cards(trigger) if answer["model"] else [],
        "owners": _owners(answer["stream"]),
        "sources": sources(settings),
        "links": settings.links,
    }


def sources(settings: Settings) -> dict[str, str]:
    """Return the sources of the page's content, by title."""
    topics = settings.topics
    return {
        "Kafka": settings.kafka.bootstrap_servers,
        "Consumer group": settings.kafka.group_id,
        "Events": topics.events,
        "Predictions": topics.predictions,
        "Dead letters": topics.dead_letters,
        "Outcomes": topics.outcomes,
        "Audit log": str(settings.audit.path),
        "Models": f"{settings.model_store.model} in {settings.model_store.path}",
    }


def series_cards(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a card for the predicted purchases, the score and each input, in this order.

    Args:
        answer: The answer of ``/monitoring/drift``, or a model version of the report.
    """
    inputs = [_card(name, answer["features"][name]) for name in INPUT_NAMES]
    return [_rate_card(answer), _card(_SCORE, answer["score"]), *inputs]


def bin_ranges(name: str, bins: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the range of each bin: ``0``, ``1 to 3``, ``≤ 12``, ``> 40``, or a country."""
    return [row["bin"] if name == _COUNTRY else _range(name, row) for row in bins]


def _range(name: str, row: Mapping[str, Any]) -> str:
    lower, upper = row["lower"], row["upper"]
    show = precise_percent if name == _SCORE else number
    if row["bin"] == "zero":
        return "0"
    if upper is None:
        return "all" if lower is None else f"> {show(lower)}"
    if lower is None:
        return f"≤ {show(upper)}"
    if name not in INTEGER_INPUTS:
        return f"{show(lower)} to {show(upper)}"
    return number(upper) if upper == lower + 1 else f"{number(lower + 1)} to {number(upper)}"


def _card(name: str, series: Mapping[str, Any]) -> dict[str, Any]:
    ranges = bin_ranges(name, series["bins"])
    training = [row["training_ratio"] for row in series["bins"]]
    live = [row["live_ratio"] for row in series["bins"]] if series["observations"] else None
    rows = [
        {"range": label, "live": percent(live[i] if live else None), "training": percent(training[i])}
        for i, label in enumerate(ranges)
    ]
    tooltips = [f"{row['range']}: {row['live']} live, {row['training']} in training" for row in rows]
    gauge_, mean = None, ""
    if live and series["psi"] is not None and series["threshold"] is not None:
        words = f"PSI {number(series['psi'])}; drift above {number(series['threshold'])}"
        gauge_ = gauge(series["psi"], series["threshold"], words)
    if live and series["live_mean"] is not None:
        show, unit = (percent if name == _SCORE else number), _UNITS.get(name, "")
        mean = f"Mean {show(series['live_mean'])}{unit}, in training {show(series['training_mean'])}{unit}"
        mean += f" (z {series['z']:+.2f})"
    for share, what in (("zeros", "Zeros"), ("tail", "Above the training's 99.9 %")):
        if share in series["found_by"]:
            found = series[share]
            mean += f". {what}: {percent(found['ratio'])}, in training {percent(found['training_ratio'])}"
    if joint := [check for check in series["found_by"] if check in _JOINT_CHECKS]:
        mean += f". Found together with the other inputs: {' and '.join(joint)}"
    return {
        "name": name,
        "status": series["status"],
        "chart": shares(live, training, _chart_label(name, ranges, live, training), tooltips),
        "top": max([*training, *(live or ())], default=0.0),
        "first": ranges[0],
        # The last country bins are "other" and "unknown": naming only one would mislabel the other.
        "last": ", ".join(ranges[-2:]) if name == _COUNTRY else ranges[-1],
        "rows": rows,
        "gauge": gauge_,
        "mean": mean,
    }


def _chart_label(name: str, ranges: list[str], live: list[float] | None, training: list[float]) -> str:
    if live is None:
        return f"{title(name)}: share of students in each bin in training; no live student yet"
    differences = [abs(now - then) for now, then in zip(live, training, strict=True)]
    i = differences.index(max(differences))
    return (
        f"{title(name)}: share of students in each bin, live and in training. They differ most at"
        f" {ranges[i]}: {percent(live[i])} live, {percent(training[i])} in training."
    )


def _rate_card(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of predicted purchases: two numbers instead of a chart of two bars."""
    rate, training = answer["prediction_rate"], answer["training_positive_rate"]
    live = rate["predicted_positive_ratio"] if rate else None
    gauge_ = None
    if live is not None and rate["threshold"] is not None:
        difference = abs(live - training)
        words = f"{100 * difference:.1f} points apart; drift above {100 * rate['threshold']:.1f}"
        gauge_ = gauge(difference, rate["threshold"], words)
    status = rate["status"] if rate else "unknown"
    card = {"name": "rate", "status": status, "live": live, "training": training}
    return {**card, "rows": [], "gauge": gauge_, "mean": ""}


def _latency_note(answer: Mapping[str, Any]) -> str:
    """Return why the latencies may mislead; empty if they are recent and from ordinary load."""
    predictions = answer["predictions"]
    n_s = len(predictions["per_second"])
    if predictions["latest"] and not any(predictions["per_second"]):
        scored_at = predictions["latest"][0]["timestamp_utc"]
        if not isinstance(scored_at, str) or seconds_between(scored_at, answer["at"]) > n_s:
            return f"old: no prediction in the last {n_s} s"
    catching_up = {cause["cause"] for cause in answer["health"]["causes"]} & _BACKLOG_CAUSES
    return "includes the time that events waited in a backlog" if catching_up else ""


def _owners(stream: Mapping[str, Any]) -> dict[str, str]:
    """Return the member that owns each partition, by the partition's number as a text."""
    return {str(part): member["client_id"] for member in stream["members"] for part in member["partitions"]}


def _history(per_second: Sequence[int]) -> dict[str, Any] | None:
    """Return the chart of the latest seconds; ``None`` if there were no predictions."""
    n, peak = len(per_second), max(per_second, default=0)
    if not peak:
        return None
    label = f"Predictions per second over the last {n} seconds, at most {peak}"
    tooltips = [f"{number(count)} predictions, {n - i} s ago" for i, count in enumerate(per_second)]
    return {"chart": history(per_second, label, tooltips), "peak": peak}


def render_report(view: dict[str, Any]) -> bytes:
    """Render the drift report as HTML.

    Args:
        view: The drift over a span, see :func:`consumer.monitor.view.report_view`.
    """
    versions = [
        {**version, "cards": [] if version["problem"] else series_cards(version)}
        for version in view["versions"]
    ]
    return render("report.html", {**view, "versions": versions})
