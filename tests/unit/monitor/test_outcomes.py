"""Outcomes joined to predictions, and the verdict on precision and recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.columnar.arrays import DictionaryColumn
from consumer.monitor.outcomes.join import OutcomeJoin
from consumer.monitor.outcomes.quality import OutcomeSums, compare_quality, sums_of
from consumer.settings import OutcomeSettings

DAY_MS = 86_400_000


def predict(join: OutcomeJoin, students: list[int], *, at_ms: int = 0, p: float = 0.5) -> None:
    """Add pending predictions; probable ones are flagged."""
    n = len(students)
    join.remember(
        np.array(students, np.uint64),
        np.full(n, p),
        np.full(n, int(p >= 0.5)),
        np.full(n, at_ms),
        DictionaryColumn(["v1"], np.zeros(n, np.int64)),
    )


def tell(join: OutcomeJoin, students: list[int], *, bought: bool = True, at_ms: int = 0) -> None:
    """Join outcomes and let them mature."""
    n = len(students)
    join.join(np.array(students, np.uint64), np.full(n, bought, np.int8), np.full(n, at_ms))
    join.mature("v1")


def test_an_outcome_meets_the_last_prediction_once() -> None:
    """The later prediction counts; a second outcome and an unknown student are unmatched."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=100))
    predict(join, [1], p=0.9)
    predict(join, [1], p=0.2)
    tell(join, [1, 2])
    tell(join, [1])
    snapshot = join.snapshot("on")
    assert (snapshot.joined, snapshot.unmatched, snapshot.pending) == (1, 2, 0)
    assert snapshot.totals["v1"].false_negatives == 1


def test_the_oldest_predictions_make_room() -> None:
    """Only the last predictions are pending, across the end of the ring and in batches larger than it."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=5))
    predict(join, [1, 2, 3])
    predict(join, [4, 5, 6])
    tell(join, [1])
    assert join.snapshot("on").unmatched == 1
    tell(join, [2, 6])
    assert join.snapshot("on").joined == 2
    predict(join, list(range(10, 30)))
    tell(join, [24])
    assert join.snapshot("on").unmatched == 2
    tell(join, [25, 26, 27, 28, 29])
    assert join.snapshot("on").joined == 7


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=8),
    st.lists(st.integers(0, 12), max_size=9, unique=True),
    st.integers(1, 12),
)
def test_the_ring_is_a_dictionary_of_the_last_predictions(
    batches: list[list[int]], outcomes: list[int], size: int
) -> None:
    """For any batches, the joined students are those among the last predictions that fit."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=size))
    for batch in batches:
        predict(join, batch)
    remembered = [student for batch in batches for student in batch][-size:]
    assert join.snapshot("on").pending == len(remembered)
    tell(join, outcomes)
    assert join.snapshot("on").joined == len(set(outcomes) & set(remembered))
    assert join.snapshot("on").pending == len([s for s in remembered if s not in outcomes])


def test_an_outcome_waits_until_its_prediction_is_old_enough() -> None:
    """A purchase reported after a day counts once the prediction is 28 days old, like a missing one."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=10, maturity_days=28))
    predict(join, [1], at_ms=0)
    tell(join, [1], at_ms=DAY_MS)
    assert join.snapshot("on").maturing == 1
    assert join.snapshot("on").totals == {}
    tell(join, [2], at_ms=28 * DAY_MS)
    assert join.snapshot("on").maturing == 0
    assert join.snapshot("on").totals["v1"].true_positives == 1


def test_a_restart_forgets_nothing() -> None:
    """After a restart, even with another ring size, the latest predictions are still pending."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=4))
    predict(join, [1, 2, 3])
    predict(join, [4, 5])
    saved, arrays = join.saved({0: 9})
    for size, known in ((4, [2, 3, 4, 5]), (2, [4, 5]), (9, [2, 3, 4, 5])):
        after = OutcomeJoin(OutcomeSettings(max_predictions=size))
        after.restore(saved, {name: array.copy() for name, array in arrays.items()})
        assert after.snapshot("on").pending == len(known)
        tell(after, [1, 2, 3, 4, 5])
        assert after.snapshot("on").joined == len(known)


