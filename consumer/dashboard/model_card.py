"""The model card: what a version is, how good it is and for whom, as one HTML file without scripts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from consumer.dashboard.rendering import render
from model_store.evaluation import Evaluation, ThresholdCurve, wilson_interval
from model_store.manifest import Manifest, Quality
from model_store.promotion import Check

_SHOWN_THRESHOLDS: Final = tuple(step / 10 for step in range(1, 10))
_MEASURES: Final = {
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
    "brier_score": "Brier score",
    "log_loss": "Log loss",
    "precision": "Precision at the threshold",
    "recall": "Recall at the threshold",
}
_CURVE_POINTS: Final = 200


class Point(NamedTuple):
    """A point of a picture, in percent from its lower left corner.

    Attributes:
        x: The distance from the left edge.
        y: The distance from the lower edge.
        low: The lower end of the interval of ``y``.
        high: The upper end.
        tooltip: What the point stands for.
    """

    x: float
    y: float
    low: float
    high: float
    tooltip: str


def render_model_card(manifest: Manifest, evaluation: Evaluation, checks: Sequence[Check]) -> bytes:
    """Return the card.

    Args:
        manifest: The version's manifest.
        evaluation: What was measured for the version.
        checks: The checks of its promotion.
    """
    return render("model_card.html", card_view(manifest, evaluation, checks))


def card_view(manifest: Manifest, evaluation: Evaluation, checks: Sequence[Check]) -> dict[str, Any]:
    """Return everything that the card's template reads."""
    curve, chosen = evaluation.curve, manifest.threshold.value
    return {
        "manifest": manifest,
        "created_at": manifest.created_at.isoformat(),
        "measures": [
            _measure(name, manifest.metrics.cross_validated, manifest.metrics.held_out) for name in _MEASURES
        ],
        "reliability": _reliability(evaluation),
        "precision_recall": _precision_recall(curve),
        "operating_point": _operating_point(curve, chosen),
        "base_rate": curve.positives / curve.rows,
        "thresholds": [_decisions(curve, value, chosen) for value in sorted({*_SHOWN_THRESHOLDS, chosen})],
        "slices": [
            {
                "feature": item.feature,
                "group": item.group,
                "rows": item.rows,
                "positives": item.positives,
                "mean_probability": item.mean_probability,
                "quality": item.quality,
                "interval": item.quality.intervals["average_precision"] if item.quality else None,
            }
            for item in evaluation.slices
            if item.rows
        ],
        "duplicate_rows": evaluation.duplicate_rows,
        "unknown_country_rows": evaluation.unknown_country_rows,
        "checks": checks,
    }


def _measure(name: str, cross_validated: Quality, held_out: Quality) -> dict[str, Any]:
    return {
        "title": _MEASURES[name],
        "values": [
            {"value": getattr(quality, name), "interval": quality.intervals.get(name)}
            for quality in (cross_validated, held_out)
        ],
    }


def _reliability(evaluation: Evaluation) -> list[Point]:
    """Return a point per bin: the share that bought above the mean probability, with its interval."""
    points = []
    for item in evaluation.reliability:
        bought = round(item.positive_ratio * item.rows)
        low, high = wilson_interval(bought, item.rows)
        tooltip = f"{item.rows} students with {item.mean_probability:.1%} on average: {bought} bought"
        points.append(
            Point(100 * item.mean_probability, 100 * item.positive_ratio, 100 * low, 100 * high, tooltip)
        )
    return points


def _precision_recall(curve: ThresholdCurve) -> str:
    """Return the curve as the points of an SVG polyline, with y downwards."""
    step = max(len(curve.thresholds) // _CURVE_POINTS, 1)
    pairs = list(zip(curve.true_positives, curve.false_positives, strict=True))
    kept: Iterable[tuple[int, int]] = [*pairs[::step], pairs[-1]]
    points = [
        (100 * hits / curve.positives, 100 * (1 - hits / (hits + false_alarms)))
        for hits, false_alarms in kept
        if hits
    ]
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _operating_point(curve: ThresholdCurve, threshold: float) -> Point:
    decisions = _decisions(curve, threshold, threshold)
    precision, recall = decisions["precision"], decisions["recall"]
    low, high = decisions["precision_interval"]
    return Point(
        100 * recall,
        100 * (precision or 0),
        100 * low,
        100 * high,
        f"threshold {threshold:.4f}: precision {precision or 0:.1%}, recall {recall:.1%}",
    )


def _decisions(curve: ThresholdCurve, threshold: float, chosen: float) -> dict[str, Any]:
    hits, false_alarms = curve.counts_at(threshold)
    flagged = hits + false_alarms
    recall = hits / curve.positives
    precision = hits / flagged if flagged else None
    return {
        "threshold": threshold,
        "chosen": threshold == chosen,
        "flagged_ratio": flagged / curve.rows,
        "precision": precision,
        "precision_interval": wilson_interval(hits, flagged),
        "recall": recall,
        "recall_interval": wilson_interval(hits, curve.positives),
        "f1": 2 * precision * recall / (precision + recall) if precision else 0.0,
    }
