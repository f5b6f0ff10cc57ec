"""The scorer's metric families; the registry is injected and nothing is global.

Told once per batch from a report, never from inside a stage. Label values come from closed sets.
Base units: seconds, events, ratios.
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

    The client library's own takes one Python call per observation, which would cost as much as the
    scoring. Values are cumulated on collection, as the exposition format wants them.
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
        """Count every value of an array; a value on an edge belongs below it (``le``)."""
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
    """What there is to tell of one committed batch.

    Attributes:
        n_events: how many events it had.
        rejections: how many were rejected, by code.
        model_version: what scored the others.
        probabilities: float64 (m,), of the scored events.
        n_positive: how many of them were decided 1.
        n_unknown_country: how many of them came from a country that is none.
        ages_s: float64 (m,), seconds from an event's ``occurred_at`` to now.
        durations_s: seconds spent per stage.
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
    """The scorer's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        self._events = counter("events", "Events decided on, by what became of them.", ["outcome"])
        self._rejections = counter("rejections", "Events rejected, by code.", ["code"])
        self._predictions = counter(
            "predictions", "Predictions published.", ["model_version", "predicted_purchase"]
        )
        self._unknown_country = counter("unknown_country", "Events scored with a country that is none.")
        self._transactions = counter("transactions", "Batches published, by result.", ["result"])
        self._rebalances = counter("rebalances", "Times that partitions came or went.")
        self._reloads = counter("model_reloads", "Times that another model was looked at.", ["result"])
        self._model_info = gauge(
            "model_info", "1 for the model that is on.", ["model_version", "estimator", "scikit_learn"]
        )
        self._lag = gauge("consumer_lag_events", "Events not yet decided on.", ["topic", "partition"])
        self._last_commit = gauge(
            "last_commit_timestamp_seconds", "When a batch was last committed, seconds since the epoch."
        )
        self._probability = ArrayHistogram(
            "prediction_probability", "Published probabilities, 0 to 1.", _PROBABILITY_BUCKETS, registry
        )
        self._stages = ArrayHistogram(
            "stage_duration_seconds",
            "Seconds that a batch spent in a stage.",
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
        # A series that is born with its first increment hides that increment from increase().
        for outcome in ("scored", "rejected"):
            self._events.labels(outcome)
        for code in Code:
            self._rejections.labels(code)
        for result in ("committed", "aborted"):
            self._transactions.labels(result)
        for result in ("loaded", "refused"):
            self._reloads.labels(result)

    def batch_committed(self, report: BatchReport, now_s: float) -> None:
        """Count a batch whose outcome is committed."""
        n_scored = len(report.probabilities)
        if report.model_version != self._last_version:
            # A batch of the retired model that was still under way has brought its series back.
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
        """Count a batch that was undone."""
        self._transactions.labels("aborted").inc()

    def rebalanced(self) -> None:
        """Count partitions coming or going."""
        self._rebalances.inc()

    def model_reloaded(self, *, loaded: bool) -> None:
        """Count a look at another model."""
        self._reloads.labels("loaded" if loaded else "refused").inc()

    def model_in_use(self, version: str, estimator: str, scikit_learn: str) -> None:
        """Show which model is on, and none but it."""
        self._model_info.clear()
        self._predictions.clear()  # a retired model's series would stand still for ever
        self._model_info.labels(version, estimator, scikit_learn).set(1)
        for decision in ("0", "1"):
            self._predictions.labels(version, decision)

    def lag(self, lag_events: Mapping[tuple[str, int], int]) -> None:
        """Show the lag of the partitions (topic, number) that are ours, and of none else."""
        self._lag.clear()
        for (topic, partition), n in lag_events.items():
            self._lag.labels(topic, str(partition)).set(n)
