"""The recommendation: the order of its reasons, its hysteresis and its announcement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from consumer.monitor.drift.tracker import Baselines, DriftSnapshot
from consumer.monitor.drift.verdict import DriftStatus, RateVerdict, SeriesVerdict, WindowVerdict
from consumer.monitor.drift.window import SERIES, WindowCounts
from consumer.monitor.metrics import MonitorTelemetry
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.outcomes.quality import Comparison, OutcomeSums, QualityVerdict
from consumer.monitor.retraining import REASONS, RETRY_S, Recommendation, RetrainingNotifier, recommend
from consumer.monitor.snapshot import ModelSnapshot
from consumer.roles.monitor import monitoring_routes
from consumer.settings import ChallengerSettings, DriftSettings, OutcomeSettings
from model_store.inputs import INPUT_NAMES

NO_OUTCOMES = OutcomesSnapshot()
DECAYED = OutcomesSnapshot(
    state="on",
    verdict=QualityVerdict(
        outcomes=2000,
        precision=Comparison(expected=0.5, realised=0.3, tolerated_gap=0.1, decayed=True),
        recall=Comparison(expected=0.5, realised=0.5, tolerated_gap=0.1, decayed=False),
        brier=Comparison(expected=0.1, realised=0.1),
        brier_z=0.0,
    ),
)


def window(*drifted: str, judged: bool = True, number: int = 1) -> WindowVerdict:
    """Return a window verdict in which these series have drifted."""

    def status(name: str) -> DriftStatus:
        return DriftStatus.UNKNOWN if not judged else DriftStatus.DRIFT if name in drifted else DriftStatus.OK

    def series(name: str) -> SeriesVerdict:
        return SeriesVerdict(
            status=status(name), psi=0.1, threshold=0.2, observations=1000, mean_shift_sd=0.3, counts=[]
        )

    return WindowVerdict(
        number=number,
        closed=True,
        students=1000,
        predictions=1200,
        opened_ms=0,
        last_ms=1000,
        features={name: series(name) for name in INPUT_NAMES},
        score=series("score"),
        rate=RateVerdict(
            status=status("predicted_purchase"),
            predicted_positive_ratio=0.1,
            training_positive_ratio=0.1,
            threshold=0.05,
            observations=1000,
        ),
        unknown_country_ratio=0.0,
    )


@pytest.fixture
def seen(trained: Any) -> Callable[..., DriftSnapshot]:
    """Return a function that makes a snapshot with these closed windows."""
    baseline = Baselines(trained.store).of(trained.version)
    empty = WindowCounts.empty(1, baseline.baseline)

    def made(*windows: WindowVerdict, predictions: int = 3000) -> DriftSnapshot:
        return DriftSnapshot(
            model_version=trained.version,
            baseline=baseline,
            predictions=predictions,
            samples=predictions,
            observations=empty.bins,
            running=empty,
            recent=windows,
        )

    return made


def test_reasons_are_given_in_the_order_of_the_contract(seen: Any) -> None:
    """If several reasons hold, the first one is given."""
    both = window("minutes_watched", "predicted_purchase")
    rate = window("predicted_purchase")
    cases = [
        (DriftSnapshot(), DECAYED, "baseline_not_loaded"),
        (seen(predictions=0), DECAYED, "no_predictions_observed"),
        (seen(), DECAYED, "insufficient_samples"),
        (seen(window(judged=False)), DECAYED, "insufficient_samples"),
        (seen(both, both), DECAYED, "feature_distribution_drift"),
        (seen(rate, rate), DECAYED, "prediction_rate_shift"),
        (seen(window(), window()), DECAYED, "performance_decay"),
        (seen(window(), window()), NO_OUTCOMES, "below_threshold"),
    ]
    found = [recommend(drift, outcomes, 2).reason for drift, outcomes, _ in cases]
    assert found == [reason for _, _, reason in cases]
    assert list(dict.fromkeys(found)) == list(REASONS)


def test_one_drifted_window_is_not_confirmed(seen: Any) -> None:
    """The same series has to drift in two windows in a row; two different series confirm nothing."""
    assert recommend(seen(window("minutes_watched")), NO_OUTCOMES, 2).reason == "below_threshold"
    different = seen(window("minutes_watched"), window("days_on_platform"))
    assert recommend(different, NO_OUTCOMES, 2).reason == "below_threshold"
    same = seen(window("minutes_watched", "days_on_platform"), window("days_on_platform"))
    assert recommend(same, NO_OUTCOMES, 2).causes == ("days_on_platform",)


def test_a_recommendation_ends_after_as_many_clean_unaligned_view(seen: Any) -> None:
    """One window without drift does not withdraw the recommendation; two in a row do."""
    before = Recommendation("feature_distribution_drift", ("minutes_watched",))
    drifted = window("minutes_watched")
    once = recommend(seen(drifted, drifted, window()), NO_OUTCOMES, 2, before)
    assert once.reason == "feature_distribution_drift"
    twice = recommend(seen(drifted, drifted, window(), window()), NO_OUTCOMES, 2, once)
    assert twice.reason == "below_threshold"


class Topic:
    """A control topic in memory, which can be missing."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.problem: str | None = None

    def send(self, key: bytes, value: bytes, on_delivered: Callable[[str | None], None]) -> None:
        """Keep the record, or refuse it."""
        assert key == b"purchase"
        if self.problem is None:
            self.values.append(orjson.loads(value)["recommended_action"])
        on_delivered(self.problem)

    def poll(self) -> None:
        """Do nothing: records are delivered at once."""


