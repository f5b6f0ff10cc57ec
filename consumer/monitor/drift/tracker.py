"""Follows drift over all committed predictions, against what their model version saw in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.columnar.dictionary import DictionaryColumn
from consumer.monitor.drift.baselines import Baselines, ModelBaseline
from consumer.monitor.drift.sample import Countries, columns_of, decisions_of
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, judge
from consumer.monitor.drift.window import (
    SERIES,
    Sample,
    Window,
    WindowCounts,
    bin_labels,
    flat_counts,
    sample_of,
)
from consumer.pipeline.batch import RecordBatch
from consumer.settings import DriftSettings
from model_store.errors import ModelStoreError

log = structlog.get_logger(__name__)

WINDOWS_KEPT: Final = 20
"""Verdicts that are kept for the page, and for retraining to be confirmed by several."""

_MS_PER_H: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSnapshot:
    """Drift at one moment.

    Attributes:
        model_version: the version whose predictions are compared: the champion once it has predicted,
            else the version that predicted last; ``None`` before the first prediction without a
            champion.
        baseline: the training data of that version, or ``None``.
        problem: why there is no baseline, in one line; empty if there is one.
        predictions: predictions of that version read so far.
        samples: students counted, once per window, including the running window.
        observations: students per bin since this process started, for counters.
        running: the window being filled.
        recent: the latest closed windows, oldest first.
        windows: windows closed since this process started, by status.
    """

    model_version: str | None = None
    baseline: ModelBaseline | None = None
    problem: str = ""
    predictions: int = 0
    samples: int = 0
    observations: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    running: WindowCounts | None = None
    recent: tuple[WindowVerdict, ...] = ()
    windows: Mapping[DriftStatus, int] = field(default_factory=dict)

    @property
    def latest(self) -> WindowVerdict | None:
        """The last closed window, or ``None``."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDrift:
    """Drift as it is kept over a restart.

    Attributes:
        model_version: see :class:`DriftSnapshot`, like the next two.
        predictions: of that version.
        samples: students counted.
        window: the window that was being filled; ``None`` where there was no baseline.
        recent: closed windows.
    """

    model_version: str | None = None
    predictions: int = 0
    samples: int = 0
    window: WindowCounts | None = None
    recent: list[WindowVerdict] = field(default_factory=list)


def governing_version(present: Sequence[str], current: str | None, champion: str | None) -> str | None:
    """Return the version whose predictions are looked at.

    The champion, as soon as it has made a prediction; what else there is then are stragglers of the
    one before, or a challenger. Where no champion can be told, whoever predicted last.

    Args:
        present: the versions of a batch, in the order of their last prediction.
        current: the one until now.
        champion: what the alias names, or ``None``.
    """
    if champion in present or not present:
        return champion if champion in present else current
    if current is not None and current == champion:
        return current
    return present[-1]


