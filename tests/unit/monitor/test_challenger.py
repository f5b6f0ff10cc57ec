"""The champion against the challenger and its predecessor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from consumer.monitor.challenger import Challengers, Compared, Job, Scoring
from consumer.monitor.model_process import ModelProblem, Score, Scores, Switch, Switched
from consumer.monitor.outcomes.join import MaturedOutcomes
from consumer.monitor.sequential_test import Preference
from consumer.settings import ChallengerSettings
from model_store.store import ModelStore
from tests.support.clock import Clock
from tests.support.monitor import until


class FakeModels:
    """Answers every request with a function, and keeps the requests."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.requests: list[Any] = []
        self._answer = answer

    def ask(self, request: Any) -> Any:
        """Answer."""
        self.requests.append(request)
        return self._answer(request)

    def close(self) -> None:
        """Do nothing."""

    @property
    def switches(self) -> list[Switch]:
        """The requests to switch the champion."""
        return [request for request in self.requests if isinstance(request, Switch)]


def perfect(request: Any) -> Any:
    """Know each student's outcome: it is the second input."""
    if isinstance(request, Switch):
        return Switched()
    return Scores(request.features[:, 1].copy(), 0.5)


def students(n: int) -> np.ndarray:
    """Return students of whom every second one buys, as the second input says."""
    features = np.zeros((n, 7), order="F")
    features[:, 1] = np.arange(n) % 2
    return features


def matured(version: str, n: int) -> MaturedOutcomes:
    """Return outcomes of students about whom the version knew nothing."""
    features = students(n)
    return MaturedOutcomes(
        version, features, np.full(n, 0.5), np.ones(n, np.int64), features[:, 1].astype(np.int64)
    )


def outcomes_are(challengers: Challengers, n: int) -> bool:
    """Whether this many outcomes were compared."""
    challengers.collect()
    return challengers.snapshot()[0].test.outcomes == n


def switches_are(models: FakeModels, n: int) -> bool:
    """Whether the models were asked so often to switch the champion."""
    return len(models.switches) == n


@pytest.fixture
def challengers_of(store: ModelStore) -> Any:
    """A function that compares the store's aliases with the help of fake models."""
    made: list[Challengers] = []

    def make(models: FakeModels, **settings: Any) -> Challengers:
        challengers = Challengers(store, Scoring(models, 1.0), ChallengerSettings(**settings))
        challengers.refresh_aliases()
        made.append(challengers)
        return challengers

    yield make
    for challengers in made:
        challengers.close()


def test_without_aliases_nothing_is_compared(challengers_of: Any) -> None:
    """No model is asked while there is no challenger."""
    models = FakeModels(perfect)
    challengers = challengers_of(models)
    challengers.observe(students(10), np.zeros(10), np.zeros(10, np.int64), "any")
    assert not challengers.comparing
    assert challengers.snapshot() == ()
    assert models.requests == []


def test_a_challenger_is_compared_on_the_champions_predictions(
    store: ModelStore, challengers_of: Any
) -> None:
    """Disagreement and differences are counted on predictions of the champion, not on those of others."""
    champion, challenger, _ = store.versions()
    store.promote(challenger, "challenger")
    challengers = challengers_of(FakeModels(perfect))
    probabilities, decisions = np.full(10, 0.75), np.ones(10, np.int64)
    challengers.observe(students(10), probabilities, decisions, "another")
    challengers.observe(students(10), probabilities, decisions, champion)
    until(challengers.collect)
    (comparison,) = challengers.snapshot()
    live = comparison.live
    assert (comparison.champion, comparison.version) == (champion, challenger)
    assert (live.scored, live.flagged, live.unflagged, live.disagreement_ratio) == (10, 0, 5, 0.5)
    assert live.difference == pytest.approx(5 * 0.25 - 5 * 0.75)
    assert live.absolute_difference == pytest.approx(5 * 0.25 + 5 * 0.75)
    assert sum(live.probability_bins) == sum(live.difference_bins) == 10


def test_a_better_challenger_is_promoted_only_if_the_settings_say_so(
    store: ModelStore, challengers_of: Any
) -> None:
    """The verdict is shown in any case; the champion is switched once, with the evidence, if allowed."""
    champion, challenger, _ = store.versions()
    store.promote(challenger, "challenger")
    for promote in (False, True):
        models = FakeModels(perfect)
        challengers = challengers_of(models, promote=promote)
        for _ in range(3):
            challengers.add_outcomes(matured(champion, 100))
        until(partial(outcomes_are, challengers, 300))
        assert challengers.snapshot()[0].preference == Preference.BETTER
        until(partial(switches_are, models, int(promote)))
    (switch,) = models.switches
    assert (switch.action, switch.version, switch.champion) == ("promote", challenger, champion)
    assert switch.evidence["sequential_test"]["passed"]
    assert switch.evidence["sequential_test"]["evidence"] >= 100


