"""What flows, and the last of it: rates, lag, latency, rejections by code, tables. Pure."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from consumer import timestamps
from consumer.dashboard.charts import history
from consumer.dashboard.facts import PageView
from consumer.dashboard.markup import (
    UNKNOWN,
    Child,
    duration,
    foreign,
    moment,
    number,
    percent,
    scrolling,
    table,
    tag,
)
from consumer.monitor.recent import HISTORY_S
from consumer.monitor.rejections import RecentRejection


def flow_section(facts: PageView) -> ET.Element:
    """Say how much comes in and goes out, and how late."""
    recent, stream, latency = facts.recent, facts.stream, facts.recent.latency
    rejected = sum(stream.rejections.values())
    to_score, to_log = (latency.to_score_s, latency.to_log_s) if latency else (None, None)
    return tag(
        "section",
        tag("h2", "What flows", id="flow-title"),
        tag(
            "dl",
            _tile("Events in", _per_s(stream.incoming_per_s), f"{_per_s(stream.decided_per_s)} decided"),
            _tile("Waiting (lag)", _events(stream.lag_events), _partitions(stream.partitions)),
            _tile("Predictions", _per_s(recent.rate), f"{number(recent.total)} since the monitor started"),
            _tile("Rejected", number(rejected), f"{_rejected_share(facts)} since the monitor started"),
            _tile("From event to score", *_quantiles(to_score)),
            _tile("From score to audit log", *_quantiles(to_log)),
            class_="tiles",
        ),
        tag(
            "div",
            _history(facts),
            _by_code(facts),
            class_="beside",
        ),
        id="flow",
        aria_labelledby="flow-title",
        data_live=True,
    )


def last_section(facts: PageView) -> ET.Element:
    """List the last predictions and the last rejections."""
    predictions, rejections = facts.recent.last, facts.stream.last
    return tag(
        "section",
        tag("h2", "The last predictions and rejections", id="last-title"),
        _listed(
            "Last predictions",
            ["Student", "Event", "Scored", "Probability", "Will buy", "Model"],
            [_prediction(line) for line in predictions],
            "No prediction since the monitor started.",
        ),
        _listed(
            "Last rejections",
            ["Code", "Why", "Student", "Event", "Rejected", "Source"],
            [_rejection(letter) for letter in rejections],
            facts.stream.rejections_problem or "No dead letter.",
        ),
        id="last",
        aria_labelledby="last-title",
        data_live=True,
    )


def _tile(name: str, value: str, more: str) -> ET.Element:
    return tag("div", tag("dt", name), tag("dd", tag("strong", value), " ", tag("small", more)))


def _per_s(rate: float | None) -> str:
    return "unknown" if rate is None else f"{number(round(rate, 1))}/s"


def _events(count: int | None) -> str:
    return "unknown" if count is None else number(count)


def _partitions(count: int) -> str:
    return f"in {count} partitions" if count else ""


def _quantiles(seconds: tuple[float, float] | None) -> tuple[str, str]:
    if seconds is None:
        return UNKNOWN, "no prediction yet"
    return duration(seconds[0]), f"median; 95 % within {duration(seconds[1])}"


def _rejected_share(facts: PageView) -> str:
    rejected = sum(facts.stream.rejections.values())
    decided = rejected + facts.recent.total
    return percent(rejected / decided) if decided else "none"


def _history(facts: PageView) -> ET.Element:
    counts = facts.recent.per_second
    peak = max(counts, default=0)
    if not peak:
        return tag("p", f"No prediction in the last {HISTORY_S} seconds.", class_="empty")
    return tag(
        "figure",
        history(counts, f"Predictions per second over the last {HISTORY_S} seconds, at most {peak}"),
        tag(
            "figcaption",
            tag("span", f"{HISTORY_S} s ago"),
            tag("span", f"predictions per second, at most {number(peak)}"),
            tag("span", "now"),
            class_="axis",
        ),
    )


def _by_code(facts: PageView) -> ET.Element:
    counts = facts.stream.rejections
    if facts.stream.rejections_problem and not counts:
        return tag("p", f"RejectionLog are not known: {facts.stream.rejections_problem}", class_="empty")
    if not counts:
        return tag("p", "Nothing was rejected since the monitor started.", class_="empty")
    total = sum(counts.values())
    rows: list[list[Child]] = [
        [tag("code", code), number(count), percent(count / total)] for code, count in counts.items()
    ]
    label = "RejectionLog by code, since the monitor started"
    return scrolling(table(label, ["Code", "Events", "Share"], rows), "by-code", label)


def _listed(name: str, columns: list[str], rows: list[list[Child]], nothing: str) -> ET.Element:
    if not rows:
        return tag("div", tag("h3", name), tag("p", nothing, class_="empty"))
    return scrolling(table(name, columns, rows), name.lower().replace(" ", "-"), name)


def _prediction(line: dict[str, Any]) -> list[Child]:
    probability = line["predicted_purchase_probability"]
    buys = bool(line["predicted_purchase"])
    return [
        foreign(line["student_id"]),
        foreign(line["event_id"]),
        _time(line["timestamp_utc"]),
        percent(probability),
        tag("span", "● yes" if buys else "○ no", class_="buys" if buys else None),
        tag("code", line["model_version"]),
    ]


def _rejection(letter: RecentRejection) -> list[Child]:
    return [
        tag("code", letter.code),
        foreign(letter.detail),
        foreign(letter.student_id or UNKNOWN),
        foreign(letter.event_id or UNKNOWN),
        _time(letter.rejected_at),
        tag("code", foreign(letter.source)),
    ]


def _time(text: str | int | None) -> Child:
    """Return a time that came as text; as it is where it is none."""
    try:
        return moment(timestamps.parse(str(text)).timestamp())
    except ValueError:
        return foreign(str(text))