class Drift:
    """Windows of drift, one after the other.

    Args:
        baselines: what each version saw in training.
        countries: from the spelling of a country to its number.
        settings: sizes, and what is tolerated.
    """

    def __init__(
        self, baselines: Baselines, countries: Callable[[str], int], settings: DriftSettings
    ) -> None:
        self._baselines = baselines
        self._countries = Countries(countries)
        self._settings = settings
        self._champion: str | None = None
        self._version: str | None = None
        self._model: ModelBaseline | None = None
        self._window: Window | None = None
        self._recent: list[WindowVerdict] = []
        self._observations: dict[str, NDArray[np.int64]] = {}
        self._counted = np.zeros(0, np.int64)
        self._switch_to(None)

    def look_at_champion(self) -> None:
        """See what the alias names; while nothing was predicted, that version is shown.

        Also tries again to read a baseline that could not be read.
        """
        self._champion = self._baselines.champion_version()
        if self._predictions == 0 and self._champion not in {None, self._version}:
            self._switch_to(self._champion)
        elif self._model is None:
            self._switch_to(self._version, self._predictions)

    def add(
        self,
        predictions: RecordBatch,
        students: NDArray[np.uint64],
        versions: DictionaryColumn[str],
        *,
        counted: bool = True,
    ) -> None:
        """Take in a batch.

        Args:
            predictions: the predictions.
            students: uint64 (m,), a hash of each one's student.
            versions: the model version of each.
            counted: whether the counters shall move; not for what they counted before a restart.
        """
        if not len(predictions):
            return
        present = versions.dictionary
        if list(present) != [self._version]:
            self._champion = self._baselines.champion_version()
            version = governing_version(present, self._version, self._champion)
            if version != self._version:
                self._switch_to(version)
            if self._version not in present:
                return
            rows = np.flatnonzero(versions.indices == present.index(self._version))
            if len(rows) < len(predictions):
                predictions, students = predictions.select_rows(rows), students[rows]
        self._predictions += len(predictions)
        if self._window is not None and self._model is not None:
            sample = sample_of(
                columns_of(predictions, self._countries),
                decisions_of(predictions),
                students,
                predictions.numbers["scored_at"],
                self._model.baseline,
            )
            self._fill(self._window, sample, counted=counted)

    def snapshot(self) -> DriftSnapshot:
        """Return what is known now."""
        return DriftSnapshot(
            model_version=self._version,
            baseline=self._model,
            problem=self._problem,
            predictions=self._predictions,
            samples=self._samples,
            observations={name: counts.copy() for name, counts in self._observations.items()},
            running=self._window.counts.copy() if self._window is not None else None,
            recent=tuple(self._recent),
            windows=dict(self._windows),
        )

    def saved(self) -> tuple[SavedDrift, NDArray[np.uint64]]:
        """Return the state, and uint64 (s,) the students in the window being filled."""
        saved = SavedDrift(
            model_version=self._version,
            predictions=self._predictions,
            samples=self._samples,
            window=self._window.counts.copy() if self._window is not None else None,
            recent=list(self._recent),
        )
        return saved, np.empty(0, np.uint64) if self._window is None else self._window.seen

    def restore(self, saved: SavedDrift, seen: NDArray[np.uint64]) -> None:
        """Go on from a saved state, as far as its baseline is still there."""
        self._switch_to(saved.model_version, saved.predictions)
        if self._model is None or saved.window is None:
            return
        labels = bin_labels(self._model.baseline)
        if {name: len(counts) for name, counts in saved.window.bins.items()} != {
            name: len(labels[name]) for name in SERIES
        }:
            return
        self._samples = saved.samples
        self._recent = list(saved.recent)
        self._window = self._open(saved.window, seen)

    def _switch_to(self, version: str | None, predictions: int = 0) -> None:
        """Begin anew with another version, or with the same one."""
        if version != self._version:
            log.info("drift is compared with another model", version=version)
        self._version = version
        self._predictions = predictions
        self._samples = 0
        self._recent = []
        self._windows = dict.fromkeys(DriftStatus, 0)
        self._model = self._window = None
        self._observations = {}
        self._problem = "no model version has been seen yet"
        if version is None:
            return
        try:
            self._model = self._baselines.of(version)
        except ModelStoreError as error:
            self._problem = str(error)
            return
        self._problem = ""
        self._window = self._open(WindowCounts.empty(1, self._model.baseline))
        self._observations = {name: np.zeros_like(c) for name, c in self._window.counts.bins.items()}
        self._counted = flat_counts(self._observations)

    def _open(self, counts: WindowCounts, seen: NDArray[np.uint64] | None = None) -> Window:
        settings = self._settings
        return Window(counts, settings.window_students, settings.window_max_age_h * _MS_PER_H, seen)

    def _fill(self, window: Window, sample: Sample, *, counted: bool) -> None:
        begin = 0
        while begin < len(sample):
            students, bins = window.counts.students, window.flat_counts.copy()
            begin = window.add(sample, begin)
            self._samples += window.counts.students - students
            if counted:
                self._counted += window.flat_counts - bins
            if window.is_full:
                window = self._close(window)

    def _close(self, window: Window) -> Window:
        """Judge a window and open the next."""
        assert self._model is not None  # noqa: S101 - there is no window without a baseline
        verdict = judge(window.counts, self._model.baseline, self._settings, closed=True)
        self._recent = [*self._recent, verdict][-WINDOWS_KEPT:]
        drifted = verdict.drifted_features or verdict.predictions_shifted
        status = (
            DriftStatus.UNKNOWN if not verdict.judged else DriftStatus.DRIFT if drifted else DriftStatus.OK
        )
        self._windows[status] += 1
        if drifted:
            log.warning(
                "drift",
                features=verdict.drifted_features,
                score=verdict.score.status,
                prediction_rate=verdict.rate.status,
                window=verdict.number,
            )
        self._window = self._open(WindowCounts.empty(verdict.number + 1, self._model.baseline))
        return self._window
