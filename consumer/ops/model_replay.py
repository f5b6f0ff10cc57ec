"""Score the past's inputs with another model version, and compare the decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer import timestamps
from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.drift.window import versions_of
from consumer.ops.past import Outcomes, Past, PastPredictions, join_outcomes
from consumer.pipeline.score import CountryNumbers, score
from model_store.countries import UNKNOWN_COUNTRY, country_alpha2, country_code
from model_store.evaluation import measure, wilson_interval
from model_store.loading import LoadedModel

PROBABILITY_BINS: Final = 10
_COUNTRIES_SHOWN: Final = 20


@dataclass(slots=True)
class Flips:
    """How many students get another decision.

    Attributes:
        students: Distinct students, each with the last prediction in the span.
        positive_before: Students who were predicted to buy.
        positive_after: Students whom the other version predicts to buy.
        to_positive: Students who are predicted to buy only by the other version.
        to_negative: Students who are no longer predicted to buy.
    """

    students: int = 0
    positive_before: int = 0
    positive_after: int = 0
    to_positive: int = 0
    to_negative: int = 0

    @property
    def flipped(self) -> int:
        """The number of students with another decision."""
        return self.to_positive + self.to_negative

    def described(self) -> str:
        """Describe the flips in one line."""
        ratio = self.flipped / self.students if self.students else 0.0
        return (
            f"{self.flipped} of {self.students} flip ({ratio:.1%}): {self.to_positive} to 'will buy',"
            f" {self.to_negative} to 'will not'; predicted to buy {self.positive_before} before,"
            f" {self.positive_after} after"
        )

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Flips:
        """Count decisions, bool (n,) each."""
        return cls(
            students=len(before),
            positive_before=int(before.sum()),
            positive_after=int(after.sum()),
            to_positive=int((after & ~before).sum()),
            to_negative=int((before & ~after).sum()),
        )


@dataclass(frozen=True, slots=True)
class RealisedQuality:
    """The quality of decisions, measured with outcomes.

    Attributes:
        precision: Share of the students predicted to buy who bought; ``None`` if there are none.
        precision_interval: Its 95 % interval (Wilson).
        recall: Share of the buyers who were predicted to buy; ``None`` if there are none.
        recall_interval: Its 95 % interval (Wilson).
        average_precision: ``None`` unless there are outcomes of both kinds.
        brier_score: Mean squared error of the probabilities.
    """

    precision: float | None
    precision_interval: tuple[float, float] | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    average_precision: float | None
    brier_score: float

    def described(self) -> str:
        """Describe the quality in one line."""
        parts = [
            _measure("precision", self.precision, self.precision_interval),
            _measure("recall", self.recall, self.recall_interval),
            _measure("average precision", self.average_precision, None),
            _measure("Brier score", self.brier_score, None),
        ]
        return ", ".join(parts)


def _measure(name: str, value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return f"{name} undefined"
    return f"{name} {value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


@dataclass(slots=True, kw_only=True)
class ModelReplay:
    """The result of a replay.

    Attributes:
        version: The other version.
        threshold: Its threshold.
        source: What was read.
        since: The time of the first prediction, ms since the epoch.
        until: The time of the last prediction.
        predictions: The number of predictions that were scored again.
        versions: The number of predictions by the version that made them.
        failed: The number of predictions on whose inputs the other version fails.
        damaged: The number of damaged lines that were skipped.
        all: The flips of all students.
        countries: The flips by country, the most frequent ones first; ``other`` for the rest.
        probabilities_before: Students by tenths of the probability, 0 to 0.1 first.
        probabilities_after: The same for the other version.
        mean_abs_difference: The mean absolute difference of the probabilities.
        max_abs_difference: The largest one.
        outcomes: The number of outcomes that met a prediction before them.
        purchases: The number of purchases among them.
        quality_before: The quality of the decisions that were made; ``None`` without outcomes.
        quality_after: The quality that the other version would have had.
        took_s: The seconds that reading and scoring took.
    """

    version: str
    threshold: float
    source: str
    since: int | None = None
    until: int | None = None
    predictions: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    damaged: int = 0
    all: Flips = field(default_factory=Flips)
    countries: dict[str, Flips] = field(default_factory=dict)
    probabilities_before: list[int] = field(default_factory=list)
    probabilities_after: list[int] = field(default_factory=list)
    mean_abs_difference: float = 0.0
    max_abs_difference: float = 0.0
    outcomes: int = 0
    purchases: int = 0
    quality_before: RealisedQuality | None = None
    quality_after: RealisedQuality | None = None
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values; times are RFC 3339."""
        span = {"since": self.since, "until": self.until}
        times = {
            name: None if time_ms is None else timestamps.format_ms(time_ms) for name, time_ms in span.items()
        }
        return asdict(self) | times

    def lines(self) -> Iterator[str]:
        """Format the result, one fact per line."""
        if self.since is None or self.until is None:
            yield f"{self.source} has no prediction of a student in this span"
            return
        rate = self.predictions / max(self.took_s, 1e-9)
        made_by = ", ".join(f"{version} {n}" for version, n in self.versions.items())
        yield (
            f"{self.predictions} predictions of {self.source}, {timestamps.format_ms(self.since)} to"
            f" {timestamps.format_ms(self.until)}, by {made_by}"
        )
        yield f"scored again by {self.version} at threshold {self.threshold:.4f}, {rate:,.0f} a second"
        if self.failed:
            yield f"{self.version} fails on the inputs of {self.failed} predictions"
        if self.damaged:
            yield f"skipped {self.damaged} damaged lines"
        yield f"students: {self.all.described()}"
        yield (
            f"probabilities differ by {self.mean_abs_difference:.4f} on average,"
            f" {self.max_abs_difference:.4f} at most"
        )
        yield f"{'probability':<14} {'before':>10} {'after':>10}  (students)"
        for i, (before, after) in enumerate(
            zip(self.probabilities_before, self.probabilities_after, strict=True)
        ):
            low, high = i / PROBABILITY_BINS, (i + 1) / PROBABILITY_BINS
            yield f"{low:.1f} to {high:.1f}     {before:>10} {after:>10}"
        for country, flips in self.countries.items():
            yield f"{country:<8} {flips.described()}"
        if self.quality_before is None or self.quality_after is None:
            yield "no outcomes: what precision and recall would have been is not known"
            return
        yield f"{self.outcomes} outcomes, {self.purchases} of them purchases:"
        yield f"  as decided:         {self.quality_before.described()}"
        yield f"  by {self.version}: {self.quality_after.described()}"


