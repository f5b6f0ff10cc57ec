"""A process that scores with any version, and its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from consumer.monitor.model_process import ModelProblem, ModelProcess, Score, StoreModels, Switch
from model_store.store import ModelStore


@pytest.fixture
def process(store: ModelStore) -> Iterator[ModelProcess]:
    """A process over this store."""
    process = ModelProcess(store.folder.parent, store.model)
    yield process
    process.close()


def test_a_process_scores_as_the_scorer_does(trained: Any, store: ModelStore, process: ModelProcess) -> None:
    """Probabilities and threshold are those of the version, to the last bit."""
    features = np.asfortranarray(trained.students[:100])
    scores: Any = process.ask(Score(store.versions()[1], features))
    assert scores.probabilities.tolist() == trained.probabilities[:100].tolist()
    assert scores.threshold == trained.model.threshold.value


def test_a_process_that_was_killed_is_started_again(
    trained: Any, store: ModelStore, process: ModelProcess
) -> None:
    """A crash of the model is a problem, and the next request is answered by a new process."""
    features = np.asfortranarray(trained.students[:10])
    process.ask(Score(store.versions()[1], features))
    child: Any = process._process
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    scores: Any = process.ask(Score(store.versions()[1], features))
    assert len(scores.probabilities) == 10
    process.close()
    with pytest.raises(ModelProblem, match="the monitor stops"):
        process.ask(Score(store.versions()[1], features))


def test_a_missing_version_is_a_problem(store: ModelStore) -> None:
    """The reason is the store's own."""
    with pytest.raises(ModelProblem, match="no version or alias"):
        StoreModels(store).ask(Score("missing", np.zeros((1, 7), order="F")))


def test_a_promotion_is_recorded_with_its_evidence(store: ModelStore) -> None:
    """The champion is switched, the challenger's alias goes, and the history has the findings."""
    champion, challenger, _ = store.versions()
    store.promote(challenger, "challenger")
    finding = {"sequential_test": {"passed": True, "finding": "better"}}
    StoreModels(store).ask(Switch("promote", challenger, champion, "automatic", finding))
    assert store.resolve("champion").version == challenger
    assert store.resolve("previous").version == champion
    assert store.target("challenger") is None
    (switch,) = [line for line in store.history() if line["alias"] == "champion" and line["to"] == challenger]
    assert switch["evidence"]["sequential_test"] == finding["sequential_test"]
    assert switch["evidence"]["champion"]["passed"]


def test_a_rollback_is_recorded_with_its_evidence(store: ModelStore) -> None:
    """The predecessor is the champion again, and the history says why."""
    first, second, _ = store.versions()
    store.promote(second)
    finding = {"sequential_test": {"passed": True, "finding": "better"}}
    StoreModels(store).ask(Switch("rollback", first, second, "automatic", finding))
    assert store.resolve("champion").version == first
    assert [line for line in store.history() if line.get("evidence") == finding]


def test_a_decision_about_another_champion_does_nothing(store: ModelStore) -> None:
    """If a person has switched the champion meanwhile, the decision is void."""
    first, second, third = store.versions()
    store.promote(second)
    for action, version in (("promote", third), ("rollback", first)):
        with pytest.raises(ModelProblem, match="by now"):
            StoreModels(store).ask(Switch(action, version, first, "automatic", {}))  # type: ignore[arg-type]
    assert store.resolve("champion").version == second
