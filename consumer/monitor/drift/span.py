"""Judge drift over a span of the audit log or the predictions topic, for the drift report.

The predictions of a version are judged twice: in the windows that the monitor judged, in the order of the
source, and as one window over the whole span. Each student counts once in a window.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson

from consumer import timestamps
from consumer.errors import BadInputError
from consumer.monitor.drift.tracker import Baselines, ModelBaseline, WindowSequence
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, judge
from consumer.monitor.drift.window import SCORE, Window, WindowCounts, sample_of
from consumer.settings import DriftSettings
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES

_COUNTRY: Final = INPUT_NAMES[0]
_HASH_BYTES: Final = 8

Line = dict[str, Any]


@dataclass(slots=True)
class VersionSpan:
    """The predictions of one model version in the span.

    Attributes:
        version: The version id.
        predictions: Number of predictions.
        first_s: Time of the first prediction, seconds since the epoch.
        last_s: Time of the last prediction.
        windows: The verdicts on the closed windows, as the monitor judged them.
        verdict: The verdict on the whole span; ``None`` without a baseline.
        model: The version's baseline, or ``None``.
        problem: Why there is no baseline; empty if there is one.
    """

    version: str
    predictions: int = 0
    first_s: float = float("inf")
    last_s: float = float("-inf")
    windows: list[WindowVerdict] = field(default_factory=list)
    verdict: WindowVerdict | None = None
    model: ModelBaseline | None = field(default=None, repr=False)
    problem: str = ""

    @property
    def status(self) -> DriftStatus:
        """The status: ``drift`` if a window drifted. Without a judged window, that of the whole span."""
        judged = [window for window in self.windows if window.judged]
        if not judged:
            return self.verdict.status if self.verdict else DriftStatus.UNKNOWN
        return max((window.status for window in judged), key=lambda status: status == DriftStatus.DRIFT)

    @property
    def drifted_features(self) -> list[str]:
        """The inputs that drifted in a window. Without a judged window, those of the whole span."""
        judged = [window for window in self.windows if window.judged]
        if not judged:
            return self.verdict.drifted_features if self.verdict else []
        drifted = {name for window in judged for name in window.drifted_features}
        return [name for name in INPUT_NAMES if name in drifted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of predictions, read and judged.

    Attributes:
        since: The start, or ``None`` for the start of the source.
        until: The end (exclusive), or ``None`` for the end of the source.
        source: A description of the source.
        versions: The model versions, the one with the most predictions first.
        damaged: The number of damaged lines, which were skipped.
        first_damaged: File and number of the first damaged line.
    """

    since: datetime | None
    until: datetime | None
    source: str
    versions: Sequence[VersionSpan]
    damaged: int = 0
    first_damaged: str = ""

    @property
    def predictions(self) -> int:
        """The number of predictions."""
        return sum(version.predictions for version in self.versions)


def read_span(
    chunks: Iterable[tuple[str, int, list[bytes]]],
    source: str,
    since: datetime | None,
    until: datetime | None,
    baselines: Baselines,
    countries: Callable[[str], int],
    settings: DriftSettings,
) -> Span:
    """Read a span and judge it.

    Args:
        chunks: Lines of the audit log in batches: file name, number of the first line, lines.
        source: A description of the source.
        since: Only predictions made at or after this time (with a time zone).
        until: Only predictions made before this time.
        baselines: The training baseline of each version.
        countries: Returns a country's number for its spelling.
        settings: The tolerances.

    Raises:
        BadInputError: The source has no audit log line.
    """
    counters: dict[str, _Counter] = {}
    damaged: list[str] = []
    for by_version in _batches(chunks, since, until, damaged.append):
        for version, lines in by_version.items():
            if version not in counters:
                counters[version] = _Counter(version, baselines, countries, settings)
            counters[version].add(lines)
    found = [counter.result() for counter in counters.values()]
    found.sort(key=lambda version: -version.predictions)
    if damaged and not found:
        raise BadInputError(f"{damaged[0]}: not a line of an audit log; check audit.path")
    return Span(
        since=since,
        until=until,
        source=source,
        versions=found,
        damaged=len(damaged),
        first_damaged=next(iter(damaged), ""),
    )


class _Counter:
    """Counts the predictions of one model version."""

    def __init__(
        self, version: str, baselines: Baselines, countries: Callable[[str], int], settings: DriftSettings
    ) -> None:
        self._span = VersionSpan(version)
        self._countries = countries
        self._settings = settings
        self._window: Window | None = None
        self._windows: WindowSequence | None = None
        try:
            model = self._span.model = baselines.of(version)
        except ModelStoreError as error:
            self._span.problem = str(error)
        else:
            self._window = Window(WindowCounts.empty(1, model.baseline), sys.maxsize, float("inf"))
            self._windows = WindowSequence(model.baseline, settings)

    def add(self, lines: list[tuple[float, Line]]) -> None:
        """Add lines with their times, seconds since the epoch."""
        times_s = [time_s for time_s, _ in lines]
        self._span.predictions += len(lines)
        self._span.first_s = min(self._span.first_s, *times_s)
        self._span.last_s = max(self._span.last_s, *times_s)
        if self._window is None or self._windows is None or self._span.model is None:
            return
        records = [line for _, line in lines]
        columns = {
            name: np.array([line["features"][name] for line in records], np.float64)
            for name in INPUT_NAMES[1:]
        }
        columns[_COUNTRY] = np.array([self._countries(line["features"][_COUNTRY]) for line in records], float)
        columns[SCORE] = np.array([line["predicted_purchase_probability"] for line in records], np.float64)
        sample = sample_of(
            columns,
            np.array([line["predicted_purchase"] != 0 for line in records], np.int64),
            np.array([_student_hash(line["student_id"]) for line in records], np.uint64),
            np.array([int(time_s * 1000) for time_s in times_s], np.int64),
            self._span.model.baseline,
        )
        self._window.add(sample, 0)
        self._span.windows += self._windows.add(sample)

    def result(self) -> VersionSpan:
        """Return the span with its verdicts."""
        if self._window is not None and self._span.model is not None:
            baseline = self._span.model.baseline
            self._span.verdict = judge(self._window.counts, baseline, self._settings, closed=True)
        return self._span


def _batches(
    chunks: Iterable[tuple[str, int, list[bytes]]],
    since: datetime | None,
    until: datetime | None,
    on_damaged: Callable[[str], None],
) -> Iterator[dict[str, list[tuple[float, Line]]]]:
    """Yield the lines of the span in batches, by model version; report damaged lines."""
    start_s = since.timestamp() if since else float("-inf")
    stop_s = until.timestamp() if until else float("inf")
    for name, first, texts in chunks:
        by_version: dict[str, list[tuple[float, Line]]] = {}
        for n, text in enumerate(texts, first):
            try:
                line = orjson.loads(text)
                time_s = timestamps.seconds(line["timestamp_utc"])
                if start_s <= time_s < stop_s and _names_a_student(line):
                    by_version.setdefault(line["model_version"], []).append((time_s, line))
            except (ValueError, KeyError, TypeError):
                on_damaged(f"{name}, line {n}")
        yield by_version


def _names_a_student(line: Line) -> bool:
    """Return whether a line names a student; see :func:`consumer.monitor.drift.window.naming_a_student`."""
    return bool(line["source"]["offset"] >= 0 or line["student_id"] != line["event_id"])


def _student_hash(student_id: str) -> int:
    digest = hashlib.blake2b(student_id.encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