def replay_model(
    past: Past, model: LoadedModel, outcomes: Outcomes, on_progress: Callable[[int], None] = lambda _: None
) -> ModelReplay:
    """Score a span of the past with another version.

    The scoring is the stream's own stage, so an event gets the score that it would have got. Memory grows by
    about 40 bytes per prediction.

    Args:
        past: The span.
        model: The other version.
        outcomes: The outcomes; possibly none.
        on_progress: Called with the number of predictions read so far.

    Raises:
        BadInputError: The log is no audit log.
        ModelFails: The version fails on most predictions.
        StartupError: The source is missing.
        Unavailable: The broker does not answer.
    """
    started_s = time.perf_counter()
    replay = ModelReplay(version=model.version, threshold=model.threshold, source=past.source)
    countries = CountryNumbers(country_code)
    parts: list[_Rescored] = []
    for batch in past.predictions():
        parts.append(_rescore(batch, model, countries, replay))
        on_progress(replay.predictions)
    replay.damaged = past.damaged
    if parts:
        _summarize(_Rescored.concatenated(parts), outcomes, replay)
    replay.took_s = time.perf_counter() - started_s
    return replay


@dataclass(frozen=True, slots=True)
class _Rescored:
    """Past predictions with the other version's probabilities; arrays have shape (m,)."""

    students: NDArray[np.uint64]
    scored_at_ms: IntArray
    before: FloatArray
    after: FloatArray
    bought_before: NDArray[np.bool_]
    bought_after: NDArray[np.bool_]
    countries: NDArray[np.int16]

    @classmethod
    def concatenated(cls, parts: list[_Rescored]) -> _Rescored:
        """Join parts in their order."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__)
        )

    def select_rows(self, rows: IntArray) -> _Rescored:
        """Return the predictions in these rows."""
        return _Rescored(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _rescore(
    batch: PastPredictions, model: LoadedModel, countries: Mapping[bytes, int], replay: ModelReplay
) -> _Rescored:
    """Score a batch, and count it."""
    scored, failed = score(batch.events, model, countries)
    kept = batch if not len(failed) else batch.select_rows(scored.events.rows)
    replay.predictions += len(kept)
    replay.failed += len(failed)
    versions = versions_of(batch.events)
    counts = np.bincount(versions.indices, minlength=len(versions.dictionary))
    for version, n in zip(versions.dictionary, counts.tolist(), strict=True):
        replay.versions[version] = replay.versions.get(version, 0) + n
    return _Rescored(
        kept.students,
        kept.scored_at_ms,
        kept.probabilities,
        scored.probabilities,
        kept.decisions,
        scored.decisions,
        scored.features[:, 0].astype(np.int16),
    )


def _summarize(all_rows: _Rescored, outcomes: Outcomes, replay: ModelReplay) -> None:
    replay.since, replay.until = int(all_rows.scored_at_ms.min()), int(all_rows.scored_at_ms.max())
    last = all_rows.select_rows(_last_rows(all_rows.students, all_rows.scored_at_ms))
    replay.all = Flips.of(last.bought_before, last.bought_after)
    replay.countries = _by_country(last)
    replay.probabilities_before, replay.probabilities_after = map(_histogram, (last.before, last.after))
    differences = np.abs(last.after - last.before)
    replay.mean_abs_difference = float(differences.mean())
    replay.max_abs_difference = float(differences.max())
    rows, own = join_outcomes(all_rows.students, all_rows.scored_at_ms, outcomes)
    replay.outcomes = len(rows)
    if len(rows):
        joined, purchased = all_rows.select_rows(rows), outcomes.purchased[own]
        replay.purchases = int(purchased.sum())
        replay.quality_before = _quality(purchased, joined.before, joined.bought_before)
        replay.quality_after = _quality(purchased, joined.after, joined.bought_after)


def _last_rows(students: NDArray[np.uint64], scored_at_ms: IntArray) -> IntArray:
    """Return the row of each student's last prediction, int64 (s,).

    >>> _last_rows(np.array([7, 8, 7], np.uint64), np.array([10, 20, 30])).tolist()
    [2, 1]
    """
    order = np.lexsort((np.arange(len(students)), scored_at_ms, students))
    is_last = np.append(students[order[1:]] != students[order[:-1]], True)
    rows: IntArray = order[is_last]
    return rows


def _by_country(last: _Rescored) -> dict[str, Flips]:
    numbers, counts = np.unique(last.countries, return_counts=True)
    shown = numbers[np.argsort(-counts, kind="stable")][:_COUNTRIES_SHOWN]
    groups: dict[str, Flips] = {}
    for number in shown.tolist():
        rows = last.countries == number
        name = "unknown" if number == UNKNOWN_COUNTRY else str(country_alpha2(number))
        groups[name] = Flips.of(last.bought_before[rows], last.bought_after[rows])
    rest = ~np.isin(last.countries, shown)
    if rest.any():
        groups["other"] = Flips.of(last.bought_before[rest], last.bought_after[rest])
    return groups


def _histogram(probabilities: FloatArray) -> list[int]:
    counts: list[int] = np.histogram(probabilities, PROBABILITY_BINS, (0.0, 1.0))[0].tolist()
    return counts


def _quality(
    purchased: NDArray[np.int8], probabilities: FloatArray, decisions: NDArray[np.bool_]
) -> RealisedQuality:
    flagged, buyers = int(decisions.sum()), int(purchased.sum())
    hits = int(purchased[decisions].sum())
    both = 0 < buyers < len(purchased)
    return RealisedQuality(
        precision=hits / flagged if flagged else None,
        precision_interval=wilson_interval(hits, flagged) if flagged else None,
        recall=hits / buyers if buyers else None,
        recall_interval=wilson_interval(hits, buyers) if buyers else None,
        # The threshold does not matter for the average precision.
        average_precision=measure(purchased, probabilities, 0.5).average_precision if both else None,
        brier_score=float(np.mean((probabilities - purchased) ** 2)),
    )
