"""Joins outcomes to predictions. Memory is bounded: the last so many predictions wait for an outcome.

Predictions lie in a ring of arrays, because they come by the thousand and taking them in must cost
nothing; outcomes are rare beside them, so each batch of outcomes searches the ring as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.columnar.dictionary import DictionaryColumn
from consumer.monitor.outcomes.quality import OutcomeSums, QualityVerdict, compare_quality, sums_of
from consumer.settings import OutcomeSettings

_MS_PER_DAY: Final = 86_400_000
_VERSIONS_SHOWN: Final = 4
"""Model versions whose outcomes are shown: the latest ones. Those before have no outcomes to come."""

_WAITING: Final = np.dtype(
    [
        ("student", np.uint64),
        ("scored_at_ms", np.int64),
        ("probability", np.float64),
        ("decision", np.int8),
        ("version", np.int32),
        ("waits", np.bool_),
    ]
)
_JOINED: Final = np.dtype([*_WAITING.descr[1:5], ("purchased", np.int8)])


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomesSnapshot:
    """Outcomes at one moment. Counts start with this process.

    Attributes:
        state: ``off`` without an outcomes topic, ``on``, or why outcomes are no longer read.
        joined: outcomes that met a pending prediction of their student.
        unmatched: outcomes of students without a pending prediction.
        undecodable: records in the outcomes topic that cannot be decoded.
        pending: predictions that wait for an outcome.
        maturing: joined outcomes whose prediction is still too young to be counted.
        totals: matured outcomes by model version, for counters.
        running: matured outcomes of the current version that are not judged yet.
        verdict: the verdict on the last full set of matured outcomes of the current version.
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
    """Outcomes as they are kept over a restart, beside the arrays.

    Attributes:
        next_offsets: where to read on in the outcomes topic.
        versions: names of the model versions that the arrays number.
        next_row: where the ring goes on.
        clock_ms: the latest time that was told.
        running: matured outcomes that are not yet judged.
        running_version: the model version they are of.
        verdict: on those before.
    """

    next_offsets: dict[int, int] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    next_row: int = 0
    clock_ms: int = 0
    running: OutcomeSums = field(default_factory=OutcomeSums)
    running_version: str | None = None
    verdict: QualityVerdict | None = None


