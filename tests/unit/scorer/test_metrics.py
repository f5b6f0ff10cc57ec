"""The scorer's metrics: their text, their labels, and histograms that observe whole arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from consumer.pipeline.rejections import Code
from consumer.scorer.metrics import STAGES, ArrayHistogram, BatchReport, ScorerTelemetry

EDGES = (0.0, 0.1, 0.25, 1.0, 10.0)


def _lines(registry: CollectorRegistry) -> list[str]:
    """Return the samples, without the client's own creation times."""
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#") and "_created" not in line]


def _buckets(name: str, labels: str, edges: list[float], counts: list[int]) -> list[str]:
    """Return the lines of a histogram's buckets, the last one without an edge."""
    comma = "," if labels else ""
    texts = [*(str(float(edge)) for edge in edges), "+Inf"]
    return [
        f'{name}_bucket{{{labels}{comma}le="{le}"}} {float(n)}' for le, n in zip(texts, counts, strict=True)
    ]


def _report(**changes: Any) -> BatchReport:
    fields: dict[str, Any] = {
        "n_events": 5,
        "rejections": {Code.TOMBSTONE: 1, Code.FIELD_INVALID: 1},
        "model_version": "v1",
        "probabilities": np.array([0.04, 0.5, 1.0]),
        "n_positive": 2,
        "n_unknown_country": 1,
        "ages_s": np.array([0.02, 0.02, 100000.0]),
        "durations_s": dict.fromkeys(STAGES, 0.001),
    } | changes
    return BatchReport(**fields)


def test_the_exposition_of_one_batch_is_exactly_this() -> None:
    """Names, labels and values are those of the contract and the dashboards."""
    registry = CollectorRegistry()
    telemetry = ScorerTelemetry(registry)
    telemetry.model_in_use("v1", "LogReg", "1.9.1")
    telemetry.model_reloaded(loaded=True)
    telemetry.rebalanced()
    telemetry.lag({("engagement-events", 2): 7})
    telemetry.batch_aborted()
    telemetry.batch_committed(_report(), now_s=1_700_000_000.5)
    lines = _lines(registry)
    for name in ("prediction_probability", "stage_duration_seconds", "batch_events", "event_age_seconds"):
        lines = [line for line in lines if not line.startswith(f"purchase_stream_{name}_bucket")]
    stages = [
        line
        for stage in STAGES
        for line in (
            f'purchase_stream_stage_duration_seconds_count{{stage="{stage}"}} 1.0',
            f'purchase_stream_stage_duration_seconds_sum{{stage="{stage}"}} 0.001',
        )
    ]
    rejected = {"tombstone", "field_invalid"}
    assert sorted(lines) == sorted(
        [
            "purchase_stream_breaker_batches_total 0.0",
            'purchase_stream_events_total{outcome="scored"} 3.0',
            'purchase_stream_events_total{outcome="rejected"} 2.0',
            *(f'purchase_stream_rejections_total{{code="{c}"}} {float(c in rejected)}' for c in Code),
            'purchase_stream_predictions_total{model_version="v1",predicted_purchase="0"} 1.0',
            'purchase_stream_predictions_total{model_version="v1",predicted_purchase="1"} 2.0',
            "purchase_stream_unknown_country_total 1.0",
            'purchase_stream_transactions_total{result="committed"} 1.0',
            'purchase_stream_transactions_total{result="aborted"} 1.0',
            "purchase_stream_rebalances_total 1.0",
            'purchase_stream_model_reloads_total{result="loaded"} 1.0',
            'purchase_stream_model_reloads_total{result="refused"} 0.0',
            'purchase_stream_model_info{estimator="LogReg",model_version="v1",scikit_learn="1.9.1"} 1.0',
            'purchase_stream_consumer_lag_events{partition="2",topic="engagement-events"} 7.0',
            "purchase_stream_last_commit_timestamp_seconds 1.7000000005e+09",
            "purchase_stream_prediction_probability_count 3.0",
            "purchase_stream_prediction_probability_sum 1.54",
            "purchase_stream_batch_events_count 1.0",
            "purchase_stream_batch_events_sum 5.0",
            "purchase_stream_event_age_seconds_count 3.0",
            "purchase_stream_event_age_seconds_sum 100000.04",
            *stages,
        ]
    )


