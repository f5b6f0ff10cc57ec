"""What a crash, a full disk or a rival process leaves behind in a store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import joblib
import pytest

from model_store import files
from model_store.errors import ModelStoreError
from model_store.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

    from model_store.training import TrainedModel


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the product catches it."""


def _kill(*_: Any, **__: Any) -> None:
    raise Killed


def test_unwritable_store_is_one_line(store: ModelStore, trained: TrainedModel) -> None:
    """A store that is a file, or cannot be written, is named with the reason."""
    store.folder.parent.write_text("a file stands here")
    with pytest.raises(ModelStoreError, match=r"cannot add a version to .*purchase: Not a directory"):
        store.add(trained)


def test_failed_switch_leaves_the_alias_whole(
    store: ModelStore, champion: str, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the rename is refused, the error says so, and the champion stays the same."""
    second = store.add(trained)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(store.folder))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(ModelStoreError, match=r"cannot switch champion in .*: No space left on device"):
            store.promote(second)
    assert store.load("champion").version == champion
    store.promote(second)
    assert store.load("champion").version == second


@pytest.mark.parametrize("step", ["append_line", "replace_file", "write_all", "_fill", "sync_folder"])
@pytest.mark.parametrize("call", [1, 2])
def test_killed_promotion_leaves_old_or_new(
    store: ModelStore,
    champion: str,
    trained: TrainedModel,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
) -> None:
    """Killed at any step, a promotion leaves the old champion or the new one, and can be repeated."""
    second = store.add(trained)
    original, calls = getattr(files, step), 0

    def killing(*args: Any, **keywords: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        original(*args, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(files, step, killing)
        with pytest.raises(Killed):
            store.promote(second)
    assert store.load("champion").version in {champion, second}
    store.promote(second)
    assert store.load("champion").version == second
    assert store.rollback().version == champion


def test_killed_add_shows_no_half_version(
    store: ModelStore, champion: str, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its folder is renamed, a version does not exist, and the next one is whole."""
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_folder", _kill)
        with pytest.raises(Killed):
            store.add(trained)
    assert store.versions() == [champion]
    second = store.add(trained)
    assert store.versions() == [champion, second]
    assert store.verify(second).version == second


def test_torn_history_line_does_not_swallow_the_next(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """A line that a crash cut short stays alone on its line; later switches are readable."""
    with (store.folder / "history.jsonl").open("ab") as history:
        history.write(b'{"at": "2026-')
    second = store.add(trained)
    store.promote(second)
    assert [switch["to"] for switch in store.history()] == [champion, champion, second]


def test_readers_never_see_a_broken_alias(store: ModelStore, champion: str, trained: TrainedModel) -> None:
    """While two threads switch the champion back and forth, every read finds a complete alias."""
    second = store.add(trained)
    done = threading.Event()

    def look() -> set[str]:
        seen = set()
        while not done.is_set():
            seen.add(store.resolve("champion").version)
        return seen

    def switch() -> None:
        for version in (second, champion) * 4:
            store.promote(version)

    with ThreadPoolExecutor(3) as pool:
        looking = pool.submit(look)
        switching = [pool.submit(switch) for _ in range(2)]
        wait(switching)
        done.set()
        for switched in switching:
            switched.result()
        assert looking.result() <= {champion, second}


def test_rival_processes_leave_a_whole_store(
    store: ModelStore, champion: str, trained: TrainedModel, tmp_path: Path
) -> None:
    """Two processes that add and promote at once lose no version and no line of history."""
    joblib.dump(trained, tmp_path / "trained.joblib")
    program = (
        "import sys, joblib, pathlib\n"
        "from model_store.store import ModelStore\n"
        "store = ModelStore(pathlib.Path(sys.argv[1]), 'purchase')\n"
        "trained = joblib.load(sys.argv[2])\n"
        "for _ in range(5): store.promote(store.add(trained), actor=sys.argv[3])\n"
    )
    rivals = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [
                sys.executable,
                "-c",
                program,
                str(store.folder.parent),
                str(tmp_path / "trained.joblib"),
                actor,
            ]
        )
        for actor in ("ann", "bob")
    ]
    assert [rival.wait(180) for rival in rivals] == [0, 0]
    assert len(store.versions()) == 11
    switches = [switch for switch in store.history() if switch["alias"] == "champion"]
    assert {switch["to"] for switch in switches} == set(store.versions())
    assert [switch["from"] for switch in switches[1:]] == [switch["to"] for switch in switches[:-1]]
    assert store.load("champion").version == switches[-1]["to"]
    assert store.resolve("previous").version == switches[-2]["to"]
    assert champion == switches[0]["to"]
