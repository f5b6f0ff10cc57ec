"""Export the monitor's metrics: audit log, drift, outcomes, recommendation, health.

Drift and outcomes are collected from the latest snapshot, so a series exists only while the model version
that it describes is monitored.

If several monitors each read a part of the topic, only their counters may be added. The index of the whole
is not the sum or mean of the indexes of its parts, so the recording rules compute it from the counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from consumer.monitor.challenger import DIFFERENCE_BOUNDS, PROBABILITY_BOUNDS, ComparisonSnapshot
from consumer.monitor.drift.tracker import DriftSnapshot
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, thresholds_z
from consumer.monitor.drift.window import PREDICTED_PURCHASE, SCORE, SERIES, bin_labels
from consumer.monitor.health import CauseCode, Health, Level
from consumer.monitor.loop import BatchStats
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.outcomes.quality import OutcomeSums
from consumer.monitor.retraining import REASONS, Recommendation
from consumer.monitor.stream_status import StreamSnapshot
from consumer.settings import DriftSettings
from model_store.baseline import Baseline

_PREFIX: Final = "purchase_stream_"
_STATUS_VALUES: Final = {DriftStatus.DRIFT: 1.0, DriftStatus.OK: 0.0, DriftStatus.UNKNOWN: -1.0}

Family = CounterMetricFamily | GaugeMetricFamily


class MonitorTelemetry(Collector):
    """The monitor's metrics.

    Args:
        registry: The registry to export them from.
        settings: The drift settings, which recording rules need, too.
    """

    def __init__(self, registry: CollectorRegistry, settings: DriftSettings) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(_PREFIX + name, text, registry=registry)

        self._lines = counter("audit_lines", "Lines added to the audit log.")
        self._bytes = counter("audit_bytes", "Bytes added to the audit log.")
        self._undecodable = counter(
            "audit_undecodable_records", "Records in the predictions topic that cannot be decoded."
        )
        self._settings = settings
        self._drift = DriftSnapshot()
        self._outcomes = OutcomesSnapshot()
        self._recommendation: Recommendation | None = None
        registry.register(self)

    def batch_done(self, stats: BatchStats) -> None:
        """Count a batch that is in the audit log."""
        self._lines.inc(stats.lines)
        self._bytes.inc(stats.line_bytes)
        self._undecodable.inc(stats.undecodable)

    def show(self, drift: DriftSnapshot, outcomes: OutcomesSnapshot, recommendation: Recommendation) -> None:
        """Export these values from now on."""
        self._drift, self._outcomes, self._recommendation = drift, outcomes, recommendation

    def collect(self) -> Iterable[Family]:
        """Yield every family, including those without a sample."""
        yield from self._observations(self._drift)
        yield from self._verdicts(self._drift)
        yield from self._windows(self._drift)
        yield from self._outcome_counters(self._outcomes, self._drift.model_version)
        yield from self._retraining(self._recommendation)

    def _observations(self, drift: DriftSnapshot) -> Iterator[Family]:
        observations = _counter(
            "drift_observations",
            "Students counted in each bin, each once per window.",
            ["model_version", "feature", "bin"],
        )
        expected = _gauge(
            "drift_baseline_ratio",
            "Share of training rows in each bin, 0 to 1, smoothed so that it is never 0.",
            ["model_version", "feature", "bin"],
        )
        rows = _gauge("drift_baseline_observations", "Training rows behind the baseline.", ["model_version"])
        trained = _gauge(
            "drift_baseline_timestamp_seconds",
            "Creation time of the baseline, seconds since the epoch.",
            ["model_version"],
        )
        if drift.baseline is not None:
            version, baseline = drift.baseline.version, drift.baseline.baseline
            rows.add_metric([version], baseline.rows)
            trained.add_metric([version], drift.baseline.manifest.created_at.timestamp())
            for name, labels in bin_labels(baseline).items():
                ratios = _expected_ratios(baseline, name)
                counts = drift.observations[name].tolist()
                for label, ratio, count in zip(labels, ratios, counts, strict=True):
                    observations.add_metric([version, name, label], count)
                    expected.add_metric([version, name, label], ratio)
        return iter((observations, expected, rows, trained))

    def _verdicts(self, drift: DriftSnapshot) -> Iterator[Family]:
        psi = _gauge("drift_psi", "Population stability index of the last closed window, nats.", ["feature"])
        threshold = _gauge(
            "drift_psi_threshold",
            "Population stability index above which the last closed window has drifted, nats.",
            ["feature"],
        )
        shift = _gauge(
            "drift_mean_shift_sd",
            "Mean of the last closed window minus the training mean, in standard deviations of training.",
            ["feature"],
        )
        status = _gauge(
            "drift_status", "Verdict on the last closed window: 1 drift, 0 ok, -1 unknown.", ["feature"]
        )
        live = _gauge(
            "predicted_positive_ratio",
            "Share of students predicted to buy in the last closed window, 0 to 1.",
        )
        training = _gauge(
            "training_positive_ratio", "Share of students predicted to buy in training, 0 to 1."
        )
        allowed = _gauge(
            "predicted_positive_threshold_ratio",
            "Absolute difference between the live and the training share above which it has drifted, 0 to 1.",
        )
        unknown = _gauge(
            "drift_unknown_country_ratio",
            "Share of students with an unrecognised country in the last closed window, 0 to 1.",
        )
        if drift.baseline is not None:
            training.add_metric([], drift.baseline.baseline.predicted_positive_ratio)
        window = drift.latest
        if window is None:
            for name in SERIES:
                status.add_metric([name], _STATUS_VALUES[DriftStatus.UNKNOWN])
        else:
            for name, series in {**window.features, SCORE: window.score}.items():
                _add(psi, [name], series.psi)
                _add(threshold, [name], series.threshold)
                _add(shift, [name], series.mean_shift_sd)
                status.add_metric([name], _STATUS_VALUES[series.status])
            status.add_metric([PREDICTED_PURCHASE], _STATUS_VALUES[window.rate.status])
            _add(live, [], window.rate.predicted_positive_ratio)
            _add(allowed, [], window.rate.threshold)
            _add(unknown, [], window.unknown_country_ratio)
        return iter((psi, threshold, shift, status, live, training, allowed, unknown))

    def _windows(self, drift: DriftSnapshot) -> Iterator[Family]:
        closed = _counter("drift_windows", "Closed windows by verdict.", ["status"])
        for status in DriftStatus:
            closed.add_metric([status], drift.windows.get(status, 0))
        running = _gauge("drift_window_students", "Distinct students in the running window.")
        running.add_metric([], drift.running.students if drift.running else 0)
        closed_at = _gauge(
            "drift_window_closed_timestamp_seconds",
            "Time of the latest prediction in the last closed window, seconds since the epoch.",
        )
        _add(closed_at, [], _last_s(drift.latest))
        tolerance = _gauge(
            "drift_tolerance_psi", "Tolerated population stability index, nats (setting drift.tolerated_psi)."
        )
        tolerance.add_metric([], self._settings.tolerated_psi)
        minimum = _gauge(
            "drift_minimum_students", "Students needed to judge a window (setting drift.minimum_students)."
        )
        minimum.add_metric([], self._settings.minimum_students)
        z = _gauge(
            "drift_threshold_z",
            "Standard normal quantile of the drift thresholds; each window is judged once.",
        )
        z.add_metric([], thresholds_z(self._settings))
        return iter((closed, running, closed_at, tolerance, minimum, z))

    def _outcome_counters(self, outcomes: OutcomesSnapshot, current: str | None) -> Iterator[Family]:
        read = _counter("outcomes", "Outcomes read, by whether they met a pending prediction.", ["result"])
        for result in ("joined", "unmatched", "undecodable"):
            read.add_metric([result], getattr(outcomes, result))
        matured = _counter(
            "matured_outcomes",
            "Outcomes whose prediction is old enough to be counted.",
            ["model_version", "predicted_purchase", "purchased"],
        )
        expected = _counter(
            "expected_purchases",
            "Expected purchases among the matured outcomes: the sum of their probabilities.",
            ["model_version", "predicted_purchase"],
        )
        error = _counter(
            "outcome_squared_error",
            "Sum of (probability - outcome) squared over matured outcomes.",
            ["model_version"],
        )
        expected_error = _counter(
            "expected_squared_error",
            "Expected value of that sum if the probabilities are right.",
            ["model_version"],
        )
        totals = dict(outcomes.totals)
        if current is not None and outcomes.state != "off":
            totals.setdefault(current, OutcomeSums())  # a rate needs a 0 before the first outcome
        for version, sums in totals.items():
            matured.add_metric([version, "1", "1"], sums.true_positives)
            matured.add_metric([version, "1", "0"], sums.false_positives)
            matured.add_metric([version, "0", "1"], sums.false_negatives)
            matured.add_metric([version, "0", "0"], sums.true_negatives)
            expected.add_metric([version, "1"], sums.expected_flagged)
            expected.add_metric([version, "0"], sums.expected_unflagged)
            error.add_metric([version], sums.squared_error)
            expected_error.add_metric([version], sums.variance_flagged + sums.variance_unflagged)
        pending = _gauge("predictions_awaiting_outcome", "Predictions without an outcome so far.")
        pending.add_metric([], outcomes.pending)
        status = _gauge(
            "performance_status",
            "Precision and recall against their expected values: 1 decay, 0 ok, -1 unknown.",
        )
        verdict = outcomes.verdict
        status.add_metric([], -1.0 if verdict is None else float(verdict.decayed))
        return iter((read, matured, expected, error, expected_error, pending, status))

    def _retraining(self, recommendation: Recommendation | None) -> Iterator[Family]:
        recommended = _gauge("retraining_recommended", "1 while retraining is recommended, else 0.")
        recommended.add_metric([], float(recommendation is not None and recommendation.should_retrain))
        reason = _gauge("retraining_reason", "1 for the reason of the recommendation, else 0.", ["reason"])
        for name in REASONS:
            reason.add_metric([name], float(recommendation is not None and recommendation.reason == name))
        return iter((recommended, reason))


class HealthTelemetry(Collector):
    """The health and the lag of the stream, as the monitor sees them.

    Args:
        health: Returns the health.
        stream: Returns the state of the stream.
        events_topic: Name of the events topic.
    """

    def __init__(
        self, health: Callable[[], Health], stream: Callable[[], StreamSnapshot], events_topic: str
    ) -> None:
        self._health = health
        self._stream = stream
        self._events_topic = events_topic

    def collect(self) -> Iterable[Family]:
        """Yield the level, the causes, the lag and the members."""
        health, stream = self._health(), self._stream()
        level = _gauge("health_level", "Health of the stream: 0 well, 1 needs attention, 2 not well.")
        level.add_metric([], list(Level).index(health.level))
        causes = _gauge(
            "health_cause", "1 while this cause keeps the stream from being well, else 0.", ["cause"]
        )
        active = {cause.code for cause in health.causes}
        for code in CauseCode:
            causes.add_metric([code], float(code in active))
        lag = _gauge("consumer_lag_events", "Events not decided yet.", ["topic", "partition"])
        for partition, events in stream.lag_by_partition.items():
            lag.add_metric([self._events_topic, str(partition)], events)
        members = _gauge("scorers", "Members of the scorers' consumer group; absent if unknown.")
        _add(members, [], stream.members)
        return iter((level, causes, lag, members))


class ChallengerTelemetry(Collector):
    """The champion against the challenger and its predecessor.

    Args:
        comparisons: Returns the comparisons.
    """

    _LABELS = ("alias", "model_version")

    def __init__(self, comparisons: Callable[[], Iterable[ComparisonSnapshot]]) -> None:
        self._comparisons = comparisons

    def collect(self) -> Iterable[Family | HistogramMetricFamily]:
        """Yield every family, including those without a sample."""
        comparisons = list(self._comparisons())
        yield from self._live(comparisons)
        yield from self._outcomes(comparisons)

    def _live(self, comparisons: Sequence[ComparisonSnapshot]) -> Iterator[Family | HistogramMetricFamily]:
        students = _counter(
            "challenger_students",
            "Students compared with the champion, by whether the version scored them.",
            [*self._LABELS, "result"],
        )
        disagreements = _counter(
            "challenger_disagreements",
            "Students for whom the version decides otherwise, by its decision.",
            [*self._LABELS, "predicted_purchase"],
        )
        probability = HistogramMetricFamily(
            _PREFIX + "challenger_probability", "Probabilities of the version, 0 to 1.", labels=self._LABELS
        )
        difference = HistogramMetricFamily(
            _PREFIX + "challenger_probability_difference",
            "Probability of the version minus the champion's, -1 to 1.",
            labels=self._LABELS,
        )
        for comparison in comparisons:
            labels, live = [comparison.contender, comparison.version], comparison.live
            for result in ("scored", "dropped", "failed"):
                students.add_metric([*labels, result], getattr(live, result))
            disagreements.add_metric([*labels, "1"], live.flagged)
            disagreements.add_metric([*labels, "0"], live.unflagged)
            probability.add_metric(
                labels, _cumulative(PROBABILITY_BOUNDS, live.probability_bins), live.probability_sum
            )
            # A sum of differences may fall, which OpenMetrics does not allow for a histogram.
            difference.add_metric(labels, _cumulative(DIFFERENCE_BOUNDS, live.difference_bins), None)
        return iter((students, disagreements, probability, difference))

    def _outcomes(self, comparisons: Sequence[ComparisonSnapshot]) -> Iterator[Family]:
        matured = _counter(
            "challenger_matured_outcomes",
            "Matured outcomes of students whom the version scored, by its decision.",
            [*self._LABELS, "predicted_purchase", "purchased"],
        )
        error = _counter(
            "challenger_squared_error",
            "Sum of (probability - outcome) squared over these outcomes.",
            self._LABELS,
        )
        champion_error = _counter(
            "challenger_champion_squared_error", "The champion's sum over the same outcomes.", self._LABELS
        )
        evidence = _gauge(
            "challenger_evidence",
            "Evidence that the version is better, or worse, than the champion; decided at 1 / "
            "challenger.error_ratio.",
            [*self._LABELS, "preference"],
        )
        for comparison in comparisons:
            labels, sums, test = [comparison.contender, comparison.version], comparison.sums, comparison.test
            matured.add_metric([*labels, "1", "1"], sums.true_positives)
            matured.add_metric([*labels, "1", "0"], sums.false_positives)
            matured.add_metric([*labels, "0", "1"], sums.false_negatives)
            matured.add_metric([*labels, "0", "0"], sums.true_negatives)
            error.add_metric(labels, test.contender_squared_error)
            champion_error.add_metric(labels, test.champion_squared_error)
            evidence.add_metric([*labels, "better"], test.peak_better)
            evidence.add_metric([*labels, "worse"], test.peak_worse)
        return iter((matured, error, champion_error, evidence))


def _cumulative(bounds: Sequence[float], bins: Sequence[int]) -> list[tuple[str, float]]:
    """Return the buckets of a histogram from the counts of its bins."""
    edges = [*(str(bound) for bound in bounds), "+Inf"]
    return list(zip(edges, accumulate(bins), strict=True))


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)


def _gauge(name: str, text: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _add(family: Family, labels: Sequence[str], value: float | None) -> None:
    """Add a sample, unless the value is unknown."""
    if value is not None:
        family.add_metric(labels, value)


def _expected_ratios(baseline: Baseline, name: str) -> Sequence[float]:
    if name == PREDICTED_PURCHASE:
        return (1 - baseline.predicted_positive_ratio, baseline.predicted_positive_ratio)
    bins = baseline.score if name == SCORE else baseline.features[name]
    ratios: list[float] = bins.ratios.tolist()
    return ratios


def _last_s(window: WindowVerdict | None) -> float | None:
    return None if window is None or window.last_ms is None else window.last_ms / 1000
