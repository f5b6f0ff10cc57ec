"""A version that fails any check is refused with its name, the file and the reason."""

from __future__ import annotations

import hashlib
import io
import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from model_store.errors import ModelStoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_store.store import ModelStore
    from model_store.training import TrainedModel


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_go_off, (str(self.path),))


def _go_off(path: str) -> None:
    with open(path, "w") as crater:  # noqa: PTH123 - must be picklable by plain arguments
        crater.write("boom")


def _folder(store: ModelStore, version: str) -> Path:
    return store.folder / "versions" / version


def _write(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def _change_manifest(store: ModelStore, version: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as someone would who can write the folder."""
    path = _folder(store, version) / "manifest.json"
    tree = json.loads(path.read_bytes())
    change(tree)
    _write(path, json.dumps(tree).encode())


def _replace_file(store: ModelStore, version: str, name: str, content: bytes) -> None:
    """Change a file and make the manifest agree with it."""
    _write(_folder(store, version) / name, content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    _change_manifest(store, version, lambda tree: tree["files"].update({name: entry}))


def _three_classes() -> GaussianNB:
    return GaussianNB().fit(np.random.default_rng(0).random((9, 7)), [0, 1, 2] * 3)


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["model.joblib", "baseline.json", "selftest.jsonl"])
def test_changed_byte_is_found(store: ModelStore, champion: str, name: str) -> None:
    """One changed byte in any file is enough."""
    path = _folder(store, champion) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _write(path, bytes(content))
    with pytest.raises(ModelStoreError, match=f"{champion} is refused: {name} does not match the digest"):
        store.load("champion")


@pytest.mark.parametrize("name", ["model.joblib", "baseline.json", "selftest.jsonl", "manifest.json"])
def test_missing_file_is_named(store: ModelStore, champion: str, name: str) -> None:
    """A version without one of its files is refused by that file's name."""
    (_folder(store, champion) / name).unlink()
    with pytest.raises(ModelStoreError, match=f"{champion} is refused: {name} cannot be read: No such file"):
        store.load(champion)


@pytest.mark.parametrize("change", [b"", b"more"])
def test_other_length_is_found(store: ModelStore, champion: str, change: bytes) -> None:
    """A file cut short or grown is refused."""
    path = _folder(store, champion) / "model.joblib"
    _write(path, path.read_bytes() + change if change else path.read_bytes()[:-1])
    with pytest.raises(ModelStoreError, match=r"model\.joblib"):
        store.load(champion)


def test_nothing_is_unpickled_before_its_digest_is_known(
    store: ModelStore, own_champion: str, tmp_path: Path
) -> None:
    """A pickle that the manifest does not vouch for never runs."""
    crater = tmp_path / "crater"
    _write(_folder(store, own_champion) / "model.joblib", _pickled(Bomb(crater)))
    with pytest.raises(ModelStoreError, match=r"model\.joblib"):
        store.load(own_champion)
    assert not crater.exists()


def test_swapped_manifest_does_not_pass_the_alias(
    store: ModelStore, own_champion: str, tmp_path: Path
) -> None:
    """Whoever rewrites file and manifest together still fails the digest that the alias was given."""
    crater = tmp_path / "crater"
    _replace_file(store, own_champion, "model.joblib", _pickled(Bomb(crater)))
    with pytest.raises(ModelStoreError, match=r"manifest\.json has another digest than the alias"):
        store.load("champion")
    assert not crater.exists()


def test_manifest_of_another_version_is_refused(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """A manifest copied from another version does not vouch for this one."""
    other = store.add(trained)
    _write(_folder(store, champion) / "manifest.json", (_folder(store, other) / "manifest.json").read_bytes())
    with pytest.raises(ModelStoreError, match=f"manifest.json belongs to purchase {other}"):
        store.load(champion)


@pytest.mark.parametrize(
    ("library", "version", "refused"),
    [
        ("scikit-learn", "1.0.2", True),
        ("joblib", "0.1", True),
        ("numpy", "1.26.4", True),
        ("numpy", "{major_minor}.99", False),
        ("python", "3.10.0", False),
        ("scipy", "1.0", True),  # recorded only if the pickle names it
        ("scipy", "{major_minor}.99", False),
    ],
)
def test_other_libraries_are_refused(
    store: ModelStore, own_champion: str, library: str, version: str, *, refused: bool
) -> None:
    """Another scikit-learn, joblib or NumPy minor is refused; patches of NumPy and Python are not."""
    here = platform.python_version() if library == "python" else metadata.version(library)
    version = version.format(major_minor=".".join(here.split(".")[:2]))
    _change_manifest(store, own_champion, lambda tree: tree["libraries"].update({library: version}))
    if not refused:
        assert store.load(own_champion).version == own_champion
        return
    with pytest.raises(ModelStoreError, match=f"trained with {library} {version}, but {here} is installed"):
        store.load(own_champion)


def test_symbolic_links_are_not_followed(store: ModelStore, champion: str, tmp_path: Path) -> None:
    """Neither a file nor a version's folder may be a symbolic link, even to the right bytes."""
    folder = _folder(store, champion)
    moved = (folder / "model.joblib").rename(tmp_path / "model.joblib")
    (folder / "model.joblib").symlink_to(moved)
    with pytest.raises(ModelStoreError, match=r"model\.joblib cannot be read"):
        store.load(champion)
    (folder / "model.joblib").unlink()
    moved.rename(folder / "model.joblib")
    folder.rename(tmp_path / champion)
    folder.symlink_to(tmp_path / champion)
    with pytest.raises(ModelStoreError, match="its folder is a symbolic link"):
        store.load(champion)


def test_half_written_version_is_refused(store: ModelStore, champion: str) -> None:
    """A folder that someone copied half is not loaded and not promoted."""
    half = _folder(store, "20260101T000000Z-00000000")
    half.mkdir()
    (half / "model.joblib").write_bytes(b"half")
    with pytest.raises(ModelStoreError, match=f"{half.name} is refused: manifest.json cannot be read"):
        store.promote(half.name)
    assert store.load("champion").version == champion


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(schema_version=3),
        lambda tree: tree.update(surprise=1),
        lambda tree: tree.pop("threshold"),
        lambda tree: tree["threshold"].update(value=1.5),
        lambda tree: tree["engagement_weights"].update(minutes_watched=-1),
        lambda tree: tree["files"].pop("selftest.jsonl"),
    ],
)
def test_senseless_manifest_is_refused(
    store: ModelStore, champion: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """A manifest with unknown, missing or impossible entries is refused on one line."""
    _change_manifest(store, champion, change)
    with pytest.raises(ModelStoreError, match=r"manifest\.json") as caught:
        store.load(champion)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree["input_features"].reverse(), "expects the inputs minutes_spent_on_exams"),
        (lambda tree: tree.update(engineered_features=["x"]), "other engineered features"),
        (lambda tree: tree.update(estimator_class="x.Y"), "model.joblib holds a sklearn.naive_bayes"),
    ],
)
def test_other_features_are_refused(
    store: ModelStore, own_champion: str, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """A model of other inputs, features or kind than its manifest says is refused."""
    _change_manifest(store, own_champion, change)
    with pytest.raises(ModelStoreError, match=reason):
        store.load(own_champion)


def test_other_scores_are_refused(store: ModelStore, champion: str) -> None:
    """A model whose probabilities are off by more than 1e-9 fails its self-test."""
    path = _folder(store, champion) / "selftest.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    row = json.loads(first)
    row["expected_probability"] += 2e-9
    _replace_file(store, champion, "selftest.jsonl", json.dumps(row).encode() + b"\n" + b"".join(others))
    with pytest.raises(ModelStoreError, match=r"differs by 2e-09 from selftest.jsonl"):
        store.load(champion)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.joblib", b"no pickle", "model.joblib cannot be unpickled"),
        ("model.joblib", _pickled({"not": "a model"}), "model.joblib holds a builtins.dict"),
        ("model.joblib", _pickled(_three_classes()), "GaussianNB has the classes 0, 1, 2; they must be 0"),
        ("baseline.json", b"{}", "baseline.json is not a valid baseline"),
        ("selftest.jsonl", b"", "selftest.jsonl cannot be scored: ValueError: it holds no rows"),
        ("selftest.jsonl", b"{}\n", "selftest.jsonl cannot be scored"),
    ],
)
def test_unusable_content_is_refused(
    store: ModelStore, own_champion: str, name: str, content: bytes, reason: str
) -> None:
    """Content that no trainer would have written is refused on one line, digests right or not."""
    _replace_file(store, own_champion, name, content)
    with pytest.raises(ModelStoreError, match=reason) as caught:
        store.load(own_champion)
    assert "\n" not in str(caught.value)


