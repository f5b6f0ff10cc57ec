"""A version that another release of scikit-learn pickled: refused, migrated with a proof, and loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from model_store.errors import ModelStoreError
from model_store.store import ModelStore

pytestmark = pytest.mark.interop

REPOSITORY = Path(__file__).parents[2]
OTHER_RELEASE = "1.9.0"
"""Any release but the installed one."""

ADD = """
import sys
from pathlib import Path
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import assess

students = generate_students(4000, seed=1)
store = ModelStore(Path(sys.argv[1]), "purchase")
boosted = HistGradientBoostingClassifier(max_iter=30, random_state=0)
forest = RandomForestClassifier(20, min_samples_leaf=5, random_state=0)
for estimator in (boosted, forest, CalibratedClassifierCV(boosted, cv=2)):
    estimator.fit(students.inputs, students.purchased)
    print(store.add(assess(students, estimator, unseen=True)))
"""
LOAD = """
import sys
from pathlib import Path
from model_store.store import ModelStore

ModelStore(Path(sys.argv[1]), "purchase").load(sys.argv[2])
"""


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment with another release of scikit-learn; skipped where it cannot be made."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("needs uv")
    if metadata.version("scikit-learn") == OTHER_RELEASE:
        pytest.skip(f"needs another scikit-learn than {OTHER_RELEASE}")
    folder = tmp_path_factory.mktemp("other") / ".venv"
    needed = [f"scikit-learn=={OTHER_RELEASE}"] + [
        f"{name}=={metadata.version(name)}"
        for name in ("joblib", "numpy", "pycountry", "pydantic", "scipy", "threadpoolctl")
    ]
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *needed],
    ):
        done = subprocess.run([uv, *command], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            pytest.skip(f"needs scikit-learn {OTHER_RELEASE}: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin" / "python"


def _run(python: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own scripts
        [python, "-c", script, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_versions_of_another_release_are_migrated_with_a_proof(other_python: Path, tmp_path: Path) -> None:
    """Each is refused here, then migrated; the new one loads here, and the old environment refuses it."""
    added = _run(other_python, ADD, str(tmp_path))
    assert added.returncode == 0, added.stderr
    store = ModelStore(tmp_path, "purchase")
    versions = added.stdout.split()
    assert len(versions) == 3
    for version in versions:
        with pytest.raises(ModelStoreError, match=f"trained with scikit-learn {OTHER_RELEASE}"):
            store.load(version)
        migration = store.migrate(version)
        assert migration.leaves is not None
        assert migration.leaves > 100
        assert store.load(migration.version).manifest.provenance.parent == version
        assert _run(other_python, LOAD, str(tmp_path), version).returncode == 0
        refused = _run(other_python, LOAD, str(tmp_path), migration.version)
        assert f"but {OTHER_RELEASE} is installed" in refused.stderr
