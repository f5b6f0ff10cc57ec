"""What the monitor knows at one moment: made whole by the loop, read by HTTP threads, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumer.monitor.drift.baselines import ModelBaseline
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict
from consumer.monitor.drift.window import WindowCounts
from consumer.monitor.outcomes.quality import OutcomeSums, QualityVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSnapshot:
    """Drift at one moment.

    Attributes:
        model_version: whose predictions are looked at: the latest that was seen, or the champion's
            while none was; ``None`` if there is neither.
        baseline: what that version saw in training, or ``None``.
        problem: why there is no baseline, in one line; empty if there is one.
        predictions: predictions of that version that were read.
        samples: students counted, each once per window, the running window included.
        observations: students in each bin since this process began, for counters.
        running: the window that is being filled.
        recent: closed windows, oldest first; a few.
        windows: how many windows were closed since this process began, by verdict.
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
        """The last window that was closed, or ``None``."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomesSnapshot:
    """Outcomes at one moment.

    Attributes:
        state: ``off`` without a topic, ``on``, or why no outcome is read any more.
        joined: outcomes that met their student's last prediction, since this process began.
        unmatched: outcomes of students of whom no prediction is waiting, likewise.
        undecodable: records that are no outcomes, likewise.
        awaiting: predictions that wait for an outcome.
        immature: outcomes that wait for their prediction to be old enough.
        totals: matured outcomes since this process began, by model version, for counters.
        running: matured outcomes of the current version that are not yet judged.
        verdict: on the last full set of matured outcomes of the current version.
    """

    state: str = "off"
    joined: int = 0
    unmatched: int = 0
    undecodable: int = 0
    awaiting: int = 0
    immature: int = 0
    totals: Mapping[str, OutcomeSums] = field(default_factory=dict)
    running: OutcomeSums | None = None
    verdict: QualityVerdict | None = None
