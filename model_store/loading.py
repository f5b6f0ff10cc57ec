"""Load a version: verify its files, then unpickle the model, then verify the model.

Unpickling runs code, so the pickle's digest must match the manifest first. Each file is read once:
the bytes that are hashed are the bytes that are unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from pydantic import ValidationError

from model_store import self_test
from model_store.baseline import Baseline
from model_store.errors import ModelStoreError
from model_store.files import read_regular
from model_store.inputs import INPUT_NAMES
from model_store.linear import LinearModel
from model_store.manifest import (
    BASELINE_FILE,
    LINEAR_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIONAL_FILES,
    REQUIRED_FILES,
    SELF_TEST_FILE,
    Manifest,
    digest,
)
from model_store.signing import SIGNATURE_FILE, is_signed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel

_MAX_MANIFEST_BYTES = 1024 * 1024
_MAX_SIGNATURE_BYTES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A verified model, ready to score.

    Attributes:
        version: The version's id in the store.
        manifest_sha256: The digest of its manifest, which covers all of its content.
        threshold: The probability at or above which a purchase is predicted.
        manifest: The version's manifest.
        baseline: The histograms of its training data.
        probability_model: Predicts the probabilities.
    """

    version: str
    manifest_sha256: str
    threshold: float
    manifest: Manifest
    baseline: Baseline
    probability_model: ProbabilityModel

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7), Fortran order."""
        return self.probability_model.predict_probability(inputs)


def read_manifest(
    folder: Path, expected_sha256: str | None = None, public_key: Path | None = None
) -> tuple[Manifest, str]:
    """Return the manifest in a version's folder, and the manifest's digest.

    Args:
        folder: The folder ``<store>/<model>/versions/<version>``.
        expected_sha256: The digest that the manifest must have, if an alias holds one.
        public_key: The file with the key whose signature the manifest must have, if it must be signed.

    Raises:
        ModelStoreError: The manifest is missing, invalid, another version's, not the expected one, or
            not signed as it must be.
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
        raise _refused(version, f"{MANIFEST_FILE} has another digest than the alias")
    if public_key is not None:
        _check_signature(folder, content, public_key)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _refused(version, f"{MANIFEST_FILE} is not a valid manifest: {_first(error)}") from error
    if (manifest.model, manifest.version) != (folder.parent.parent.name, version):
        raise _refused(version, f"{MANIFEST_FILE} belongs to {manifest.model} {manifest.version}")
    names = set(manifest.files)
    if not REQUIRED_FILES <= names <= REQUIRED_FILES | OPTIONAL_FILES:
        raise _refused(version, f"{MANIFEST_FILE} lists the files {', '.join(sorted(manifest.files))}")
    return manifest, sha256


def load_version(
    folder: Path,
    expected_sha256: str | None = None,
    public_key: Path | None = None,
    *,
    unpickle: bool = False,
) -> LoadedModel:
    """Verify a version's folder and load its model.

    A linear model is loaded from its numbers: no code of the version runs, and other library
    versions do not matter, since the self-test proves the numbers.

    Args:
        folder: The folder ``<store>/<model>/versions/<version>``.
        expected_sha256: The digest that the manifest must have, if an alias holds one.
        public_key: The file with the key whose signature the manifest must have, if it must be signed.
        unpickle: Whether to load the pickle of a linear model too, and run the self-test on both.

    Raises:
        ModelStoreError: The version fails a check; the message names the version, the file and why.
    """
    manifest, sha256 = read_manifest(folder, expected_sha256, public_key)
    version = manifest.version
    contents = {name: read_verified(folder, manifest, name) for name in sorted(manifest.files)}
    if manifest.input_features != INPUT_NAMES:
        raise _refused(version, f"it expects the inputs {', '.join(manifest.input_features)}")
    if manifest.classes != (0, 1):
        raise _refused(version, f"it has the classes {', '.join(map(str, manifest.classes))}, not 0 and 1")
    baseline = _parsed_baseline(version, contents[BASELINE_FILE])
    linear = LINEAR_FILE in contents
    if unpickle or not linear:
        _check_libraries(manifest)
        model = _model_from_pickle(manifest, contents[MODEL_FILE])
        _check_scores(version, contents[SELF_TEST_FILE], model)
    if linear:
        model = _linear_model(version, contents[LINEAR_FILE])
        _check_scores(version, contents[SELF_TEST_FILE], model)
    return LoadedModel(
        version=version,
        manifest_sha256=sha256,
        threshold=manifest.threshold.value,
        manifest=manifest,
        baseline=baseline,
        probability_model=model,
    )


