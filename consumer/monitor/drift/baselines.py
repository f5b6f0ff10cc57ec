"""What each model version saw in training, from the model store. No model is unpickled for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from model_store.baseline import Baseline
from model_store.durable_files import read_regular
from model_store.errors import ModelStoreError
from model_store.manifest import BASELINE_FILE, Manifest, digest

if TYPE_CHECKING:
    from model_store.store import ModelStore

CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class ModelBaseline:
    """A model version as the monitor sees it.

    Attributes:
        version: its id.
        manifest: when and on what it was trained, and how good it was.
        baseline: its bins.
    """

    version: str
    manifest: Manifest = field(repr=False)
    baseline: Baseline = field(repr=False)


class Baselines:
    """Reads baselines from a store, verified against the manifest.

    Args:
        store: where versions live.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def champion_version(self) -> str | None:
        """Return the version that the champion alias names, or ``None`` if it cannot be told."""
        try:
            return self._store.resolve(CHAMPION).version
        except ModelStoreError:
            return None

    def of(self, version: str) -> ModelBaseline:
        """Return the baseline of a version.

        Raises:
            ModelStoreError: there is none, or it is not the one that the manifest describes.
        """
        manifest = self._store.manifest(version)
        expected = manifest.files[BASELINE_FILE]
        path = self._store.folder / "versions" / version / BASELINE_FILE
        try:
            content = read_regular(path, expected.size)
        except OSError as error:
            raise ModelStoreError(f"{path} cannot be read: {error.strerror or error}") from error
        if digest(content) != expected.sha256:
            raise ModelStoreError(f"{path} is not the file that the manifest describes; train again")
        try:
            return ModelBaseline(version, manifest, Baseline.model_validate_json(content))
        except ValidationError as error:
            raise ModelStoreError(f"{path} is no baseline; train again") from error