class Told:
    """A notifier with a clock that is set by hand."""

    def __init__(self) -> None:
        self.topic = Topic()
        self.now_s = 1000.0
        self.announcer = RetrainingNotifier(self.topic, "purchase", 24, lambda: self.now_s)

    def consider(self, reason: str, version: str = "v1") -> None:
        """Pass a recommendation to the notifier."""
        self.announcer.notify_if_changed(
            Recommendation(reason), version, lambda: {"recommended_action": REASONS[reason]}
        )


def test_only_changes_are_announced() -> None:
    """An action is not announced twice in a row, even if its reason changes."""
    told = Told()
    for reason in ("below_threshold", "below_threshold", "prediction_rate_shift", "performance_decay"):
        told.consider(reason)
    assert told.topic.values == ["continue_monitoring", "trigger_retraining_pipeline"]


def test_retraining_is_announced_once_per_cooldown_and_model() -> None:
    """Retraining is announced again only after a day, or for another model version."""
    told = Told()
    for reason in ("prediction_rate_shift", "below_threshold", "prediction_rate_shift"):
        told.consider(reason)
    assert told.topic.values == ["trigger_retraining_pipeline", "continue_monitoring"]
    assert told.announcer.cooldown_until_s("v1") == 1000 + 86_400
    assert told.announcer.cooldown_until_s("v2") is None
    told.now_s += 86_400
    told.consider("prediction_rate_shift")
    assert told.topic.values[2:] == ["trigger_retraining_pipeline"]
    told.consider("below_threshold")
    told.consider("prediction_rate_shift", "v2")
    assert told.topic.values[3:] == ["continue_monitoring", "trigger_retraining_pipeline"]


def test_a_missing_topic_is_tried_again() -> None:
    """A failed announcement is retried later, but not in every turn."""
    told = Told()
    told.topic.problem = "no such topic"
    told.consider("below_threshold")
    told.topic.problem = None
    told.consider("below_threshold")
    assert told.topic.values == []
    told.now_s += RETRY_S
    told.consider("below_threshold")
    assert told.topic.values == ["continue_monitoring"]


def client_of(findings: ModelSnapshot) -> TestClient:
    """Return a client of the endpoints."""
    return TestClient(
        Starlette(
            routes=monitoring_routes(
                lambda: findings, DriftSettings(), OutcomeSettings(), ChallengerSettings()
            )
        )
    )


