"""Convert what the monitor knows to plain dicts, one function per answer. Pure.

``/monitoring/drift``, ``/monitoring/retraining_trigger``, ``/monitoring/challenger``, the dashboard and the
report render these dicts. Every figure behind a verdict is included (value, threshold, observations, window,
age of the baseline), so that a reader can compute the verdict again. An unknown value is ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from consumer import timestamps
from consumer.errors import Condition
from consumer.monitor.challenger import ComparisonSnapshot
from consumer.monitor.drift.span import Span, VersionSpan
from consumer.monitor.drift.tracker import DriftSnapshot, ModelBaseline
from consumer.monitor.drift.verdict import DriftStatus, SeriesVerdict, WindowVerdict, judge
from consumer.monitor.drift.window import SCORE
from consumer.monitor.health import Health
from consumer.monitor.outcomes.quality import OutcomeSums, QualityVerdict, compare_quality
from consumer.monitor.recent import RecentSnapshot
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.stream_status import StreamSnapshot
from consumer.runtime.readiness import ActiveCondition
from consumer.settings import ChallengerSettings, DriftSettings, OutcomeSettings
from model_store.baseline import Baseline, Bins, NumericBins
from model_store.inputs import INPUT_NAMES

_S_PER_DAY: Final = 86_400


def page_view(
    snapshot: MonitorSnapshot,
    health: Health,
    drift: DriftSettings,
    outcomes: OutcomeSettings,
    challenger: ChallengerSettings,
) -> dict[str, Any]:
    """Return everything that the dashboard shows.

    Args:
        snapshot: What the monitor knows.
        health: The health of the stream.
        drift: The drift settings.
        outcomes: The outcome settings.
        challenger: The challenger settings.
    """
    model = snapshot.model
    return {
        "at": timestamp(snapshot.at_s),
        "health": health_view(health),
        "conditions": [
            condition_view(condition, active) for condition, active in snapshot.conditions.items()
        ],
        "trigger": trigger_answer(model, drift, outcomes),
        "model": model_view(model.drift.baseline, snapshot.champion_since),
        "challenger": challenger_answer(model, challenger),
        "stream": stream_view(snapshot.stream),
        "rejections": rejections_view(snapshot.stream),
        "predictions": predictions_view(snapshot.recent),
    }


def health_view(health: Health) -> dict[str, Any]:
    """Return the health of the stream, with the text, start and runbook of each cause."""
    return {
        "level": health.level.value,
        "headline": health.headline,
        "since": timestamp(health.since_s),
        "causes": [
            {
                "cause": cause.code.value,
                "level": cause.level.value,
                "text": cause.text,
                "since": timestamp(cause.since_s),
                "runbook": cause.runbook,
            }
            for cause in health.causes
        ],
    }


def condition_view(condition: Condition, active: ActiveCondition) -> dict[str, Any]:
    """Describe a condition of the monitor, and since when it holds."""
    return {
        "condition": condition.value,
        "reason": active.reason,
        "since": timestamp(active.since_s),
    }


def drift_answer(model: ModelSnapshot, settings: DriftSettings) -> dict[str, Any]:
    """Compare the last closed window with training, or the running window if none has closed yet."""
    return _drift_answer(model, settings, model.drift.latest or _running(model.drift, settings))


def window_answer(model: ModelSnapshot, settings: DriftSettings, number: int) -> dict[str, Any] | None:
    """Compare a recent window with training, by its number; ``None`` if there is no such window."""
    shown = next((window for window in model.drift.recent if window.number == number), None)
    return _drift_answer(model, settings, shown) if shown else None


def _drift_answer(
    model: ModelSnapshot, settings: DriftSettings, shown: WindowVerdict | None
) -> dict[str, Any]:
    drift = model.drift
    running = _running(drift, settings)
    return {
        "status": shown.status if shown else DriftStatus.UNKNOWN,
        **_summary(drift, shown),
        **series_view(shown, drift.baseline.baseline if drift.baseline else None),
        "unknown_country_ratio": shown.unknown_country_ratio if shown else None,
        "window": _window(shown),
        "running_window": _window(running),
        "recent_windows": [_brief(window) for window in drift.recent],
        "model_version": drift.model_version,
        "baseline": _baseline(drift.baseline, model.at_s),
        "problem": drift.problem or None,
        "settings": settings.model_dump(),
    }


def trigger_answer(
    model: ModelSnapshot, settings: DriftSettings, outcome_settings: OutcomeSettings
) -> dict[str, Any]:
    """Recommend whether to train again, with the reason and the evidence."""
    recommendation = model.recommendation
    return {
        "should_retrain": recommendation.should_retrain,
        "reason": recommendation.reason,
        "recommended_action": recommendation.action,
        "causes": list(recommendation.causes),
        "announced_action": model.announced_action or None,
        "cooldown_until": timestamp(model.cooldown_until_s),
        "performance": performance_view(model, outcome_settings),
        **drift_answer(model, settings),
    }


def announcement(model: ModelSnapshot, settings: DriftSettings) -> dict[str, Any]:
    """Return the fields of an announcement other than the time and the previous action."""
    recommendation, drift = model.recommendation, model.drift
    return {
        "should_retrain": recommendation.should_retrain,
        "reason": recommendation.reason,
        "recommended_action": recommendation.action,
        "causes": list(recommendation.causes),
        **_summary(drift, drift.latest or _running(drift, settings)),
        "model_version": drift.model_version,
    }


def performance_view(model: ModelSnapshot, settings: OutcomeSettings) -> dict[str, Any]:
    """Compare realised with expected quality, from the outcomes that are known."""
    outcomes, baseline = model.outcomes, model.drift.baseline
    verdict = outcomes.verdict
    status = "unknown" if verdict is None else ("decay" if verdict.decayed else "ok")
    running = outcomes.running or OutcomeSums()
    trained = baseline.manifest.metrics.cross_validated if baseline else None
    return {
        "status": status,
        "feed": outcomes.state,
        "matured_outcomes": running.outcomes,
        "matured_outcomes_needed": settings.window_outcomes,
        "judged": _quality(verdict),
        "running": _quality(compare_quality(running, settings) if running.outcomes else None),
        "training": {
            "precision": trained.precision if trained else None,
            "recall": trained.recall if trained else None,
            "brier": trained.brier_score if trained else None,
        },
        "joined": outcomes.joined,
        "unmatched": outcomes.unmatched,
        "maturing": outcomes.maturing,
        "pending": outcomes.pending,
    }


def challenger_answer(model: ModelSnapshot, settings: ChallengerSettings) -> dict[str, Any]:
    """Compare the champion with the challenger and its predecessor."""
    return {
        "champion": model.drift.champion,
        "comparisons": [_comparison(item, settings) for item in model.comparisons],
        "outcomes_feed": model.outcomes.state,
        "settings": settings.model_dump(),
    }


def _comparison(comparison: ComparisonSnapshot, settings: ChallengerSettings) -> dict[str, Any]:
    live, test = comparison.live, comparison.test
    return {
        "alias": comparison.contender,
        "version": comparison.version,
        "champion": comparison.champion,
        "problem": comparison.problem or None,
        "scored": live.scored,
        "dropped": live.dropped,
        "failed": live.failed,
        "disagreement_ratio": live.disagreement_ratio,
        "only_version_predicts_purchase": live.flagged,
        "only_champion_predicts_purchase": live.unflagged,
        "mean_difference": live.difference / live.scored if live.scored else None,
        "mean_absolute_difference": live.absolute_difference / live.scored if live.scored else None,
        "outcomes": test.outcomes,
        "quality": _realised(comparison.sums),
        "champion_quality": _realised(comparison.champion_sums),
        "preference": comparison.preference,
        "evidence_better": test.peak_better,
        "evidence_worse": test.peak_worse,
        "evidence_needed": 1 / settings.error_ratio,
        "automatic": settings.promote if comparison.contender == "challenger" else settings.rollback,
    }


def _realised(sums: OutcomeSums) -> dict[str, float | None]:
    """Return precision, recall and Brier score; ``None`` where there is nothing to divide by."""
    return {
        "precision": sums.true_positives / sums.flagged if sums.flagged else None,
        "recall": sums.true_positives / sums.purchases if sums.purchases else None,
        "brier": sums.squared_error / sums.outcomes if sums.outcomes else None,
    }


def model_view(baseline: ModelBaseline | None, champion_since: str | None) -> dict[str, Any] | None:
    """Describe the model version whose drift is judged; ``None`` while it is not known.

    Args:
        baseline: The model version.
        champion_since: When it became champion, or ``None`` if it is not the champion.
    """
    if baseline is None:
        return None
    manifest = baseline.manifest
    held_out = manifest.metrics.held_out
    return {
        "version": baseline.version,
        "champion_since": champion_since,
        "created_at": timestamp(manifest.created_at.timestamp()),
        "training_source": manifest.training_data.source,
        "training_rows": manifest.training_data.rows,
        "threshold": manifest.threshold.value,
        "held_out": {
            "average_precision": held_out.average_precision,
            "precision": held_out.precision,
            "recall": held_out.recall,
            "brier": held_out.brier_score,
        },
    }


def stream_view(stream: StreamSnapshot) -> dict[str, Any]:
    """Describe the progress of the scorers."""
    return {
        "lag_events": stream.lag_events,
        "incoming_per_s": stream.incoming_per_s,
        "decided_per_s": stream.decided_per_s,
        "partitions": len(stream.lag_by_partition),
        "lag_by_partition": {str(p): lag for p, lag in sorted(stream.lag_by_partition.items())},
        "scorers": stream.members,
        "members": [
            {
                "client_id": member.client_id,
                "host": member.host,
                "partitions": sorted(partition for _, partition in member.partitions),
            }
            for member in sorted(stream.group)
        ],
        "problem": stream.progress_problem or None,
    }


def rejections_view(stream: StreamSnapshot) -> dict[str, Any]:
    """Count the dead letters by code since the monitor started, and list the latest, newest first."""
    return {
        "total": sum(stream.rejections.values()),
        "by_code": dict(stream.rejections),
        "latest": [asdict(rejection) for rejection in stream.last],
        "problem": stream.rejections_problem or None,
    }


def predictions_view(recent: RecentSnapshot) -> dict[str, Any]:
    """Count the predictions since the monitor started, and list the latest audit lines, newest first."""
    latency = recent.latency
    return {
        "since": timestamp(recent.since_s),
        "total": recent.total,
        "per_s": recent.rate,
        "per_second": recent.per_second,
        "to_score_s": _quantiles(latency.to_score_s) if latency else None,
        "to_log_s": _quantiles(latency.to_log_s) if latency else None,
        "latest": recent.last,
        "api": {
            "total": recent.api.total,
            "per_s": recent.api.rate,
            "per_second": recent.api.per_second,
            "last_at": timestamp(recent.api.last_s),
        },
    }


def report_view(
    span: Span, settings: DriftSettings, made_at_s: float, removals: Sequence[str] = ()
) -> dict[str, Any]:
    """Return everything that the drift report shows.

    Args:
        span: The span of predictions that was read.
        settings: The drift settings that it was judged by.
        made_at_s: When the report was made, seconds since the epoch.
        removals: What was removed from the log on purpose, in words.
    """
    return {
        "made_at": timestamp(made_at_s),
        "source": span.source,
        "since": timestamp(span.since.timestamp()) if span.since else None,
        "until": timestamp(span.until.timestamp()) if span.until else None,
        "predictions": span.predictions,
        "removals": list(removals),
        "versions": [_version_span(version) for version in span.versions],
        "settings": settings.model_dump(),
    }


def series_view(window: WindowVerdict | None, baseline: Baseline | None) -> dict[str, Any]:
    """Describe each input, the score and the prediction rate in one window, next to training.

    Returns:
        ``features`` (by name) and ``score``, each with its verdict, means and bins; and
        ``prediction_rate``. A bin holds the values in ``(lower, upper]``; ``None`` is infinity, and
        both are ``None`` for countries.
    """
    bins: dict[str, Bins] = {**baseline.features, SCORE: baseline.score} if baseline else {}
    verdicts = {**window.features, SCORE: window.score} if window else {}
    described = {name: _series(verdicts.get(name), bins.get(name)) for name in (*INPUT_NAMES, SCORE)}
    score = described.pop(SCORE)
    return {
        "features": described,
        "score": score,
        "prediction_rate": asdict(window.rate) if window else None,
    }


def timestamp(time_s: float | None) -> str | None:
    """Format seconds since the epoch: ``2026-01-31T12:00:00.000Z``."""
    return None if time_s is None else timestamps.format_s(time_s)


def _summary(drift: DriftSnapshot, shown: WindowVerdict | None) -> dict[str, Any]:
    training = drift.baseline.baseline.predicted_positive_ratio if drift.baseline else None
    return {
        "samples_observed": drift.samples,
        "predictions_observed": drift.predictions,
        "drift_score_max_abs_z": shown.max_abs_mean_shift_sd if shown else None,
        "drifted_features": shown.drifted_features if shown else [],
        "predicted_positive_rate": shown.rate.predicted_positive_ratio if shown else None,
        "training_positive_rate": training,
    }


def _running(drift: DriftSnapshot, settings: DriftSettings) -> WindowVerdict | None:
    if drift.running is None or drift.baseline is None:
        return None
    return judge(drift.running, drift.baseline.baseline, settings, closed=False)


def _series(verdict: SeriesVerdict | None, bins: Bins | None) -> dict[str, Any]:
    n = verdict.observations if verdict else 0
    shift_sd = verdict.mean_shift_sd if verdict else None
    numeric = bins if isinstance(bins, NumericBins) else None
    live_mean = numeric.mean + shift_sd * numeric.sd if numeric and shift_sd is not None else None
    return {
        "psi": verdict.psi if verdict else None,
        "threshold": verdict.threshold if verdict else None,
        "observations": n,
        "status": verdict.status if verdict else DriftStatus.UNKNOWN,
        "found_by": verdict.found_by if verdict else [],
        "zeros": asdict(verdict.zeros) if verdict and verdict.zeros else None,
        "tail": asdict(verdict.tail) if verdict and verdict.tail else None,
        "z": shift_sd,
        "live_mean": live_mean,
        "training_mean": numeric.mean if numeric else None,
        "bins": _bins(verdict.counts if verdict else [], n, bins) if bins else [],
    }


def _bins(counts: list[int], n: int, bins: Bins) -> list[dict[str, Any]]:
    edges: list[float | None] = [None] * (len(bins.labels) + 1)
    if isinstance(bins, NumericBins):
        edges[1:-1] = bins.edges
    return [
        {
            "bin": label,
            "lower": edges[i],
            "upper": edges[i + 1],
            "training_ratio": ratio,
            "live_ratio": count / n if n else None,
        }
        for i, (label, ratio, count) in enumerate(
            zip(bins.labels, bins.ratios.tolist(), counts or [0] * len(bins.labels), strict=True)
        )
    ]


def _window(window: WindowVerdict | None) -> dict[str, Any] | None:
    if window is None:
        return None
    return {
        "number": window.number,
        "closed": window.closed,
        "students": window.students,
        "predictions": window.predictions,
        "opened_at": _timestamp_of_ms(window.opened_ms),
        "last_prediction_at": _timestamp_of_ms(window.last_ms),
        "psi": {name: verdict.psi for name, verdict in {**window.features, SCORE: window.score}.items()},
    }


def _brief(window: WindowVerdict) -> dict[str, Any]:
    return {
        "number": window.number,
        "status": window.status,
        "students": window.students,
        "last_prediction_at": _timestamp_of_ms(window.last_ms),
        "drifted_features": window.drifted_features,
        "score_status": window.score.status,
        "prediction_rate_status": window.rate.status,
        "predicted_positive_rate": window.rate.predicted_positive_ratio,
    }


def _baseline(model: ModelBaseline | None, now_s: float) -> dict[str, Any] | None:
    if model is None:
        return None
    created_s = model.manifest.created_at.timestamp()
    return {
        "model_version": model.version,
        "rows": model.baseline.rows,
        "created_at": timestamp(created_s),
        "age_days": round((now_s - created_s) / _S_PER_DAY, 3),
        "source": model.manifest.training_data.source,
    }


def _version_span(version: VersionSpan) -> dict[str, Any]:
    verdict, baseline = version.verdict, version.model.baseline if version.model else None
    return {
        "model_version": version.version,
        "status": version.status,
        "windows": [_brief(window) for window in version.windows],
        "predictions": version.predictions,
        "students": verdict.students if verdict else None,
        "first_prediction_at": timestamp(version.first_s),
        "last_prediction_at": timestamp(version.last_s),
        "drifted_features": version.drifted_features,
        "predicted_positive_rate": verdict.rate.predicted_positive_ratio if verdict else None,
        "training_positive_rate": baseline.predicted_positive_ratio if baseline else None,
        **series_view(verdict, baseline),
        "problem": version.problem or None,
    }


def _quality(verdict: QualityVerdict | None) -> dict[str, Any] | None:
    return None if verdict is None else asdict(verdict)


def _quantiles(seconds: tuple[float, float]) -> dict[str, float]:
    median, p95 = seconds
    return {"median": median, "p95": p95}


def _timestamp_of_ms(time_ms: int | None) -> str | None:
    return None if time_ms is None else timestamp(time_ms / 1000)
