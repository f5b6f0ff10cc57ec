"""The example of an own model is true: what it saves can be added, promoted and loaded."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumer.cli import main
from model_store.inputs import INPUT_NAMES
from model_store.store import ModelStore

if TYPE_CHECKING:
    from model_store.training_data import TrainingTable

_EXAMPLE = Path(__file__).parents[3] / "examples" / "own_model.py"


def test_example_is_added_and_promoted(
    tmp_path: Path,
    students: TrainingTable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its file becomes the champion by the command in its docstring."""
    data, file = tmp_path / "students.csv", tmp_path / "boosted.joblib"
    with data.open("w", newline="") as output:
        writer = csv.writer(output)
        writer.writerow([*INPUT_NAMES, "purchased"])
        rows = zip(
            students.countries, students.inputs[:, 1:].tolist(), students.purchased.tolist(), strict=True
        )
        writer.writerows([country, *numbers, label] for country, numbers, label in rows)
    monkeypatch.setattr(sys, "argv", ["own_model.py", str(data), str(file)])
    runpy.run_path(str(_EXAMPLE), run_name="__main__")
    store = tmp_path / "store"
    main(["--set", f"model_store.path={store}", "models", "add", str(file), "--data", str(data), "--promote"])
    output_text = capsys.readouterr().out
    assert "it receives: array with the country as number" in output_text
    assert "base_rate: " in output_text
    champion = ModelStore(store, "purchase").load("champion")
    assert champion.manifest.estimator_class == "sklearn.calibration.CalibratedClassifierCV"
    for command in (
        ["ls"],
        ["show"],
        ["slices"],
        ["card", "champion", "--out", str(tmp_path / "card.html")],
        ["history"],
        ["threshold", "champion", "--criterion", "cost"],
    ):
        main(["--set", f"model_store.path={store}", "models", *command])
    assert champion.version in (tmp_path / "card.html").read_text()
    (store / "purchase" / "aliases" / "previous").write_text("damaged")
    with pytest.raises(SystemExit) as stopped:
        main(["--set", f"model_store.path={store}", "models", "ls"])
    assert stopped.value.code == 78
    output_and_error = capsys.readouterr()
    assert champion.version in output_and_error.out
    assert "previous cannot be read: it does not name a version" in output_and_error.err
