"""The training baseline of each model version, read from the model store without unpickling a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from model_store.baseline import Baseline
from model_store.errors import ModelStoreError
from model_store.files import read_regular
from model_store.manifest import BASELINE_FILE, Manifest, digest

if TYPE_CHECKING:
    from model_store.store import ModelStore

CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class ModelBaseline:
    """A model version, without its model.

    Attributes:
        version: The version id.
        manifest: When and on what data it was trained, and its quality.
        baseline: The bins of its training data.
    """

    version: str
    manifest: Manifest = field(repr=False)
    baseline: Baseline = field(repr=False)


class Baselines:
    """Reads baselines from a model store and verifies them against the manifest."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def champion_version(self) -> str | None:
        """Return the version that the champion alias names, or ``None`` if there is none."""
        try:
            return self._store.resolve(CHAMPION).version
        except ModelStoreError:
            return None

    def of(self, version: str) -> ModelBaseline:
        """Return the baseline of a version.

        Raises:
            ModelStoreError: There is no such version, or its baseline does not match the manifest.
        """
        manifest = self._store.manifest(version)
        expected = manifest.files[BASELINE_FILE]
        path = self._store.folder / "versions" / version / BASELINE_FILE
        try:
            content = read_regular(path, expected.size)
        except OSError as error:
            raise ModelStoreError(f"{path} cannot be read: {error.strerror or error}") from error
        if digest(content) != expected.sha256:
            raise ModelStoreError(f"{path} does not match the manifest; train again")
        try:
            return ModelBaseline(version, manifest, Baseline.model_validate_json(content))
        except ValidationError as error:
            raise ModelStoreError(f"{path} is not a baseline; train again") from error
