"""Track drift: compare all committed predictions with the training data of their model version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from consumer.columnar.arrays import DictionaryColumn
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, judge
from consumer.monitor.drift.window import (
    SERIES,
    Countries,
    Sample,
    Window,
    WindowCounts,
    bin_labels,
    columns_of,
    decisions_of,
    flatten_counts,
    sample_of,
)
from consumer.pipeline.batch import RecordBatch
from consumer.settings import DriftSettings
from model_store.baseline import Baseline
from model_store.errors import ModelStoreError
from model_store.files import read_regular
from model_store.manifest import BASELINE_FILE, Manifest, digest

if TYPE_CHECKING:
    from model_store.store import ModelStore


CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class ModelBaseline:
    """A model version, without its model.

    Attributes:
        version: The version id.
        manifest: When and on what data it was trained, and its quality.
        baseline: The bins of its training data.
    """

    version: str
    manifest: Manifest = field(repr=False)
    baseline: Baseline = field(repr=False)


class Baselines:
    """Reads baselines from a model store and verifies them against the manifest."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def champion_version(self) -> str | None:
        """Return the version that the champion alias names, or ``None`` if there is none."""
        try:
            return self._store.resolve(CHAMPION).version
        except ModelStoreError:
            return None

    def of(self, version: str) -> ModelBaseline:
        """Return the baseline of a version.

        Raises:
            ModelStoreError: There is no such version, or its baseline does not match the manifest.
        """
        manifest = self._store.manifest(version)
        expected = manifest.files[BASELINE_FILE]
        path = self._store.folder / "versions" / version / BASELINE_FILE
        try:
            content = read_regular(path, expected.size)
        except OSError as error:
            raise ModelStoreError(f"{path} cannot be read: {error.strerror or error}") from error
        if digest(content) != expected.sha256:
            raise ModelStoreError(f"{path} does not match the manifest; train again")
        try:
            return ModelBaseline(version, manifest, Baseline.model_validate_json(content))
        except ValidationError as error:
            raise ModelStoreError(f"{path} is not a baseline; train again") from error


log = structlog.get_logger(__name__)

WINDOWS_KEPT: Final = 20
"""Number of closed windows to keep, for the dashboard and to confirm a recommendation."""

_MS_PER_H: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSnapshot:
    """Drift at one moment.

    Attributes:
        champion: The version that the champion alias names, or ``None`` if there is none.
        model_version: The version whose predictions are compared: the champion once it has predicted,
            else the version that predicted last; ``None`` before the first prediction without a
            champion.
        baseline: The training data of that version, or ``None``.
        problem: Why there is no baseline, in one line; empty if there is one.
        predictions: Predictions of that version read so far.
        samples: Number of students, counted once per window, including the running window.
        observations: Students per bin since this process started, for counters.
        running: The window that is being filled.
        recent: The latest closed windows, oldest first.
        windows: Windows closed since this process started, by status.
    """

    champion: str | None = None
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
    """The state of drift that survives a restart.

    Attributes:
        model_version: The version whose predictions are compared.
        predictions: Predictions of that version.
        samples: Number of students, counted once per window.
        window: The window that is being filled; ``None`` without a baseline.
        recent: Closed windows, oldest first.
    """

    model_version: str | None = None
    predictions: int = 0
    samples: int = 0
    window: WindowCounts | None = None
    recent: list[WindowVerdict] = field(default_factory=list)


def governing_version(present: Sequence[str], current: str | None, champion: str | None) -> str | None:
    """Return the version whose predictions are compared with its training.

    This is the champion as soon as it has predicted. Later predictions of other versions are late predictions
    of its predecessor. Without a champion, it is the version that predicted last.

    Args:
        present: The versions in a batch, ordered by their last prediction.
        current: The version compared so far.
        champion: The version that the champion alias names, or ``None``.
    """
    if champion in present or not present:
        return champion if champion in present else current
    if current is not None and current == champion:
        return current
    return present[-1]


