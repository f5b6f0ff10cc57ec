"""Fit your own classifier and save it for ``purchase-stream models add``.

    python examples/own_model.py students.csv boosted.joblib
    purchase-stream models add boosted.joblib --data students.csv

The CSV file has the seven inputs and ``purchased``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier

from model_store.training_data import read_training_csv


def main(data: Path, file: Path) -> None:
    """Fit gradient-boosted trees with calibrated probabilities, and save them."""
    students = read_training_csv(data)  # inputs: float64 (n, 7), the country as the store's number
    boosted = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, random_state=0)
    model = CalibratedClassifierCV(boosted, method="sigmoid", cv=3)
    model.fit(students.inputs, students.purchased)
    joblib.dump(model, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
