"""The scorer's metrics.

They are updated once per batch, from a report, and never from inside a stage. Label values come from
closed sets. Units are seconds, events and ratios. The registry is passed in; nothing is global.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from consumer.columnar.arrays import FloatArray
from consumer.pipeline.rejections import Code

STAGES: Final = ("decode", "validate", "score", "encode", "commit")
_PREFIX: Final = "purchase_stream_"
_DURATION_BUCKETS_S: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1,
    10,
)
_AGE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
_BATCH_BUCKETS: Final = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
_PROBABILITY_BUCKETS: Final = tuple(n / 20 for n in range(1, 21))


class ArrayHistogram(Collector):
    """A histogram that observes a whole array at once.

    The histogram of the client library takes one Python call per observation, which would cost as much as
    the scoring. Counts become cumulative on collection, as the exposition format requires.

    Args:
        name: The name without the prefix ``purchase_stream_``.
        documentation: The HELP text.
        buckets: The upper bounds, sorted, without infinity.
        registry: The registry to register with.
        label: The name of the label, if there is one.
        label_values: All values of the label.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        label: str | None = None,
        label_values: Sequence[str] = ("",),
    ) -> None:
        self._name = _PREFIX + name
        self._documentation = documentation
        self._edges = np.array(buckets, np.float64)
        self._label = label
        self._counts = {value: np.zeros(len(buckets) + 1, np.int64) for value in label_values}
        self._sums = dict.fromkeys(label_values, 0.0)
        registry.register(self)

    def observe(self, values: FloatArray, label_value: str = "") -> None:
        """Count every value of an array. A value equal to a bound is in its bucket (``le``)."""
        indexes = np.searchsorted(self._edges, values, side="left")
        self._counts[label_value] += np.bincount(indexes, minlength=len(self._edges) + 1)
        self._sums[label_value] += float(values.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yield the family with its cumulative buckets."""
        family = HistogramMetricFamily(
            self._name, self._documentation, labels=[self._label] if self._label else []
        )
        edges = [*(str(edge) for edge in self._edges.tolist()), "+Inf"]
        for value, counts in self._counts.items():
            cumulative = np.cumsum(counts).tolist()
            labels = [value] if self._label else []
            family.add_metric(labels, list(zip(edges, cumulative, strict=True)), self._sums[value])
        yield family


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What the metrics show about one committed batch.

    Attributes:
        n_events: The number of events.
        rejections: The number of rejected events by code.
        model_version: The version that scored the other events.
        probabilities: The probability of each scored event, float64 (m,).
        n_positive: The number of scored events with ``predicted_purchase`` 1.
        n_unknown_country: The number of scored events with an unknown country.
        ages_s: Seconds from each event's ``occurred_at`` to its processing, float64 (m,).
        durations_s: Seconds per stage.
    """

    n_events: int
    rejections: Mapping[Code, int]
    model_version: str
    probabilities: FloatArray = field(repr=False)
    n_positive: int
    n_unknown_country: int
    ages_s: FloatArray = field(repr=False)
    durations_s: Mapping[str, float]


class ScorerTelemetry:
    """The scorer's metrics.

    Args:
        registry: The registry to register with.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        self._events = counter("events", "Events processed, by outcome.", ["outcome"])
        self._rejections = counter("rejections", "Events rejected, by code.", ["code"])
        self._predictions = counter(
            "predictions", "Predictions published.", ["model_version", "predicted_purchase"]
        )
        self._unknown_country = counter("unknown_country", "Events scored with an unknown country.")
        self._transactions = counter("transactions", "Attempts to commit a batch, by result.", ["result"])
        self._rejected_schemas = counter(
            "breaker_batches", "Batches published with a schema whose events are rejected (setting breaker)."
        )
        self._rebalances = counter("rebalances", "Times that partitions were assigned or revoked.")
        self._reloads = counter("model_reloads", "Attempts to load another model, by result.", ["result"])
        self._model_info = gauge(
            "model_info", "1 for the active model.", ["model_version", "estimator", "scikit_learn"]
        )
        self._lag = gauge("consumer_lag_events", "Events not decided yet.", ["topic", "partition"])
        self._last_commit = gauge(
            "last_commit_timestamp_seconds", "Time of the last commit, seconds since the epoch."
        )
        self._probability = ArrayHistogram(
            "prediction_probability", "Published probabilities, 0 to 1.", _PROBABILITY_BUCKETS, registry
        )
        self._stages = ArrayHistogram(
            "stage_duration_seconds",
            "Seconds per batch and stage.",
            _DURATION_BUCKETS_S,
            registry,
            label="stage",
            label_values=STAGES,
        )
        self._batch = ArrayHistogram("batch_events", "Events per batch.", _BATCH_BUCKETS, registry)
        self._age = ArrayHistogram(
            "event_age_seconds", "Seconds from an event to its prediction.", _AGE_BUCKETS_S, registry
        )
        self._last_version = ""
        # increase() does not see the first increment of a series that did not exist before.
        for outcome in ("scored", "rejected"):
            self._events.labels(outcome)
        for code in Code:
            self._rejections.labels(code)
        for result in ("committed", "aborted"):
            self._transactions.labels(result)
        for result in ("loaded", "refused"):
            self._reloads.labels(result)

    def batch_committed(self, report: BatchReport, now_s: float) -> None:
        """Count a batch that is committed."""
        n_scored = len(report.probabilities)
        if report.model_version != self._last_version:
            # A batch that was scored with the previous model has created the series of that model again.
            self._predictions.clear()
            self._last_version = report.model_version
        self._events.labels("scored").inc(n_scored)
        self._events.labels("rejected").inc(report.n_events - n_scored)
        for code, n in report.rejections.items():
            self._rejections.labels(code).inc(n)
        self._predictions.labels(report.model_version, "1").inc(report.n_positive)
        self._predictions.labels(report.model_version, "0").inc(n_scored - report.n_positive)
        self._unknown_country.inc(report.n_unknown_country)
        self._transactions.labels("committed").inc()
        self._last_commit.set(now_s)
        self._probability.observe(report.probabilities)
        self._age.observe(report.ages_s)
        self._batch.observe(np.array([report.n_events], np.float64))
        for stage, duration_s in report.durations_s.items():
            self._stages.observe(np.array([duration_s]), stage)

    def batch_aborted(self) -> None:
        """Count an attempt that failed."""
        self._transactions.labels("aborted").inc()

    def schema_rejected(self) -> None:
        """Count a batch that was published although the breaker is open."""
        self._rejected_schemas.inc()

    def rebalanced(self) -> None:
        """Count an assignment or a revocation of partitions."""
        self._rebalances.inc()

    def model_reloaded(self, *, loaded: bool) -> None:
        """Count an attempt to load another model."""
        self._reloads.labels("loaded" if loaded else "refused").inc()

    def model_in_use(self, version: str, estimator: str, scikit_learn: str) -> None:
        """Show the active model, and no other."""
        self._model_info.clear()
        self._predictions.clear()  # The series of a retired model would never change again.
        self._model_info.labels(version, estimator, scikit_learn).set(1)
        for decision in ("0", "1"):
            self._predictions.labels(version, decision)

    def lag(self, lag_events: Mapping[tuple[str, int], int]) -> None:
        """Show the lag of the owned partitions (topic, number), and of no others."""
        self._lag.clear()
        for (topic, partition), n in lag_events.items():
            self._lag.labels(topic, str(partition)).set(n)
