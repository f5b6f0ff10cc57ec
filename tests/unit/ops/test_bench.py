"""`bench` times the very code of the stream, and says so per event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.ops.bench import STAGES, pipeline_of, time_core
from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train


class Counting:
    """A model that counts what it is asked."""

    version, threshold = "v", 0.5

    def __init__(self) -> None:
        self.asked: list[int] = []

    def predict_probability(self, features: Any) -> Any:
        """Answer a half for every row."""
        self.asked.append(len(features))
        return np.full(len(features), 0.5)


def test_every_stage_is_timed_over_the_same_batch() -> None:
    """Once more than is counted, and broken events stand among the good ones."""
    model = Counting()
    timing = time_core(pipeline_of(model), batch_events=60, repeats=2, broken_ratio=0.5)
    assert model.asked == [40] * 3
    assert tuple(timing.microseconds) == STAGES
    assert all(took > 0 for took in timing.microseconds.values())
    assert timing.scorer_us == pytest.approx(sum(list(timing.microseconds.values())[:4]))


def test_the_command_uses_the_champion(tmp_path: Path) -> None:
    """Without one it says how to get one; `--model` names another version."""
    where = ["--set", f"model_store.path={tmp_path}", "bench", "--batch", "50", "--repeats", "1"]
    assert isinstance(CliRunner().invoke(app, where).exception, ModelStoreError)
    store = ModelStore(tmp_path, "purchase")
    version = store.add(train(generate_students(500)))
    store.promote(version)
    answer = json.loads(CliRunner().invoke(app, [*where, "--json"]).stdout)
    assert (answer["model_version"], answer["batch_events"]) == (version, 50)
    other = store.add(train(generate_students(600)))
    answer = json.loads(CliRunner().invoke(app, [*where, "--json", "--model", other]).stdout)
    assert answer["model_version"] == other
    assert "events/s on one core" in CliRunner().invoke(app, where).stdout