def test_the_probabilities_buckets_are_twentieths() -> None:
    """The last bucket includes 1.0."""
    registry = CollectorRegistry()
    ScorerTelemetry(registry).batch_committed(_report(), now_s=0)
    edges = [n / 20 for n in range(1, 21)]
    counts = [1] * 9 + [2] * 10 + [3, 3]
    wanted = _buckets("purchase_stream_prediction_probability", "", edges, counts)
    assert [line for line in _lines(registry) if "probability_bucket" in line] == wanted


def test_every_series_is_there_before_its_first_event() -> None:
    """Otherwise increase() would not see the first increment."""
    registry = CollectorRegistry()
    telemetry = ScorerTelemetry(registry)
    telemetry.model_in_use("v1", "LogisticRegression", "1.9.1")
    before = {line.rsplit(" ", 1)[0] for line in _lines(registry)}
    telemetry.batch_committed(_report(), now_s=1.0)
    telemetry.batch_aborted()
    telemetry.model_reloaded(loaded=False)
    telemetry.model_reloaded(loaded=True)
    telemetry.rebalanced()
    assert {line.rsplit(" ", 1)[0] for line in _lines(registry)} == before


def test_an_unknown_stage_is_refused() -> None:
    """A label outside of its closed set is a bug, not a new series."""
    telemetry = ScorerTelemetry(CollectorRegistry())
    with pytest.raises(KeyError):
        telemetry.batch_committed(_report(durations_s={"lunch": 1.0}), now_s=0)


def test_only_the_active_model_has_series() -> None:
    """The counters of a retired version are removed."""
    registry = CollectorRegistry()
    telemetry = ScorerTelemetry(registry)
    for version in ("v1", "v2"):
        telemetry.model_in_use(version, "LogisticRegression", "1.9.1")
    assert not [line for line in _lines(registry) if '"v1"' in line]
    assert len([line for line in _lines(registry) if 'model_version="v2"' in line]) == 3


def test_only_owned_partitions_have_a_lag() -> None:
    """A revoked partition has the lag of its new owner."""
    registry = CollectorRegistry()
    telemetry = ScorerTelemetry(registry)
    telemetry.lag({("t", 0): 5, ("t", 1): 6})
    telemetry.lag({("t", 1): 0})
    lag = [line for line in _lines(registry) if "lag" in line]
    assert lag == ['purchase_stream_consumer_lag_events{partition="1",topic="t"} 0.0']


def test_a_batch_without_scored_events_is_counted() -> None:
    """If all events are rejected, there are no probabilities and no ages."""
    registry = CollectorRegistry()
    none = np.empty(0)
    report = _report(n_events=2, probabilities=none, ages_s=none, n_positive=0, n_unknown_country=0)
    ScorerTelemetry(registry).batch_committed(report, now_s=1.0)
    lines = _lines(registry)
    assert 'purchase_stream_events_total{outcome="rejected"} 2.0' in lines
    assert "purchase_stream_prediction_probability_count 0.0" in lines


@given(
    arrays=st.lists(
        st.lists(st.floats(-5, 50) | st.sampled_from([*EDGES, np.nextafter(0.1, 1), -0.0]), max_size=20),
        max_size=4,
    )
)
@settings(max_examples=150)
def test_an_array_is_counted_like_its_values_one_by_one(arrays: list[list[float]]) -> None:
    """The buckets are those of the client library's histogram, bounds included (le)."""
    own, other = CollectorRegistry(), CollectorRegistry()
    histogram = ArrayHistogram("h", "Text.", EDGES, own)
    library = Histogram("purchase_stream_h", "Text.", buckets=EDGES, registry=other)
    for values in arrays:
        histogram.observe(np.array(values, np.float64))
        for value in values:
            library.observe(value)
    # The order of additions differs, so the sums are close, but not equal.
    without_sum = [[line for line in _lines(r) if "_sum" not in line] for r in (own, other)]
    assert without_sum[0] == without_sum[1]
    sums = [r.get_sample_value("purchase_stream_h_sum") for r in (own, other)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-9)
