"""A challenger beside the champion, on a real monitor process: compared, promoted, and rolled back to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from consumer.cli import main
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train
from tests.broker.test_drift import Served, free_port
from tests.support.monitor import until
from tests.support.topics import Published

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.broker

STUDENTS = 1500


def test_a_better_challenger_is_promoted_and_a_worse_champion_rolled_back(
    deploy: Callable[..., Any], tmp_path: Path
) -> None:
    """The outcomes of a hundred and more buyers promote a better challenger, and end a worse champion."""
    store = ModelStore(tmp_path / "models", "purchase")
    table = generate_students(3000, seed=1)
    shuffled = replace(table, purchased=np.random.default_rng(0).permutation(table.purchased))
    useless, good = store.add(train(shuffled)), store.add(train(table))
    store.promote(useless, force=True, reason="test")
    deployment = deploy()
    deployment.environment |= {
        "PURCHASE_STREAM_MODEL_STORE__PATH": str(store.folder.parent),
        "PURCHASE_STREAM_MODEL_STORE__POLL_S": "0.2",
        "PURCHASE_STREAM_CHALLENGER__PROMOTE": "true",
        "PURCHASE_STREAM_CHALLENGER__ROLLBACK": "true",
        "PURCHASE_STREAM_CHALLENGER__BUDGET_RATIO": "1",
    }
    monitor, path = Served(deployment, free_port()), "/monitoring/challenger"
    monitor.until(
        "/monitoring/retraining_trigger", lambda a: a["performance"]["feed"] == "on", deployment.logs
    )

    def outcomes_of(begin: int) -> None:
        """Publish predictions of the champion, then whether the students bought."""
        Published(deployment, store).predict(begin, STUDENTS)
        monitor.until("/monitoring/drift", lambda a: a["predictions_observed"] >= STUDENTS, deployment.logs)
        purchased = generate_students(STUDENTS, seed=begin).purchased.astype(np.bool_)
        Published(deployment, store).tell_outcomes(begin, purchased)

    main(["--set", f"model_store.path={store.folder.parent}", "models", "challenge", good])
    monitor.until(path, lambda a: a["comparisons"], deployment.logs)
    outcomes_of(0)
    monitor.until(path, lambda a: a["champion"] == good, deployment.logs)
    until(lambda: store.target("challenger") is None, 60)
    switch = [line for line in store.history() if line["alias"] == "champion"][-1]
    assert (switch["from"], switch["to"]) == (useless, good)
    assert switch["evidence"]["sequential_test"]["outcomes"] <= STUDENTS

    worse = store.add(train(shuffled))
    store.promote(worse, force=True, reason="test")
    answer = monitor.until(
        path, lambda a: [c["champion"] for c in a["comparisons"]] == [worse], deployment.logs
    )
    assert [(c["alias"], c["version"]) for c in answer["comparisons"]] == [("previous", good)]
    outcomes_of(10_000)
    answer = monitor.until(path, lambda a: a["champion"] == good and not a["comparisons"], deployment.logs)
    switch = [line for line in store.history() if line["alias"] == "champion"][-1]
    assert (switch["from"], switch["to"]) == (worse, good)
    assert "the predecessor is better" in switch["reason"]
