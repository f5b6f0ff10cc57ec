"""``GET /monitoring/drift`` and ``/monitoring/retraining_trigger``: verdicts with their evidence.

Every figure that a verdict stands on is in the answer: value, threshold, observations, window, age of
the baseline. A reader can compute the verdict again. What is not known is ``null``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.monitor.drift.baselines import ModelBaseline
from consumer.monitor.drift.verdict import DriftStatus, SeriesVerdict, WindowVerdict, judge
from consumer.monitor.drift.window import SCORE, bin_labels
from consumer.monitor.outcomes.quality import OutcomeSums, QualityVerdict, compare_quality
from consumer.monitor.retraining import Recommendation
from consumer.monitor.snapshot import DriftSnapshot, OutcomesSnapshot
from consumer.settings import DriftSettings, OutcomeSettings
from model_store.inputs import INPUT_NAMES

_S_PER_DAY: Final = 86_400
_NOTHING: Final = SeriesVerdict(
    status=DriftStatus.UNKNOWN, psi=None, threshold=None, observations=0, mean_shift_sd=None, counts=[]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSnapshot:
    """Everything the endpoints tell, as of one moment.

    Attributes:
        drift: drift.
        outcomes: outcomes.
        recommendation: what follows from both.
        announced_action: what the control topic was last told; empty before the first.
        cooldown_until_s: until when it is not told to retrain again, or ``None``.
        at_s: the moment, seconds since the epoch.
    """

    drift: DriftSnapshot
    outcomes: OutcomesSnapshot
    recommendation: Recommendation
    announced_action: str = ""
    cooldown_until_s: float | None = None
    at_s: float


def monitoring_routes(
    findings: Callable[[], MonitorSnapshot], drift: DriftSettings, outcomes: OutcomeSettings
) -> list[BaseRoute]:
    """Return the routes.

    Args:
        findings: returns the latest; called from the HTTP thread.
        drift: shown beside the verdicts.
        outcomes: likewise.
    """

    async def answer_drift(_: Request) -> Response:
        return JSONResponse(drift_answer(findings(), drift))

    async def answer_trigger(_: Request) -> Response:
        return JSONResponse(trigger_answer(findings(), drift, outcomes))

    return [
        Route("/monitoring/drift", answer_drift),
        Route("/monitoring/retraining_trigger", answer_trigger),
    ]


def drift_answer(findings: MonitorSnapshot, settings: DriftSettings) -> dict[str, Any]:
    """Say how the last closed window stands to training; the running one while none is closed."""
    drift = findings.drift
    running = _running(drift, settings)
    shown = drift.latest or running
    labels = bin_labels(drift.baseline.baseline) if drift.baseline else {}
    series = {**shown.features, SCORE: shown.score} if shown else {}
    described = {
        name: _series(drift, name, series.get(name, _NOTHING), labels.get(name, ()))
        for name in (*INPUT_NAMES, SCORE)
    }
    return {
        "status": _overall(shown),
        **_summary(drift, shown),
        "features": {name: described[name] for name in INPUT_NAMES},
        "score": described[SCORE],
        "prediction_rate": asdict(shown.rate) if shown else None,
        "unknown_country_ratio": shown.unknown_country_ratio if shown else None,
        "window": _window(shown),
        "running_window": _window(running),
        "recent_windows": [_brief(window) for window in drift.recent],
        "model_version": drift.model_version,
        "baseline": _baseline(drift.baseline, findings.at_s),
        "problem": drift.problem or None,
        "settings": settings.model_dump(),
    }


def trigger_answer(
    findings: MonitorSnapshot, settings: DriftSettings, outcome_settings: OutcomeSettings
) -> dict[str, Any]:
    """Say whether to train again, why, and on what evidence."""
    recommendation = findings.recommendation
    return {
        "should_retrain": recommendation.should_retrain,
        "reason": recommendation.reason,
        "recommended_action": recommendation.action,
        "causes": list(recommendation.causes),
        "announced_action": findings.announced_action or None,
        "cooldown_until": _time(findings.cooldown_until_s),
        "performance": performance(findings, outcome_settings),
        **drift_answer(findings, settings),
    }


def announcement(findings: MonitorSnapshot, settings: DriftSettings) -> dict[str, Any]:
    """Return what the control topic is told beside time and action before."""
    recommendation = findings.recommendation
    return {
        "should_retrain": recommendation.should_retrain,
        "reason": recommendation.reason,
        "recommended_action": recommendation.action,
        "causes": list(recommendation.causes),
        **_summary(findings.drift, findings.drift.latest or _running(findings.drift, settings)),
        "model_version": findings.drift.model_version,
    }


def performance(findings: MonitorSnapshot, settings: OutcomeSettings) -> dict[str, Any]:
    """Say how good predictions were, as far as outcomes tell."""
    outcomes, model = findings.outcomes, findings.drift.baseline
    verdict = outcomes.verdict
    status = "unknown" if verdict is None else ("decay" if verdict.decayed else "ok")
    running = outcomes.running or OutcomeSums()
    trained = model.manifest.metrics.cross_validated if model else None
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
        "immature": outcomes.immature,
        "awaiting": outcomes.awaiting,
    }


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


def _overall(shown: WindowVerdict | None) -> DriftStatus:
    if shown is None or not shown.judged:
        return DriftStatus.UNKNOWN
    return DriftStatus.DRIFT if shown.drifted_features or shown.predictions_shifted else DriftStatus.OK


def _series(
    drift: DriftSnapshot, name: str, verdict: SeriesVerdict, labels: tuple[str, ...]
) -> dict[str, Any]:
    n = verdict.observations
    expected: list[float] = []
    if drift.baseline is not None:
        baseline = drift.baseline.baseline
        bins = baseline.score if name == SCORE else baseline.features[name]
        expected = bins.ratios.tolist()
    return {
        "psi": verdict.psi,
        "threshold": verdict.threshold,
        "observations": n,
        "status": verdict.status,
        "z": verdict.mean_shift_sd,
        "bins": [
            {"bin": label, "training_ratio": ratio, "live_ratio": count / n if n else None}
            for label, ratio, count in zip(labels, expected, verdict.counts or [0] * len(labels), strict=True)
        ],
    }


def _window(window: WindowVerdict | None) -> dict[str, Any] | None:
    if window is None:
        return None
    return {
        "number": window.number,
        "closed": window.closed,
        "students": window.students,
        "predictions": window.predictions,
        "opened_at": _time_of_ms(window.opened_ms),
        "last_prediction_at": _time_of_ms(window.last_ms),
        "psi": {name: verdict.psi for name, verdict in {**window.features, SCORE: window.score}.items()},
    }


def _brief(window: WindowVerdict) -> dict[str, Any]:
    return {
        "number": window.number,
        "status": _overall(window),
        "students": window.students,
        "last_prediction_at": _time_of_ms(window.last_ms),
        "drifted_features": window.drifted_features,
        "score_status": window.score.status,
        "prediction_rate_status": window.rate.status,
        "predicted_positive_rate": window.rate.predicted_positive_ratio,
    }


def _baseline(model: ModelBaseline | None, now_s: float) -> dict[str, Any] | None:
    if model is None:
        return None
    created_at = model.manifest.created_at
    return {
        "model_version": model.version,
        "rows": model.baseline.rows,
        "created_at": _time(created_at.timestamp()),
        "age_days": round((now_s - created_at.timestamp()) / _S_PER_DAY, 3),
        "source": model.manifest.training_data.source,
    }


def _quality(verdict: QualityVerdict | None) -> dict[str, Any] | None:
    return None if verdict is None else asdict(verdict)


def _time(time_s: float | None) -> str | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")


def _time_of_ms(time_ms: int | None) -> str | None:
    return None if time_ms is None else _time(time_ms / 1000)
