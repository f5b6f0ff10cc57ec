"""Drift has no false alarm in 500 windows, and names every real shift within 2,000 students."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from consumer.monitor.drift.statistics import psi, smoothed_ratios
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict, judge
from consumer.monitor.drift.window import SERIES, Sample, Window, WindowCounts, sample_of
from consumer.settings import DriftSettings
from model_store.baseline import Baseline
from model_store.estimator import probability_model
from model_store.inputs import INPUT_NAMES

FOR_EVER_MS = 1e18
Inputs = np.ndarray


class Traffic:
    """Draws new students at random and fills drift windows with them."""

    def __init__(self, trained: Any, settings: DriftSettings, seed: int) -> None:
        self._trained = trained
        self._settings = settings
        self._random = np.random.default_rng(seed)
        self._students = 0
        self._score = probability_model(trained.model.estimator).predict_probability
        self.baseline: Baseline = trained.model.baseline

    def sample(
        self,
        n: int,
        change: Callable[[Inputs, np.random.Generator], None] | None = None,
        *,
        extra_positive_ratio: float = 0.0,
        events_each: int = 1,
    ) -> Sample:
        """Return the predictions of n new students, interleaved in time."""
        inputs = np.asfortranarray(self._trained.students[self._random.integers(0, 20_000, n)])
        if change is not None:
            change(inputs, self._random)
        probabilities = self._score(inputs)
        decisions = (probabilities >= self._trained.model.threshold.value).astype(np.int64)
        share = extra_positive_ratio / (1 - self.baseline.predicted_positive_ratio)
        decisions |= self._random.random(n) < share
        columns = {name: inputs[:, j] for j, name in enumerate(INPUT_NAMES)} | {"score": probabilities}
        ids = np.arange(self._students, self._students + n, dtype=np.uint64)
        self._students += n
        rows = np.repeat(np.arange(n), events_each)
        rows = rows[np.argsort(rows + self._random.uniform(0, 30, len(rows)))]
        return sample_of(
            {name: column[rows] for name, column in columns.items()},
            decisions[rows],
            ids[rows],
            np.zeros(len(rows), np.int64),
            self.baseline,
        )

    def unaligned_view(self, n: int, **kinds: Any) -> list[WindowVerdict]:
        """Return the verdicts on n windows."""
        verdicts: list[WindowVerdict] = []
        window = self.window()
        while len(verdicts) < n:
            sample, begin = self.sample(2000, **kinds), 0
            while begin < len(sample):
                begin = window.add(sample, begin)
                if window.is_full:
                    verdicts.append(judge(window.counts, self.baseline, self._settings, closed=True))
                    window = self.window()
        return verdicts[:n]

    def window(self) -> Window:
        """Return an empty window."""
        counts = WindowCounts.empty(1, self.baseline)
        return Window(counts, self._settings.window_students, FOR_EVER_MS)


def named(window: WindowVerdict) -> bool:
    """Return whether any series has drifted."""
    return bool(window.drifted_features) or window.predictions_shifted


@pytest.mark.parametrize("window_students", [500, 1000])
@pytest.mark.parametrize("events_each", [1, 3])
def test_stable_traffic_raises_no_alarm(trained: Any, window_students: int, events_each: int) -> None:
    """In 500 windows of students like those in training nothing drifts, with one or several events each."""
    settings = DriftSettings(window_students=window_students)
    windows = Traffic(trained, settings, seed=3).unaligned_view(500, events_each=events_each)
    assert [window for window in windows if named(window)] == []
    assert {window.students for window in windows} == {window_students}


@pytest.mark.parametrize("name", INPUT_NAMES[1:])
@pytest.mark.parametrize("stable_first", [0, 300, 999])
def test_a_shifted_feature_is_named_alone(trained: Any, name: str, stable_first: int) -> None:
    """A shift of one input by 0.4 sd is named within 2,000 students, wherever in a window it starts."""
    traffic = Traffic(trained, DriftSettings(), seed=4)
    bins = traffic.baseline.features[name]

    def shift(inputs: Inputs, _: np.random.Generator) -> None:
        inputs[:, INPUT_NAMES.index(name)] += 0.4 * bins.sd  # type: ignore[union-attr]  # a number

    windows = _after(traffic, stable_first, change=shift)
    assert {tuple(window.drifted_features) for window in windows} <= {(), (name,)}
    assert windows[-1].drifted_features == [name]
    assert windows[-1].features[name].mean_shift_sd == pytest.approx(0.4, abs=0.2)


def test_a_changed_country_mix_is_named_alone(trained: Any) -> None:
    """If a quarter of the students move to one country, only the country is named, within 2,000 students."""
    commonest = np.bincount(trained.students[:, 0].astype(np.int64)).argmax()

    def move(inputs: Inputs, random: np.random.Generator) -> None:
        inputs[random.random(len(inputs)) < 0.25, 0] = commonest

    windows = _after(Traffic(trained, DriftSettings(), seed=5), 300, change=move)
    assert windows[-1].drifted_features == ["student_country"]


def test_a_prediction_rate_off_by_ten_points_is_named_alone(trained: Any) -> None:
    """More predicted purchases at the same scores are named, and no input or score is."""
    windows = _after(Traffic(trained, DriftSettings(), seed=6), 300, extra_positive_ratio=0.1)
    assert windows[-1].rate.status == DriftStatus.DRIFT
    assert windows[-1].drifted_features == []
    assert windows[-1].score.status == DriftStatus.OK


def _after(traffic: Traffic, stable_first: int, **kinds: Any) -> list[WindowVerdict]:
    """Return the windows closed by stable students and 2,000 changed ones after them."""
    verdicts, window = [], traffic.window()
    for sample in (traffic.sample(max(stable_first, 1)), traffic.sample(2000, **kinds)):
        begin = 0
        while begin < len(sample):
            begin = window.add(sample, begin)
            if window.is_full:
                verdicts.append(judge(window.counts, traffic.baseline, traffic._settings, closed=True))
                window = traffic.window()
    return verdicts


def test_counters_of_two_monitors_add_up(trained: Any) -> None:
    """The index of the added counts of two monitors equals the index of all, to the last digit."""
    traffic = Traffic(trained, DriftSettings(window_students=100_000), seed=7)
    parts = [traffic.window() for _ in range(2)]
    whole = traffic.window()
    for part in parts:
        sample = traffic.sample(1500)
        part.add(sample, 0)
        whole.add(sample, 0)
    for name in SERIES[:-1]:
        added = parts[0].counts.bins[name] + parts[1].counts.bins[name]
        bins = traffic.baseline.score if name == "score" else traffic.baseline.features[name]
        assert psi(smoothed_ratios(added), bins.ratios) == psi(
            smoothed_ratios(whole.counts.bins[name]), bins.ratios
        )


@pytest.mark.parametrize("chunk", [1, 7, 450, 5000])
def test_windows_do_not_depend_on_batches(trained: Any, chunk: int) -> None:
    """A window holds the same students for any division into batches."""
    traffic = Traffic(trained, DriftSettings(window_students=300, minimum_students=100), seed=8)
    sample = traffic.sample(250, events_each=3)
    first = traffic.window()
    first.add(sample, 0)
    window = traffic.window()
    for begin in range(0, len(sample), chunk):
        rows = slice(begin, begin + chunk)
        piece = Sample(
            sample.students[rows], sample.bins[:, rows], sample.values[:, rows], sample.scored_at_ms[rows]
        )
        window.add(piece, 0)
    assert window.counts.students == first.counts.students == 250
    assert window.counts.predictions == 750
    for name in SERIES:
        assert np.array_equal(window.counts.bins[name], first.counts.bins[name])


def test_a_window_that_is_too_old_is_closed_before_the_next_prediction(trained: Any) -> None:
    """A prediction after the end of a window's time opens the next window."""
    traffic = Traffic(trained, DriftSettings(), seed=9)
    sample = traffic.sample(10)
    sample.scored_at_ms[:] = [0] * 6 + [1000] * 4
    window = Window(WindowCounts.empty(1, traffic.baseline), 1000, 1000)
    assert window.add(sample, 0) == 6
    assert window.is_full
    assert window.counts.students == 6
    verdict = judge(window.counts, traffic.baseline, DriftSettings(), closed=True)
    assert not verdict.judged
    assert {series.status for series in verdict.features.values()} == {DriftStatus.UNKNOWN}


