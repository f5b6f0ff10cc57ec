"""`models replay` and `train --from-outcomes` on the topics of a real Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.cli import main
from model_store.store import ModelStore
from tests.support.topics import Published

pytestmark = pytest.mark.broker

N = 1200


def test_the_topics_are_replayed_and_trained_from(
    deploy: Callable[..., Any],
    trained_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The champion scores the topic's inputs as it did, and a model is trained on what became of them."""
    service = deploy()
    store = ModelStore(trained_store, "purchase")
    published = Published(service, store)
    probabilities = published.predict(0, N)
    time.sleep(0.01)  # an outcome of the same millisecond would not count
    published.tell_outcomes(0, probabilities > 0.5)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PURCHASE_STREAM_AUDIT__PATH", str(tmp_path / "log.jsonl"))

    main(["models", "replay", "--version", "champion", "--since", "1h", "--topic", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["predictions"], found["all"]["students"], found["failed"]) == (N, N, 0)
    assert (found["all"]["to_positive"], found["all"]["to_negative"], found["max_abs_difference"]) == (
        0,
        0,
        0,
    )
    assert (found["outcomes"], found["purchases"]) == (N, int((probabilities > 0.5).sum()))
    assert found["quality_before"] == found["quality_after"]

    versions = set(store.versions())
    main(["train", "--from-outcomes", "--topic"])
    assert f"trained on {N} students from {N} outcomes of predictions in the topic" in capsys.readouterr().out
    (added,) = set(store.versions()) - versions
    assert store.manifest(added).training_data.rows == N
    store.remove(added)