@pytest.mark.parametrize("path", ["/monitoring/drift", "/monitoring/retraining_trigger"])
def test_answers_have_every_key_whatever_is_known(seen: Any, path: str) -> None:
    """The answer has the contract's keys with and without a model, windows and outcomes."""
    snapshots = [DriftSnapshot(), seen(predictions=0), seen(window("student_country"), window())]
    for drift in snapshots:
        findings = ModelSnapshot(
            drift=drift, outcomes=DECAYED, recommendation=recommend(drift, DECAYED, 2), at_s=2_000_000_000
        )
        answer = client_of(findings).get(path).json()
        assert {
            "samples_observed",
            "drift_score_max_abs_z",
            "drifted_features",
            "predicted_positive_rate",
            "training_positive_rate",
        } <= answer.keys()
        assert list(answer["features"]) == list(INPUT_NAMES)
        for series in [*answer["features"].values(), answer["score"]]:
            assert {"psi", "threshold", "observations", "status"} <= series.keys()
            assert series["status"] in {"ok", "drift", "unknown"}
        if path.endswith("trigger"):
            assert answer["recommended_action"] == REASONS[answer["reason"]]
            assert answer["should_retrain"] == (answer["recommended_action"] == "trigger_retraining_pipeline")


def test_evidence_stands_beside_the_verdict(seen: Any) -> None:
    """The answer includes value, threshold, observations, window and the age of the baseline."""
    drift = seen(window("student_country"))
    created_s = drift.baseline.manifest.created_at.timestamp()
    findings = ModelSnapshot(
        drift=drift,
        outcomes=NO_OUTCOMES,
        recommendation=recommend(drift, NO_OUTCOMES, 2),
        at_s=created_s + 86_400,
    )
    answer = client_of(findings).get("/monitoring/drift").json()
    assert answer["status"] == "drift"
    assert answer["drifted_features"] == ["student_country"]
    assert answer["drift_score_max_abs_z"] == 0.3
    assert answer["features"]["student_country"]["threshold"] == 0.2
    assert answer["features"]["student_country"]["observations"] == 1000
    assert (answer["window"]["students"], answer["window"]["predictions"]) == (1000, 1200)
    assert answer["window"]["last_prediction_at"] == "1970-01-01T00:00:01.000Z"
    assert answer["baseline"]["age_days"] == 1.0


def test_series_of_a_model_go_with_it(seen: Any) -> None:
    """Every bin has a counter, and the series of a model disappear when another model is monitored."""
    registry = CollectorRegistry()
    telemetry = MonitorTelemetry(registry, DriftSettings())
    telemetry.show(seen(window("score")), NO_OUTCOMES, Recommendation("below_threshold"))
    shown = generate_latest(registry).decode()
    assert 'purchase_stream_drift_status{feature="score"} 1.0' in shown
    assert 'purchase_stream_retraining_reason{reason="below_threshold"} 1.0' in shown
    n_series = shown.count("purchase_stream_drift_observations_total{")
    labels = seen().running
    assert labels is not None
    assert n_series == sum(len(labels.bins[name]) for name in SERIES)
    telemetry.show(replace(seen(), baseline=None), NO_OUTCOMES, Recommendation("baseline_not_loaded"))
    gone = generate_latest(registry).decode()
    assert "purchase_stream_drift_observations_total{" not in gone
    assert "purchase_stream_drift_psi{" not in gone
    assert 'purchase_stream_drift_status{feature="score"} -1.0' in gone


def test_counters_of_outcomes_begin_at_0_where_there_is_a_feed(seen: Any) -> None:
    """With a feed the counters exist from 0 on, so that rates are complete; without one, they do not."""
    registry = CollectorRegistry()
    telemetry = MonitorTelemetry(registry, DriftSettings())
    drift = seen(window("score"))

    def shown(outcomes: OutcomesSnapshot) -> list[str]:
        telemetry.show(drift, outcomes, Recommendation("below_threshold"))
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if f'{{model_version="{drift.model_version}",predicted' in line]

    assert shown(NO_OUTCOMES) == []
    fresh = shown(OutcomesSnapshot(state="on"))
    assert len(fresh) == 6
    assert {line.rsplit(maxsplit=1)[1] for line in fresh} == {"0.0"}
    counted = shown(
        OutcomesSnapshot(state="on", totals={str(drift.model_version): OutcomeSums(true_positives=3)})
    )
    assert sum(line.endswith(" 3.0") for line in counted) == 1