def read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Read a version's file, whose digest must be the manifest's."""
    expected = manifest.files[name]
    try:
        content = read_regular(folder / name, expected.size)
    except OSError as error:
        raise _refused(folder.name, f"{name} cannot be read: {error.strerror or error}") from error
    if len(content) != expected.size or digest(content) != expected.sha256:
        raise _refused(folder.name, f"{name} does not match the digest in the manifest")
    return content


def _check_signature(folder: Path, content: bytes, public_key: Path) -> None:
    """Refuse a manifest without the signature of a key."""
    version = folder.name
    try:
        signature = read_regular(folder / SIGNATURE_FILE, _MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        advice = f"sign it: purchase-stream models sign {version} --key FILE"
        raise _refused(
            version, f"it is not signed, and model_store.public_key_file is set; {advice}"
        ) from None
    except OSError as error:
        raise _refused(version, f"{SIGNATURE_FILE} cannot be read: {error.strerror or error}") from error
    try:
        signed = is_signed(content, signature, public_key)
    except ModelStoreError as error:
        raise _refused(version, str(error)) from error
    if not signed:
        raise _refused(version, f"{SIGNATURE_FILE} is not the signature of the key {public_key}")


def _check_libraries(manifest: Manifest) -> None:
    """Refuse a pickle from other library versions: scikit-learn supports only the version that wrote it.

    Pickles of NumPy and SciPy stay compatible within a minor release, those of Python always.
    """
    for name, recorded in sorted(manifest.libraries.items()):
        if name == "python" or (name == "scipy" and manifest.schema_version == 1):
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise _refused(
                manifest.version, f"it needs {name} {recorded}, which is not installed; install it"
            ) from None
        minor_only = name in {"numpy", "scipy"}
        same = recorded.split(".")[:2] == installed.split(".")[:2] if minor_only else recorded == installed
        if not same:
            raise _refused(
                manifest.version,
                f"it was trained with {name} {recorded}, but {installed} is installed; train it again, "
                f"or prove it: purchase-stream models migrate {manifest.version}",
            )


def _parsed_baseline(version: str, content: bytes) -> Baseline:
    try:
        return Baseline.model_validate_json(content)
    except ValidationError as error:
        raise _refused(version, f"{BASELINE_FILE} is not a valid baseline: {_first(error)}") from error


def _model_from_pickle(manifest: Manifest, content: bytes) -> ProbabilityModel:
    """Unpickle and check the estimator. Only this path needs pickle and scikit-learn."""
    from model_store import estimator as estimators  # noqa: PLC0415 - imports scikit-learn

    version = manifest.version
    estimator = estimators.unpickled(version, content)
    if estimators.estimator_class(estimator) != manifest.estimator_class:
        raise _refused(version, f"{MODEL_FILE} holds a {estimators.estimator_class(estimator)}")
    if estimators.engineered_names(estimator) != manifest.engineered_features:
        raise _refused(version, "it was trained with other engineered features than this release computes")
    try:
        estimators.check_classifier(estimator)
    except ModelStoreError as error:
        raise _refused(version, f"{MODEL_FILE}: {error}") from error
    return estimators.probability_model(estimator, manifest.input_format)


def _linear_model(version: str, content: bytes) -> LinearModel:
    try:
        return LinearModel.from_json(content)
    except ValidationError as error:
        raise _refused(version, f"{LINEAR_FILE} is not a linear model: {_first(error)}") from error
    except ValueError as error:
        raise _refused(version, f"{LINEAR_FILE}: {error}") from error


def _check_scores(version: str, content: bytes, model: ProbabilityModel) -> None:
    try:
        difference = float(self_test.differences(self_test.from_lines(content), model).max())
    except Exception as error:
        raise _refused(version, f"{SELF_TEST_FILE} cannot be scored: {_one_line(error)}") from error
    if not difference <= self_test.TOLERANCE:  # also if it is NaN
        raise _refused(version, f"a probability differs by {difference:.3g} from {SELF_TEST_FILE}")


def _refused(version: str, reason: str) -> ModelStoreError:
    return ModelStoreError(f"model version {version} is refused: {reason}")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