def _to_schema_1(store: ModelStore, version: str) -> None:
    """Rewrite a version as the first release wrote it: fewer fields, and SciPy among the libraries."""
    folder = _folder(store, version)
    for name in ("linear.json", "evaluation.json"):
        (folder / name).unlink(missing_ok=True)

    def change(tree: dict[str, Any]) -> None:
        for name in ("input_format", "batch_invariant", "cost", "provenance"):
            del tree[name]
        for name in ("cross_validated", "held_out"):
            del tree["metrics"][name]["intervals"]
        del tree["threshold"]["min_precision"]
        tree["files"] = {n: f for n, f in tree["files"].items() if (folder / n).exists()}
        tree["libraries"]["scipy"] = "0.0.1"
        tree["schema_version"] = 1

    _change_manifest(store, version, change)


def test_version_of_the_first_release_is_loaded(store: ModelStore, trained: TrainedModel) -> None:
    """Its pickle is loaded, it can be promoted, and a migration stores its numbers."""
    version = store.add(trained)
    rows = np.asfortranarray(np.arange(70.0).reshape(10, 7))
    expected = store.load(version).predict_probability(rows)
    _to_schema_1(store, version)
    assert store.promote(version).target.version == version
    model = store.load()
    assert model.manifest.schema_version == 1
    assert np.array_equal(model.predict_probability(rows), expected)
    migrated = store.manifest(store.migrate(version).version)
    assert (migrated.schema_version, "linear.json" in migrated.files) == (2, True)