def test_a_new_champion_is_rolled_back_but_one_that_came_back_is_not(
    store: ModelStore, challengers_of: Any
) -> None:
    """The predecessor is compared with a version that is champion for the first time."""
    first, second, _ = store.versions()
    store.promote(second)
    models = FakeModels(perfect)
    challengers = challengers_of(models, rollback=True)
    challengers.add_outcomes(matured(second, 100))
    until(lambda: challengers.collect() or models.switches)
    until(lambda: models.switches)
    assert [(s.action, s.version, s.champion) for s in models.switches] == [("rollback", first, second)]
    store.rollback()
    challengers.refresh_aliases()
    assert not challengers.comparing
    store.promote(second)  # a person insists
    challengers.refresh_aliases()
    assert not challengers.comparing


def test_rollback_is_off_by_default(store: ModelStore, challengers_of: Any) -> None:
    """Without the setting no predecessor is scored."""
    store.promote(store.versions()[1])
    assert not challengers_of(FakeModels(perfect)).comparing


def test_a_refused_version_is_told_and_counted(store: ModelStore, challengers_of: Any) -> None:
    """A version that cannot be scored is a problem on the page, and the students count as failed."""
    champion, challenger, _ = store.versions()
    store.promote(challenger, "challenger")

    def refuse(_: Any) -> Any:
        raise ModelProblem("it needs lightgbm")

    challengers = challengers_of(FakeModels(refuse))
    challengers.observe(students(10), np.zeros(10), np.zeros(10, np.int64), champion)
    until(challengers.collect)
    (comparison,) = challengers.snapshot()
    assert comparison.problem == "it needs lightgbm"
    assert (comparison.live.scored, comparison.live.failed) == (0, 10)


def test_students_without_a_probability_count_as_failed(store: ModelStore, challengers_of: Any) -> None:
    """A NaN is no probability, neither live nor with an outcome."""
    champion, challenger, _ = store.versions()
    store.promote(challenger, "challenger")
    challengers = challengers_of(
        FakeModels(lambda request: Scores(np.where(request.features[:, 1] == 1, 1.0, np.nan), 0.5))
    )
    challengers.observe(students(10), np.zeros(10), np.zeros(10, np.int64), champion)
    until(challengers.collect)
    challengers.add_outcomes(matured(champion, 10))
    until(challengers.collect)
    (comparison,) = challengers.snapshot()
    assert (comparison.live.scored, comparison.live.failed, comparison.test.outcomes) == (5, 10, 5)


def test_evidence_survives_a_restart(store: ModelStore, challengers_of: Any) -> None:
    """The test continues where it was; with another challenger it starts over."""
    champion, challenger, other = store.versions()
    store.promote(challenger, "challenger")
    before = challengers_of(FakeModels(perfect))
    before.add_outcomes(matured(champion, 4))
    until(before.collect)
    after = challengers_of(FakeModels(perfect))
    after.restore(before.saved())
    assert after.snapshot()[0].test.outcomes == 0  # it was refreshed before the state was there
    restored = Challengers(store, Scoring(FakeModels(perfect), 1.0), ChallengerSettings())
    restored.restore(before.saved())
    restored.refresh_aliases()
    assert restored.snapshot()[0].test == before.snapshot()[0].test
    assert restored.snapshot()[0].sums == before.snapshot()[0].sums
    store.promote(other, "challenger")
    restored.refresh_aliases()
    assert restored.snapshot()[0].test.outcomes == 0


def live_job(n: int = 1) -> Job:
    """Return a job about students without outcomes."""
    return Job(Compared("challenger", "a", "b"), Score("b", students(n)), np.zeros(n))


def test_a_slow_challenger_is_dropped_first() -> None:
    """While a live batch is scored, others are refused at once; those with outcomes wait."""
    entered, proceed = threading.Event(), threading.Event()

    def slow(request: Any) -> Any:
        entered.set()
        proceed.wait(30)
        return perfect(request)

    scoring = Scoring(FakeModels(slow), 1.0)
    assert scoring.offer(live_job())
    assert entered.wait(30)
    assert not scoring.offer(live_job())
    with_outcome = Job(
        Compared("challenger", "a", "b"),
        Score("b", students(1)),
        np.zeros(1),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    accepted = [scoring.offer(with_outcome) for _ in range(20)]
    assert accepted == [True] * 8 + [False] * 12
    proceed.set()
    until(lambda: scoring.offer(live_job()))
    scoring.stop()


def test_live_batches_keep_their_budget() -> None:
    """After a batch that took one second, a budget of a quarter leaves three seconds without a batch."""
    clock = Clock()

    def second(request: Any) -> Any:
        clock.now_s += 1
        return perfect(request)

    scoring = Scoring(FakeModels(second), 0.25, clock)
    assert scoring.offer(live_job())
    until(lambda: scoring.answers() and clock.now_s)
    until(lambda: scoring._live_from_s < float("inf"))
    start_s = clock.now_s
    assert not scoring.offer(live_job())
    clock.now_s = start_s + 2.9
    assert not scoring.offer(live_job())
    clock.now_s = start_s + 3.0
    assert scoring.offer(live_job())
    scoring.stop()
