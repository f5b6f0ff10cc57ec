"""Join outcomes to predictions, in bounded memory.

A prediction is *pending* until an outcome of its student arrives; the outcome is then *maturing* until the
prediction is old enough, and *matured* when it is counted. Pending predictions are kept in a ring of
arrays: predictions come by the thousand and must cost next to nothing, while outcomes are rare, so each
batch of outcomes searches the whole ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import DictionaryColumn, FloatArray, IntArray
from consumer.monitor.outcomes.quality import OutcomeSums, QualityVerdict, compare_quality, sums_of
from consumer.settings import OutcomeSettings

_MS_PER_DAY: Final = 86_400_000
_VERSIONS_SHOWN: Final = 4
"""Number of model versions, the latest ones, whose outcomes are exported."""

_PENDING: Final = np.dtype(
    [
        ("student", np.uint64),
        ("scored_at_ms", np.int64),
        ("probability", np.float64),
        ("decision", np.int8),
        ("version", np.int32),
        ("pending", np.bool_),
    ]
)
_N_FEATURES: Final = 7
_MATURING: Final = np.dtype(
    [*_PENDING.descr[1:5], ("purchased", np.int8), ("features", np.float64, (_N_FEATURES,))]
)


@dataclass(frozen=True, slots=True)
class MaturedOutcomes:
    """Matured outcomes of one model version whose features are known.

    Attributes:
        version: The version that predicted.
        features: Its inputs, Fortran-ordered, float64 (k, 7).
        probabilities: The predicted probabilities, float64 (k,).
        decisions: The predicted classes, 0 or 1, int64 (k,).
        purchased: Whether each student bought, 0 or 1, int64 (k,).
    """

    version: str
    features: FloatArray = field(repr=False)
    probabilities: FloatArray = field(repr=False)
    decisions: IntArray = field(repr=False)
    purchased: IntArray = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomesSnapshot:
    """Outcomes at one moment. Counts start with this process.

    Attributes:
        state: ``off`` without an outcomes topic, ``on``, or the reason why outcomes are no longer read.
        joined: Outcomes that were joined to a pending prediction of their student.
        unmatched: Outcomes of students without a pending prediction.
        undecodable: Records in the outcomes topic that cannot be decoded.
        pending: Predictions without an outcome so far.
        maturing: Joined outcomes whose prediction is still too young to be counted.
        totals: Matured outcomes by model version, for counters.
        running: Matured outcomes of the current version that have not been judged.
        verdict: The verdict on the last full set of matured outcomes of the current version.
    """

    state: str = "off"
    joined: int = 0
    unmatched: int = 0
    undecodable: int = 0
    pending: int = 0
    maturing: int = 0
    totals: Mapping[str, OutcomeSums] = field(default_factory=dict)
    running: OutcomeSums | None = None
    verdict: QualityVerdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedOutcomes:
    """The state that is saved beside the arrays.

    Attributes:
        next_offsets: The next offset to read from the outcomes topic, by partition.
        versions: Names of the model versions; the arrays hold indexes into them.
        next_row: The ring's next row to write.
        clock_ms: The latest time seen in a record, ms since the epoch.
        running: Matured outcomes that are not judged yet.
        running_version: Their model version.
        verdict: The verdict on the previous set.
    """

    next_offsets: dict[int, int] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    next_row: int = 0
    clock_ms: int = 0
    running: OutcomeSums = field(default_factory=OutcomeSums)
    running_version: str | None = None
    verdict: QualityVerdict | None = None


class OutcomeJoin:
    """Holds pending predictions, and joins outcomes to them.

    Args:
        settings: The largest number of pending predictions, and when an outcome is matured.
    """

    def __init__(self, settings: OutcomeSettings) -> None:
        self._settings = settings
        self._ring = np.zeros(settings.max_predictions, _PENDING)
        self._features: FloatArray | None = None  # (ring size, 7), once features are given; NaN if unknown
        self._maturing = np.zeros(0, _MATURING)
        self._versions: list[str] = []
        self._n_pending = 0
        self._next_row = 0
        self._clock_ms = 0
        self._joined = self._unmatched = self._undecodable = 0
        self._totals: dict[str, OutcomeSums] = {}
        self._running_version: str | None = None
        self._running = OutcomeSums()
        self._verdict: QualityVerdict | None = None

    def remember(
        self,
        students: NDArray[np.uint64],
        probabilities: FloatArray,
        decisions: IntArray,
        scored_at_ms: IntArray,
        versions: DictionaryColumn[str],
        features: FloatArray | None = None,
    ) -> None:
        """Add pending predictions; they overwrite the oldest ones.

        In a ring of 5 rows whose next row is 3, students 4, 5 and 6 take the rows 3, 4 and 0::

            before  [1, 2, 3, -, -]   next row 3
            after   [6, 2, 3, 4, 5]   next row 1

        Args:
            students: Hashes of the student ids, uint64 (m,).
            probabilities: The predicted probabilities, float64 (m,).
            decisions: The predicted classes, 0 or 1, int64 (m,).
            scored_at_ms: Milliseconds since the epoch, int64 (m,).
            versions: The model version of each prediction.
            features: The inputs, if another version may have to score these students, float64 (m, 7).
        """
        numbers = np.array([self._version_number(name) for name in versions.dictionary], np.int32)
        ring, size = self._ring, len(self._ring)
        fitting = slice(max(len(students) - size, 0), None)  # the end of a batch that is larger than the ring
        m = len(students[fitting])
        stop = self._next_row + m
        rows: Any = slice(self._next_row, stop) if stop <= size else np.arange(self._next_row, stop) % size
        ring["student"][rows] = students[fitting]
        ring["scored_at_ms"][rows] = scored_at_ms[fitting]
        ring["probability"][rows] = probabilities[fitting]
        ring["decision"][rows] = decisions[fitting]
        ring["version"][rows] = numbers[versions.indices[fitting]]
        if features is not None and self._features is None:
            self._features = np.full((size, _N_FEATURES), np.nan)
        if self._features is not None:
            self._features[rows] = np.nan if features is None else features[fitting]
        self._n_pending += m - int(np.count_nonzero(ring["pending"][rows]))
        ring["pending"][rows] = True
        self._next_row = stop % size
        self._clock_ms = max(self._clock_ms, int(scored_at_ms.max(initial=0)))

    def join(
        self, students: NDArray[np.uint64], purchased: NDArray[np.int8], observed_at_ms: IntArray
    ) -> None:
        """Join outcomes to the last prediction of their students. Each prediction gets at most one outcome.

        Args:
            students: Hashes of the student ids, uint64 (k,).
            purchased: Whether each student bought, 0 or 1, int8 (k,).
            observed_at_ms: Milliseconds since the epoch, int64 (k,).
        """
        self._clock_ms = max(self._clock_ms, int(observed_at_ms.max(initial=0)))
        distinct, first = np.unique(students, return_index=True)
        rows = self._take_last_rows(distinct)
        met = rows >= 0
        joined = np.zeros(np.count_nonzero(met), _MATURING)
        for name in ("scored_at_ms", "probability", "decision", "version"):
            joined[name] = self._ring[name][rows[met]]
        joined["purchased"] = purchased[first[met]]
        joined["features"] = np.nan if self._features is None else self._features[rows[met]]
        self._joined += len(joined)
        self._unmatched += len(students) - len(joined)
        self._maturing = np.concatenate([self._maturing, joined])

    def count_undecodable(self, records: int) -> None:
        """Count records that cannot be decoded."""
        self._undecodable += records

    def mature(self, version: str | None) -> MaturedOutcomes | None:
        """Count the outcomes whose predictions are old enough, and judge each full set.

        Args:
            version: The model version that is judged.

        Returns:
            The version's outcomes that were counted now and whose features are known, if any.
        """
        if version != self._running_version:
            self._running_version, self._running, self._verdict = version, OutcomeSums(), None
        if not len(self._maturing):
            return None
        due_ms = self._maturing["scored_at_ms"] + self._settings.maturity_days * _MS_PER_DAY
        due = due_ms <= self._clock_ms
        # This limits memory, too: the oldest outcomes are counted early rather than never.
        due[: max(len(due) - len(self._ring), 0)] = True
        matured, self._maturing = self._maturing[due], self._maturing[~due]
        judged: MaturedOutcomes | None = None
        for number in np.unique(matured["version"]).tolist():
            part = matured[matured["version"] == number]
            sums = sums_of(
                part["probability"], part["decision"].astype(np.int64), part["purchased"].astype(np.int64)
            )
            name = self._versions[number]
            self._totals[name] = self._totals.pop(name, OutcomeSums()) + sums
            if name == version:
                self._running += sums
                judged = _with_features(part, name)
        self._totals = dict(list(self._totals.items())[-_VERSIONS_SHOWN:])
        if self._running.outcomes >= self._settings.window_outcomes:
            self._verdict, self._running = compare_quality(self._running, self._settings), OutcomeSums()
        return judged

    def snapshot(self, state: str) -> OutcomesSnapshot:
        """Return the present state; ``state`` is that of the feed."""
        return OutcomesSnapshot(
            state=state,
            joined=self._joined,
            unmatched=self._unmatched,
            undecodable=self._undecodable,
            pending=self._n_pending,
            maturing=len(self._maturing),
            totals=dict(self._totals),
            running=self._running,
            verdict=self._verdict,
        )

    def saved(self, next_offsets: dict[int, int]) -> tuple[SavedOutcomes, dict[str, NDArray[Any]]]:
        """Return the state and its arrays; ``next_offsets`` are those of the feed."""
        saved = SavedOutcomes(
            next_offsets=next_offsets,
            versions=list(self._versions),
            next_row=self._next_row,
            clock_ms=self._clock_ms,
            running=self._running,
            running_version=self._running_version,
            verdict=self._verdict,
        )
        arrays: dict[str, NDArray[Any]] = {"waiting": self._ring, "immature": self._maturing}
        return saved, arrays if self._features is None else {**arrays, "features": self._features}

    def restore(self, saved: SavedOutcomes, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a saved state. If the ring is now smaller, the latest predictions are kept."""
        size, maturing = len(self._ring), arrays["immature"]
        in_order = np.roll(arrays["waiting"], -saved.next_row)[-size:]
        self._ring[: len(in_order)] = in_order
        if "features" in arrays:
            self._features = np.full((size, _N_FEATURES), np.nan)
            self._features[: len(in_order)] = np.roll(arrays["features"], -saved.next_row, axis=0)[-size:]
        if maturing.dtype != _MATURING:  # saved by a release that did not keep the features
            converted = np.zeros(len(maturing), _MATURING)
            for name in maturing.dtype.names or ():
                converted[name] = maturing[name]
            converted["features"] = np.nan
            maturing = converted
        self._n_pending = int(np.count_nonzero(self._ring["pending"]))
        self._next_row = len(in_order) % size
        self._maturing = maturing
        self._versions = list(saved.versions)
        self._clock_ms = saved.clock_ms
        self._running = saved.running
        self._running_version = saved.running_version
        self._verdict = saved.verdict

    def _version_number(self, version: str) -> int:
        if version not in self._versions:
            self._versions.append(version)
        return self._versions.index(version)

    def _take_last_rows(self, students: NDArray[np.uint64]) -> IntArray:
        """Return the row of each student's last pending prediction, int64 (k,), or -1.

        None of these students' predictions is pending afterwards.

        Args:
            students: Hashes of the student ids, sorted and distinct, uint64 (k,).
        """
        rows = np.full(len(students), -1, np.int64)
        if not len(students):
            return rows
        positions = np.minimum(np.searchsorted(students, self._ring["student"]), len(students) - 1)
        hits = np.flatnonzero((students[positions] == self._ring["student"]) & self._ring["pending"])
        # Oldest first, so that the assignment below keeps each student's last prediction.
        hits = hits[np.argsort((hits - self._next_row) % len(self._ring), kind="stable")]
        rows[positions[hits]] = hits
        self._ring["pending"][hits] = False
        self._n_pending -= len(hits)
        return rows


def _with_features(matured: NDArray[Any], version: str) -> MaturedOutcomes:
    """Return the matured outcomes whose features are known."""
    known = matured[~np.isnan(matured["features"][:, 0])]
    return MaturedOutcomes(
        version,
        np.asfortranarray(known["features"]),
        known["probability"].copy(),
        known["decision"].astype(np.int64),
        known["purchased"].astype(np.int64),
    )