def test_a_running_window_has_figures_but_no_verdict(trained: Any) -> None:
    """A running window has its index and threshold, but every status is unknown."""
    traffic = Traffic(trained, DriftSettings(), seed=10)
    window = traffic.window()
    window.add(traffic.sample(800), 0)
    verdict = judge(window.counts, traffic.baseline, DriftSettings(), closed=False)
    assert not verdict.judged
    assert all(s.psi is not None and s.threshold is not None for s in verdict.features.values())


MINUTES = INPUT_NAMES.index("minutes_watched")


def _found_by(trained: Any, change: Callable[[Inputs, np.random.Generator], None]) -> list[list[str]]:
    """Return the checks that found each of ten changed windows, for the minutes watched."""
    traffic = Traffic(trained, DriftSettings(), seed=11)
    windows = traffic.unaligned_view(10, change=change)
    for window in windows:
        assert set(window.drifted_features) <= {"minutes_watched"}
    return [window.features["minutes_watched"].found_by for window in windows]


def test_zeros_of_a_tenth_are_found_by_their_share(trained: Any) -> None:
    """The histogram alone misses most of these windows."""

    def zero(inputs: Inputs, random: np.random.Generator) -> None:
        inputs[random.random(len(inputs)) < 0.1, MINUTES] = 0.0

    assert all("zeros" in checks for checks in _found_by(trained, zero))


def test_a_few_huge_values_are_found_in_the_tail(trained: Any) -> None:
    """A twentieth of the students a thousand times as high moves no bin's share by much."""

    def enlarge(inputs: Inputs, random: np.random.Generator) -> None:
        inputs[random.random(len(inputs)) < 0.05, MINUTES] *= 1000.0

    assert all("tail" in checks for checks in _found_by(trained, enlarge))


def test_inputs_that_no_longer_go_together_are_found_by_their_correlation(trained: Any) -> None:
    """Every input is distributed as before; only the students are mixed up."""

    def mix(inputs: Inputs, random: np.random.Generator) -> None:
        inputs[:, MINUTES] = random.permutation(inputs[:, MINUTES])

    traffic = Traffic(trained, DriftSettings(), seed=12)
    for window in traffic.unaligned_view(5, change=mix):
        assert window.status == DriftStatus.DRIFT
        assert window.joint["correlation"].drifted
        assert not any("distribution" in series.found_by for series in window.features.values())


def test_a_baseline_without_a_profile_lacks_these_checks_only(trained: Any) -> None:
    """A version of an earlier release is judged by its histograms, and says what was not checked."""
    traffic = Traffic(trained, DriftSettings(), seed=13)
    traffic.baseline = Baseline.model_validate(trained.model.baseline.model_dump() | {"profile": None})
    (window,) = traffic.unaligned_view(1)
    assert window.joint == {}
    assert all(s.zeros is None and s.tail is None and s.psi is not None for s in window.features.values())
    old = trained.model.baseline.model_dump(mode="json")
    del old["profile"]
    assert Baseline.model_validate(old).profile is None
