"""Own models, added from files, stream exactly once through kills."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from consumer.cli import main
from model_store.inputs import INPUT_NAMES
from model_store.store import ModelStore
from model_store.synthetic import generate_students

pytestmark = pytest.mark.faults

KILLS = 8
EVENTS = 30_000


def light_gbm() -> Any:
    """Return a LightGBM classifier."""
    return pytest.importorskip("lightgbm").LGBMClassifier(
        n_estimators=60, n_jobs=1, verbose=-1, random_state=0
    )


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "HistGradientBoosting": lambda: HistGradientBoostingClassifier(max_iter=60, random_state=0),
    "LightGBM": light_gbm,
    "calibrated pipeline": lambda: CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), cv=3
    ),
    "trees of some 100 µs an event": lambda: HistGradientBoostingClassifier(
        max_iter=600, early_stopping=False, learning_rate=0.01, random_state=0
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_own_model_streams_exactly_once_through_kills(
    deploy: Callable[..., Any], holds: Callable[..., None], tmp_path: Path, name: str
) -> None:
    """A classifier is added from a file and promoted; one of two scorers is killed again and again."""
    table = generate_students(3000, seed=1)
    file, data, store = tmp_path / "model.joblib", tmp_path / "students.csv", tmp_path / "own"
    with threadpool_limits(1):
        joblib.dump(CLASSIFIERS[name]().fit(table.inputs, table.purchased), file)
    with data.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([*INPUT_NAMES, "purchased"])
        for country, row, bought in zip(
            table.countries, table.inputs.tolist(), table.purchased.tolist(), strict=True
        ):
            writer.writerow([country, *row[1:], bought])
    add = ["models", "add", str(file), "--data", str(data), "--inputs", "array-number", "--promote"]
    with threadpool_limits(1):  # on a busy machine, threads that wait for each other take minutes
        main(["--set", f"model_store.path={store}", *add])
    manifest = ModelStore(store, "purchase").manifest("champion")
    assert manifest.cost is not None

    service = deploy(max_events=10_000)
    flowing = service.stream(EVENTS, seconds=20)
    scorers = {i: service.start("score", i, MODEL_STORE__PATH=str(store)) for i in "ab"}
    random_source = random.Random(1)
    service.await_progress()
    for _ in range(KILLS):
        time.sleep(random_source.uniform(0.3, 2.0))
        instance = random_source.choice("ab")
        scorers[instance].kill()
        scorers[instance] = service.start("score", instance, MODEL_STORE__PATH=str(store))
    flowing.result()
    service.await_decided()
    holds(
        f"SIGKILL of scorers with {name} ({manifest.cost.batch_us:.0f} µs per event)",
        f"{KILLS} kills",
        service.verdict(),
    )