def test_matured_outcomes_bring_the_features_of_their_predictions() -> None:
    """Another version can score the same students: also across a restart, but not if they are not known."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=4))
    predict(join, [1])
    features = np.arange(21.0).reshape(3, 7)
    one = DictionaryColumn(["v1"], np.zeros(3, np.int64))
    join.remember(
        np.array([2, 3, 4], np.uint64),
        np.full(3, 0.5),
        np.ones(3, np.int64),
        np.zeros(3, np.int64),
        one,
        features,
    )
    predict(join, [5])  # overwrites 1
    saved, arrays = join.saved({})
    for size in (4, 6):
        after = OutcomeJoin(OutcomeSettings(max_predictions=size))
        after.restore(saved, {name: array.copy() for name, array in arrays.items()})
        after.join(np.array([4, 2, 5, 9], np.uint64), np.array([1, 0, 1, 1], np.int8), np.zeros(4, np.int64))
        matured = after.mature("v1")
        assert matured is not None
        assert matured.features.tolist() == features[[0, 2]].tolist()  # by student; of 5 nothing is known
        assert matured.purchased.tolist() == [0, 1]
        assert after.mature("v1") is None


def test_a_state_of_an_older_release_is_read() -> None:
    """Outcomes that were saved without features are counted, and no other version can score them."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=4, maturity_days=1))
    predict(join, [1, 2])
    tell(join, [1])
    saved, arrays = join.saved({})
    old = arrays["immature"][[name for name in arrays["immature"].dtype.names or () if name != "features"]]
    after = OutcomeJoin(OutcomeSettings(max_predictions=4))
    after.restore(saved, {"waiting": arrays["waiting"], "immature": old})
    matured = after.mature("v1")
    assert matured is not None
    assert len(matured.features) == 0
    assert after.snapshot("on").totals["v1"].outcomes == 1


def outcomes_of(n: int, seed: int, distort: float = 1.0) -> OutcomeSums:
    """Return outcomes of students who buy with ``distort`` times their probability."""
    random = np.random.default_rng(seed)
    p = random.beta(0.6, 4.0, n)
    bought = (random.random(n) < p * distort).astype(np.int64)
    return sums_of(p, (p >= 0.3).astype(np.int64), bought)


def test_outcomes_as_expected_are_no_decay() -> None:
    """In 500 sets of 2,000 outcomes that follow the probabilities, none decays."""
    decayed = [compare_quality(outcomes_of(2000, seed), OutcomeSettings()).decayed for seed in range(500)]
    assert sum(decayed) == 0
    strict = OutcomeSettings(tolerated_drop_ratio=0)
    assert sum(compare_quality(outcomes_of(2000, seed), strict).decayed for seed in range(500)) <= 5


def test_students_who_buy_less_than_predicted_are_decay() -> None:
    """If half of the expected buyers buy, precision has decayed, and the Brier score is reported."""
    for seed in range(50):
        verdict = compare_quality(outcomes_of(2000, seed, distort=0.5), OutcomeSettings())
        assert verdict.decayed
        assert verdict.precision.decayed
        assert verdict.brier.expected is not None


def test_too_few_are_not_judged() -> None:
    """A few flagged students give values but no verdict; no students give no values."""
    few: Any = compare_quality(outcomes_of(30, 1), OutcomeSettings())
    assert few.precision.decayed is None
    assert not few.decayed
    none = compare_quality(OutcomeSums(), OutcomeSettings())
    assert none.precision.expected is None
    assert none.brier_z is None


def test_sums_add_up() -> None:
    """The sums of two parts add up to those of the whole."""
    p, y = np.array([0.1, 0.6, 0.7, 0.2]), np.array([0, 1, 0, 1])
    d = (p > 0.5).astype(np.int64)
    whole, parts = sums_of(p, d, y), sums_of(p[:2], d[:2], y[:2]) + sums_of(p[2:], d[2:], y[2:])
    assert np.allclose(list(vars_of(whole)), list(vars_of(parts)))
    assert (whole.true_positives, whole.false_positives) == (1, 1)
    assert (whole.false_negatives, whole.true_negatives) == (1, 1)


def vars_of(sums: OutcomeSums) -> list[float]:
    """Return the sums in order."""
    return [getattr(sums, name) for name in OutcomeSums.__dataclass_fields__]