class WindowSequence:
    """Fills one window after another, and judges each when it closes.

    Args:
        baseline: The training baseline of the model version.
        settings: Window sizes and tolerances.
        counts: The window to continue; an empty first window by default.
        seen: The students counted in that window, sorted, uint64 (s,).

    Attributes:
        students: Students counted by this object, once per window.
        flat_counts: These students in the bins of all series, int64 (B,).
    """

    def __init__(
        self,
        baseline: Baseline,
        settings: DriftSettings,
        counts: WindowCounts | None = None,
        seen: NDArray[np.uint64] | None = None,
    ) -> None:
        self._baseline = baseline
        self._settings = settings
        self._window = self._open(counts or WindowCounts.empty(1, baseline), seen)
        self.students = 0
        self.flat_counts = np.zeros_like(self._window.flat_counts)

    @property
    def running(self) -> WindowCounts:
        """A copy of the window that is being filled."""
        return self._window.counts.copy()

    @property
    def seen(self) -> NDArray[np.uint64]:
        """The students counted in the window that is being filled, sorted, uint64 (s,)."""
        return self._window.seen

    def add(self, sample: Sample) -> list[WindowVerdict]:
        """Count a sample, and return the verdicts on the windows that it closed."""
        closed, start = [], 0
        while start < len(sample):
            window = self._window
            students, bins = window.counts.students, window.flat_counts.copy()
            start = window.add(sample, start)
            self.students += window.counts.students - students
            self.flat_counts += window.flat_counts - bins
            if window.is_full:
                closed.append(judge(window.counts, self._baseline, self._settings, closed=True))
                self._window = self._open(WindowCounts.empty(window.counts.number + 1, self._baseline))
        return closed

    def _open(self, counts: WindowCounts, seen: NDArray[np.uint64] | None = None) -> Window:
        settings = self._settings
        return Window(counts, settings.window_students, settings.window_max_age_h * _MS_PER_H, seen)


class Drift:
    """Fills and judges one drift window after another.

    Args:
        baselines: The training baseline of each version.
        countries: Returns a country's number for its spelling.
        settings: Window sizes and tolerances.
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
        self._windows: WindowSequence | None = None
        self._recent: list[WindowVerdict] = []
        self._observations: dict[str, NDArray[np.int64]] = {}
        self._counted = np.zeros(0, np.int64)
        self._switch_to(None)

    def refresh_champion(self) -> None:
        """Read the champion alias. Before the first prediction, the champion's version is shown.

        Also tries again to read a missing baseline.
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
        """Add a batch.

        Args:
            predictions: The predictions.
            students: Hashes of the student ids, uint64 (m,).
            versions: The model version of each prediction.
            counted: Whether to add them to the counters; false for those counted before a restart.
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
        if self._windows is not None and self._model is not None:
            sample = sample_of(
                columns_of(predictions, self._countries),
                decisions_of(predictions),
                students,
                predictions.numbers["scored_at"],
                self._model.baseline,
            )
            self._observe(self._windows, sample, counted=counted)

    def snapshot(self) -> DriftSnapshot:
        """Return the present state."""
        return DriftSnapshot(
            champion=self._champion,
            model_version=self._version,
            baseline=self._model,
            problem=self._problem,
            predictions=self._predictions,
            samples=self._samples,
            observations={name: counts.copy() for name, counts in self._observations.items()},
            running=self._windows.running if self._windows is not None else None,
            recent=tuple(self._recent),
            windows=dict(self._closed),
        )

    def saved(self) -> tuple[SavedDrift, NDArray[np.uint64]]:
        """Return the state, and the students in the window that is being filled, uint64 (s,)."""
        saved = SavedDrift(
            model_version=self._version,
            predictions=self._predictions,
            samples=self._samples,
            window=self._windows.running if self._windows is not None else None,
            recent=list(self._recent),
        )
        return saved, np.empty(0, np.uint64) if self._windows is None else self._windows.seen

    def restore(self, saved: SavedDrift, seen: NDArray[np.uint64]) -> None:
        """Continue from a saved state, if its baseline still exists."""
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
        self._windows = WindowSequence(self._model.baseline, self._settings, saved.window, seen)

    def _switch_to(self, version: str | None, predictions: int = 0) -> None:
        """Start over with another version, or with the same version."""
        if self._version is not None and version != self._version:
            log.info("drift is now compared with another model", version=version, before=self._version)
        self._version = version
        self._predictions = predictions
        self._samples = 0
        self._recent = []
        self._closed = dict.fromkeys(DriftStatus, 0)
        self._model = self._windows = None
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
        self._windows = WindowSequence(self._model.baseline, self._settings)
        self._observations = {name: np.zeros_like(c) for name, c in self._windows.running.bins.items()}
        self._counted = flatten_counts(self._observations)

    def _observe(self, windows: WindowSequence, sample: Sample, *, counted: bool) -> None:
        students, counts = windows.students, windows.flat_counts.copy()
        for verdict in windows.add(sample):
            self._recent = [*self._recent, verdict][-WINDOWS_KEPT:]
            self._closed[verdict.status] += 1
            if verdict.status == DriftStatus.DRIFT:
                log.warning(
                    "drift",
                    features=verdict.drifted_features,
                    score=verdict.score.status,
                    prediction_rate=verdict.rate.status,
                    window=verdict.number,
                )
        self._samples += windows.students - students
        if counted:
            self._counted += windows.flat_counts - counts
