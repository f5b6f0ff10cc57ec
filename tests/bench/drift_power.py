"""Measure what the drift checks find, and how often they alarm on stable traffic.

``python -m tests.bench.drift_power [--data FILE.csv]``. Without a file, the students are generated. Half of
them are the training data, the other half are the traffic. "Before" is the stability index and the share of
predicted purchases alone, with nine tests in the budget and a tolerated index of 0.02.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consumer.monitor.drift.tracker import WindowSequence
from consumer.monitor.drift.verdict import N_TESTS, DriftStatus, WindowVerdict
from consumer.monitor.drift.window import SERIES, sample_of
from consumer.settings import DriftSettings
from model_store.baseline import Baseline
from model_store.estimator import probability_model
from model_store.inputs import INPUT_NAMES
from model_store.synthetic import generate_students
from model_store.training import train
from model_store.training_data import TrainingTable, read_training_csv

Inputs = np.ndarray
MINUTES = INPUT_NAMES.index("minutes_watched")
STUDENTS = 1000
DAMAGED_WINDOWS = 60
STABLE_WINDOWS = 1000


def minutes_more(inputs: Inputs, _: np.random.Generator) -> None:
    """Multiply everybody's minutes by 1.5."""
    inputs[:, MINUTES] *= 1.5


def zeros(inputs: Inputs, random: np.random.Generator) -> None:
    """Send zeros instead of the minutes of a tenth of the students."""
    inputs[random.random(len(inputs)) < 0.1, MINUTES] = 0.0


def seconds(inputs: Inputs, random: np.random.Generator) -> None:
    """Send seconds instead of minutes for a twentieth of the students."""
    inputs[random.random(len(inputs)) < 0.05, MINUTES] *= 60.0


def mixed_up(inputs: Inputs, random: np.random.Generator) -> None:
    """Give half of the students the minutes of another one."""
    rows = np.flatnonzero(random.random(len(inputs)) < 0.5)
    inputs[rows, MINUTES] = inputs[random.permutation(rows), MINUTES]


def stable(inputs: Inputs, _: np.random.Generator) -> None:
    """Change nothing."""


CHANGES: dict[str, Callable[[Inputs, np.random.Generator], None]] = {
    "minutes times 1.5": minutes_more,
    "a tenth of the students with zeros": zeros,
    "a twentieth in seconds instead of minutes": seconds,
    "half of the students with another one's minutes": mixed_up,
    "stable": stable,
}


@dataclass(frozen=True)
class Traffic:
    """Students to draw from, and the model that scores them."""

    baseline: Baseline
    threshold: float
    students: Inputs
    score: Callable[[Inputs], np.ndarray]

    @classmethod
    def of(cls, table: TrainingTable, seed: int) -> Traffic:
        """Train on a random half; the other half is the traffic."""
        order = np.random.default_rng(seed).permutation(table.rows)
        half = order[: table.rows // 2]
        model = train(
            TrainingTable(
                [table.countries[i] for i in half],
                np.asfortranarray(table.inputs[half]),
                table.purchased[half],
                table.sha256,
                table.source,
            )
        )
        others = table.inputs[order[table.rows // 2 :]]
        score = probability_model(model.estimator).predict_probability
        return cls(model.baseline, model.threshold.value, others, score)

    def verdict(
        self,
        change: Callable[[Inputs, np.random.Generator], None],
        random: np.random.Generator,
        settings: DriftSettings,
        *,
        before: bool,
    ) -> WindowVerdict:
        """Return the verdict on one window of students, drawn without replacement."""
        inputs = np.asfortranarray(self.students[random.permutation(len(self.students))[:STUDENTS]])
        change(inputs, random)
        probabilities = self.score(inputs)
        baseline = self.baseline.model_copy(update={"profile": None}) if before else self.baseline
        sample = sample_of(
            {name: inputs[:, j] for j, name in enumerate(INPUT_NAMES)} | {"score": probabilities},
            (probabilities >= self.threshold).astype(np.int64),
            np.arange(STUDENTS, dtype=np.uint64),
            np.zeros(STUDENTS, np.int64),
            baseline,
        )
        (verdict,) = WindowSequence(baseline, settings).add(sample)
        return verdict


def found(traffic: Traffic, name: str, n: int, *, before: bool) -> int:
    """Return the number of windows with an alarm."""
    # Before, nine tests shared the budget.
    share = len(SERIES) / N_TESTS if before else 1.0
    tolerance = {"tolerated_psi": 0.02} if before else {}
    settings = DriftSettings(window_students=STUDENTS, windows_per_false_alarm=1000 * share, **tolerance)
    random = np.random.default_rng(7)
    return sum(
        traffic.verdict(CHANGES[name], random, settings, before=before).status == DriftStatus.DRIFT
        for _ in range(n)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    table = read_training_csv(data) if data else generate_students(24_000, seed=5)
    traffics = [Traffic.of(table, seed) for seed in (1, 2)]
    print(f"{table.rows} students from {table.source}; windows of {STUDENTS} students, two splits")
    for name in CHANGES:
        n = STABLE_WINDOWS if name == "stable" else DAMAGED_WINDOWS
        counts = [sum(found(t, name, n // 2, before=before) for t in traffics) for before in (True, False)]
        print(f"| {name} | {counts[0]} of {n} | {counts[1]} of {n} |")


if __name__ == "__main__":
    main()
