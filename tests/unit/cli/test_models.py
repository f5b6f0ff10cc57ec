"""``models challenge``."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.cli import main
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A store with two versions; the first is the champion."""
    store = ModelStore(tmp_path / "models", "purchase")
    trained = train(generate_students(2000, seed=1))
    store.promote(store.add(trained))
    store.add(trained)
    return store


def run(store: ModelStore, *words: str) -> int:
    """Run ``models`` and return the exit code."""
    try:
        main(["--set", f"model_store.path={store.folder.parent}", "models", *words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_challenger_comes_and_goes(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The alias is set and removed, each with a line in the history; the champion stays."""
    champion, other = store.versions()
    assert run(store, "challenge", other, "--reason", "new term") == 0
    assert store.resolve("challenger").version == other
    assert run(store, "challenge", "--stop") == 0
    assert store.target("challenger") is None
    assert run(store, "challenge", "--stop") == 0
    assert store.resolve("champion").version == champion
    assert run(store, "history") == 0
    output = capsys.readouterr().out
    assert f"challenger is {other}, compared with {champion}" in output
    assert f"{other} is no longer the challenger" in output
    assert "there is no challenger" in output
    assert f"challenger: {other} → none" in output


def test_the_champion_cannot_challenge_itself(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The champion, an unknown version, and a version together with --stop are refused."""
    champion, other = store.versions()
    for words in (("challenge", champion), ("challenge", other, "--stop"), ("challenge",)):
        assert run(store, *words) == 64
    assert run(store, "challenge", "unknown") == 78
    assert store.target("challenger") is None
    assert "name another version" in capsys.readouterr().err