class OutcomeJoin:
    """Predictions that wait for an outcome, and what came of those that met theirs.

    Args:
        settings: how many wait, and when an outcome counts.
    """

    def __init__(self, settings: OutcomeSettings) -> None:
        self._settings = settings
        self._waiting = np.zeros(settings.max_predictions, _WAITING)
        self._immature = np.zeros(0, _JOINED)
        self._versions: list[str] = []
        self._awaiting = 0
        self._next_row = 0
        self._clock_ms = 0
        self._joined = self._unmatched = self.undecodable = 0
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
    ) -> None:
        """Let predictions wait for an outcome; the oldest make room.

        Args:
            students: uint64 (m,).
            probabilities: float64 (m,).
            decisions: int64 (m,), 0 or 1.
            scored_at_ms: int64 (m,).
            versions: the model version of each.
        """
        numbers = np.array([self._number(name) for name in versions.dictionary], np.int32)
        size = len(self._waiting)
        last = slice(max(len(students) - size, 0), None)
        m = len(students[last])
        rows = (self._next_row + np.arange(m)) % size if self._next_row + m > size else None
        where: Any = slice(self._next_row, self._next_row + m) if rows is None else rows
        ring = self._waiting
        ring["student"][where] = students[last]
        ring["scored_at_ms"][where] = scored_at_ms[last]
        ring["probability"][where] = probabilities[last]
        ring["decision"][where] = decisions[last]
        ring["version"][where] = numbers[versions.indices[last]]
        self._awaiting += m - int(np.count_nonzero(ring["waits"][where]))
        ring["waits"][where] = True
        self._next_row = (self._next_row + m) % size
        self._clock_ms = max(self._clock_ms, int(scored_at_ms.max(initial=0)))

    def join(
        self, students: NDArray[np.uint64], purchased: NDArray[np.int8], observed_at_ms: IntArray
    ) -> None:
        """Give outcomes to the last prediction of their students. A prediction takes one outcome.

        Args:
            students: uint64 (k,).
            purchased: int8 (k,), 0 or 1.
            observed_at_ms: int64 (k,).
        """
        self._clock_ms = max(self._clock_ms, int(observed_at_ms.max(initial=0)))
        distinct, first = np.unique(students, return_index=True)
        rows = self._rows_of(distinct)
        met = rows >= 0
        last_rows = rows[met]
        joined = np.zeros(len(last_rows), _JOINED)
        for name in ("scored_at_ms", "probability", "decision", "version"):
            joined[name] = self._waiting[name][last_rows]
        joined["purchased"] = purchased[first[met]]
        self._joined += len(joined)
        self._unmatched += len(students) - len(joined)
        self._immature = np.concatenate([self._immature, joined])

    def mature(self, version: str | None) -> None:
        """Count the outcomes whose predictions are old enough by now.

        Args:
            version: the model version that is judged.
        """
        if version != self._running_version:
            self._running_version, self._running, self._verdict = version, OutcomeSums(), None
        if not len(self._immature):
            return
        due_ms = self._immature["scored_at_ms"] + self._settings.maturity_days * _MS_PER_DAY
        ripe = due_ms <= self._clock_ms
        # Memory is bounded here, too: the oldest count early rather than never.
        ripe[: max(len(ripe) - len(self._waiting), 0)] = True
        matured, self._immature = self._immature[ripe], self._immature[~ripe]
        for number in np.unique(matured["version"]).tolist():
            part = matured[matured["version"] == number]
            sums = sums_of(
                part["probability"], part["decision"].astype(np.int64), part["purchased"].astype(np.int64)
            )
            name = self._versions[number]
            self._totals[name] = self._totals.pop(name, OutcomeSums()) + sums
            if name == version:
                self._running += sums
        self._totals = dict(list(self._totals.items())[-_VERSIONS_SHOWN:])
        if self._running.outcomes >= self._settings.window_outcomes:
            self._verdict, self._running = compare_quality(self._running, self._settings), OutcomeSums()

    def snapshot(self, state: str) -> OutcomesSnapshot:
        """Return what is known now; ``state`` is the feed's."""
        return OutcomesSnapshot(
            state=state,
            joined=self._joined,
            unmatched=self._unmatched,
            undecodable=self.undecodable,
            pending=self._awaiting,
            maturing=len(self._immature),
            totals=dict(self._totals),
            running=self._running,
            verdict=self._verdict,
        )

    def saved(self, next_offsets: dict[int, int]) -> tuple[SavedOutcomes, dict[str, NDArray[Any]]]:
        """Return the state and its arrays; ``next_offsets`` is where the feed stands."""
        saved = SavedOutcomes(
            next_offsets=next_offsets,
            versions=list(self._versions),
            next_row=self._next_row,
            clock_ms=self._clock_ms,
            running=self._running,
            running_version=self._running_version,
            verdict=self._verdict,
        )
        return saved, {"waiting": self._waiting, "immature": self._immature}

    def restore(self, saved: SavedOutcomes, waiting: NDArray[Any], immature: NDArray[Any]) -> None:
        """Go on from a saved state. If another number of predictions may wait now, the latest do."""
        size = len(self._waiting)
        in_order = np.roll(waiting, -saved.next_row)[-size:]
        self._waiting[: len(in_order)] = in_order
        self._awaiting = int(np.count_nonzero(self._waiting["waits"]))
        self._next_row = len(in_order) % size
        self._immature = immature
        self._versions = list(saved.versions)
        self._clock_ms = saved.clock_ms
        self._running = saved.running
        self._running_version = saved.running_version
        self._verdict = saved.verdict

    def _number(self, version: str) -> int:
        if version not in self._versions:
            self._versions.append(version)
        return self._versions.index(version)

    def _rows_of(self, students: NDArray[np.uint64]) -> IntArray:
        """Return the row of each student's last prediction, int64 (k,), -1 for none; they wait no more.

        Args:
            students: uint64 (k,), sorted and distinct.
        """
        rows = np.full(len(students), -1, np.int64)
        if not len(students):
            return rows
        at = np.minimum(np.searchsorted(students, self._waiting["student"]), len(students) - 1)
        hits = np.flatnonzero((students[at] == self._waiting["student"]) & self._waiting["waits"])
        # In the order of the stream, so that the last prediction is the one that stays.
        hits = hits[np.argsort((hits - self._next_row) % len(self._waiting), kind="stable")]
        rows[at[hits]] = hits
        self._waiting["waits"][hits] = False
        self._awaiting -= len(hits)
        return rows
