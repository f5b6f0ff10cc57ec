"""Simulate automatic promotions and rollbacks: ``python -m tests.bench.sequential [RUNS]``.

The students and their purchases are generated, the models are real; only the stream is left out. Each run
draws students with replacement and adds their outcomes to the sequential test, a hundred at a time. The
table says how often an equally good model is called better, and after how many outcomes the better of two
models wins: as a challenger it is promoted then, as a predecessor the champion is rolled back to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from consumer.monitor.sequential_test import Preference, SequentialTest
from model_store.estimator import probability_model
from model_store.synthetic import generate_students
from model_store.training import train

Floats = NDArray[np.float64]
Probabilities = Callable[[NDArray[np.int64]], Floats]
"""Returns the probabilities of some of the students, by their rows."""

ERROR_RATIO = 0.01
OUTCOMES = 20_000
"""A run without a decision ends here."""

_STEP = 100
_DEFAULT_RUNS = 1000


def decide(
    champion: Probabilities, contender: Probabilities, purchased: NDArray[np.int64], seed: int
) -> tuple[Preference, int]:
    """Return the first decision of one run, and after how many outcomes it fell."""
    rows = np.random.default_rng(seed).integers(0, len(purchased), OUTCOMES)
    p, q, y = champion(rows), contender(rows), purchased[rows]
    test = SequentialTest()
    for start in range(0, OUTCOMES, _STEP):
        part = slice(start, start + _STEP)
        test = test.add(p[part], q[part], y[part])
        preference = test.preference(ERROR_RATIO)
        if preference != Preference.UNDECIDED:
            return preference, test.outcomes
    return Preference.UNDECIDED, OUTCOMES


def run(runs: int) -> None:
    """Print the table."""
    sample, live = generate_students(12_000, seed=1), generate_students(400_000, seed=2)
    purchased = live.purchased.astype(np.int64)
    model = probability_model(train(sample).estimator)
    default = model.predict_probability(live.inputs)
    odds = np.log(default / (1 - default))
    noise = np.random.default_rng(0)

    def noisy(rows: NDArray[np.int64]) -> Floats:
        """Return probabilities with errors of their own: as good as those of any other such model."""
        return np.asarray(1 / (1 + np.exp(-odds[rows] - noise.normal(0, 0.5, len(rows)))))

    found = [decide(noisy, noisy, purchased, seed)[0] for seed in range(runs)]
    print(
        f"two equally good models, {OUTCOMES:,} outcomes, stated error {ERROR_RATIO:.0%}: called better in "
        f"{found.count(Preference.BETTER)} and worse in {found.count(Preference.WORSE)} of {runs} runs"
    )

    boosted = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.08, max_leaf_nodes=8, random_state=0
    ).fit(sample.inputs, sample.purchased)
    few = train(generate_students(600, seed=5))
    swapped = live.inputs.copy(order="F")
    swapped[:, [2, 6]] = swapped[:, [6, 2]]
    others = {
        "HistGradientBoosting": boosted.predict_proba(live.inputs)[:, 1],
        "odds doubled, as after oversampling the buyers": 1 / (1 + np.exp(-odds - np.log(2))),
        "trained on 600 students": probability_model(few.estimator).predict_probability(live.inputs),
        "two inputs swapped": model.predict_probability(swapped),
        "the base rate for everybody": np.full(len(default), float(purchased.mean())),
    }
    brier = float(np.mean((default - purchased) ** 2))
    print(f"the default model, Brier score {brier:.4f}, against:")
    for name, other in others.items():
        worse = float(np.mean((other - purchased) ** 2)) - brier
        decisions = [decide(other.__getitem__, default.__getitem__, purchased, seed) for seed in range(runs)]
        wins = sorted(outcomes for preference, outcomes in decisions if preference == Preference.BETTER)
        losses = sum(preference == Preference.WORSE for preference, _ in decisions)
        median, most = wins[len(wins) // 2], wins[int(len(wins) * 0.95)]
        print(
            f"{name}: Brier score {worse:+.4f}; the default model won {len(wins)} and lost {losses} of "
            f"{runs} runs, half of them within {median} outcomes, 95 % within {most}"
        )


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT_RUNS)
