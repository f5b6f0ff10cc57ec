"""A version's bytes to a model that may score: verify everything, then unpickle.

Unpickling runs code, so nothing is unpickled before its digest is known to be the manifest's, and
the bytes hashed are the bytes unpickled: each file is read once.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
from pydantic import ValidationError
from sklearn.exceptions import InconsistentVersionWarning

from model_store import self_test
from model_store.baseline import Baseline
from model_store.durable_files import read_regular
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES
from model_store.linear import engineered_names, estimator_class, scorer_of
from model_store.manifest import (
    BASELINE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    PAYLOAD_FILES,
    SELF_TEST_FILE,
    Manifest,
    digest,
    library_versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel

_MAX_MANIFEST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A verified model, ready to score.

    Attributes:
        version: its id in the store.
        manifest_sha256: digest of its manifest, which stands for all of its content.
        threshold: probability at or above which a purchase is predicted.
        baseline: what training data looked like.
    """

    version: str
    manifest_sha256: str
    threshold: float
    manifest: Manifest
    baseline: Baseline
    scorer: ProbabilityModel

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7), Fortran order."""
        return self.scorer.predict_probability(inputs)


def read_manifest(folder: Path, expected_sha256: str | None = None) -> tuple[Manifest, str]:
    """Read the manifest of a version's folder, and its digest.

    Raises:
        ModelStoreError: it is missing, no manifest, another version's, or not the expected one.
    """
    version, path = folder.name, folder / MANIFEST_FILE
    if folder.is_symlink():
        raise _refused(version, "its folder is a symbolic link")
    try:
        content = read_regular(path, _MAX_MANIFEST_BYTES)
    except OSError as error:
        raise _refused(version, f"{MANIFEST_FILE} cannot be read: {error.strerror or error}") from error
    sha256 = digest(content)
    if expected_sha256 not in {None, sha256}:
        raise _refused(version, f"{MANIFEST_FILE} is not the one that the alias was given")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _refused(version, f"{MANIFEST_FILE} is no manifest: {_first(error)}") from error
    if (manifest.model, manifest.version) != (folder.parent.parent.name, version):
        raise _refused(version, f"{MANIFEST_FILE} is of {manifest.model} {manifest.version}")
    if set(manifest.files) != set(PAYLOAD_FILES):
        raise _refused(version, f"{MANIFEST_FILE} names the files {', '.join(sorted(manifest.files))}")
    return manifest, sha256


def load_version(folder: Path, expected_sha256: str | None = None) -> LoadedModel:
    """Verify a version's folder and load the model in it.

    Args:
        folder: ``<store>/<model>/versions/<version>``.
        expected_sha256: digest its manifest must have, from an alias.

    Raises:
        ModelStoreError: the version fails a check; the message names the version, the file and why.
    """
    manifest, sha256 = read_manifest(folder, expected_sha256)
    version = manifest.version
    contents = {name: _read_verified(folder, manifest, name) for name in PAYLOAD_FILES}
    _check_libraries(manifest)
    baseline = _parsed_baseline(version, contents[BASELINE_FILE])
    estimator = _unpickled(version, contents[MODEL_FILE])
    _check_estimator(estimator, manifest)
    scorer = scorer_of(estimator)
    _check_scores(version, contents[SELF_TEST_FILE], scorer)
    return LoadedModel(
        version=version,
        manifest_sha256=sha256,
        threshold=manifest.threshold.value,
        manifest=manifest,
        baseline=baseline,
        scorer=scorer,
    )


def _read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    expected = manifest.files[name]
    try:
        content = read_regular(folder / name, expected.size)
    except OSError as error:
        raise _refused(folder.name, f"{name} cannot be read: {error.strerror or error}") from error
    if len(content) != expected.size or digest(content) != expected.sha256:
        raise _refused(folder.name, f"{name} is not the file that the manifest describes")
    return content


def _check_libraries(manifest: Manifest) -> None:
    """Refuse a pickle of other library versions: scikit-learn promises nothing across them."""
    here = library_versions()
    for name, exact in (("scikit-learn", True), ("numpy", False), ("joblib", True)):
        trained = manifest.libraries.get(name, "none")
        same = trained == here[name] if exact else trained.split(".")[:2] == here[name].split(".")[:2]
        if not same:
            reason = f"it was trained with {name} {trained}, and {here[name]} runs here; train it again"
            raise _refused(manifest.version, reason)


def _parsed_baseline(version: str, content: bytes) -> Baseline:
    try:
        return Baseline.model_validate_json(content)
    except ValidationError as error:
        raise _refused(version, f"{BASELINE_FILE} is no baseline: {_first(error)}") from error


def _unpickled(version: str, content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            return joblib.load(io.BytesIO(content))
        except Exception as error:
            raise _refused(version, f"{MODEL_FILE} cannot be unpickled: {_one_line(error)}") from error


def _check_estimator(estimator: Any, manifest: Manifest) -> None:
    if manifest.input_features != INPUT_NAMES:
        raise _refused(manifest.version, f"it wants the inputs {', '.join(manifest.input_features)}")
    if estimator_class(estimator) != manifest.estimator_class:
        raise _refused(manifest.version, f"{MODEL_FILE} holds a {estimator_class(estimator)}")
    if engineered_names(estimator) != manifest.engineered_features:
        raise _refused(manifest.version, "this software engineers other features than it was trained on")


def _check_scores(version: str, content: bytes, scorer: ProbabilityModel) -> None:
    try:
        difference = self_test.largest_difference(self_test.from_lines(content), scorer)
    except Exception as error:
        raise _refused(version, f"{SELF_TEST_FILE} cannot be scored: {_one_line(error)}") from error
    if not difference <= self_test.TOLERANCE:  # also if it is NaN
        raise _refused(version, f"{SELF_TEST_FILE} is scored {difference:.3g} off what was expected")


def _refused(version: str, reason: str) -> ModelStoreError:
    return ModelStoreError(f"model version {version} is refused: {reason}")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
