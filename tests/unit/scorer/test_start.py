"""What a scorer loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from consumer.simulator.events import encode_event, student_inputs
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train

SCRIPT = """
import pickle, sys, time

def refuse(*_, **__):
    raise AssertionError("something was unpickled")

pickle.load = pickle.loads = pickle.Unpickler = refuse

from prometheus_client import CollectorRegistry
import consumer.roles.scorer
from consumer.pipeline.batch import RawBatch
from consumer.roles.shared import pipeline, watch_model
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import BatchProcessor
from consumer.settings import load

settings = load(None, {"model_store": {"path": sys.argv[1]}})
models = watch_model(settings, Readiness(time.time), ScorerTelemetry(CollectorRegistry()))
value = bytes.fromhex(sys.argv[2])
raw = RawBatch("events", [0], [0], [b"key"], [value], lambda rows: [0], lambda rows: [[]])
(prediction,) = BatchProcessor(pipeline(settings, models)).process(raw).predictions
print(len(prediction), sorted({"joblib", "scipy", "sklearn"} & set(sys.modules)))
"""


def test_the_default_model_needs_neither_pickle_nor_scikit_learn(tmp_path: Path) -> None:
    """A scorer loads the default model and scores an event, and nothing is unpickled or imported for it."""
    store = ModelStore(tmp_path, "purchase")
    store.promote(store.add(train(generate_students(2000, seed=1))))
    (inputs, *_) = student_inputs(generate_students(1, seed=2))
    event = encode_event({"event_id": "e", "student_id": "s", "occurred_at": 1_790_000_000_000, **inputs})
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, str(tmp_path), event.hex()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    length, imported = done.stdout.splitlines()[-1].split(" ", 1)
    assert int(length) > 100
    assert imported == "[]"
