"""Load the champion, and reload it when the alias changes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from consumer.errors import Condition, StartupError
from consumer.runtime.readiness import Readiness
from model_store.errors import ModelStoreError
from model_store.loading import LoadedModel
from model_store.store import ModelStore

log = structlog.get_logger(__name__)


class ModelReloader:
    """Holds the active model, and polls the champion alias in its own thread.

    Call :meth:`current` once per batch, so that one model scores the whole batch. A version that
    fails its verification is refused, and the active model stays.

    Args:
        store: The model store.
        poll_s: The seconds between two checks of the alias.
        readiness: Holds ``Condition.MODEL`` while no model is active.
        on_loaded: Called with every model that is activated.
        on_refused: Called once with the reason for every version that is refused.
    """

    def __init__(
        self,
        store: ModelStore,
        poll_s: float,
        readiness: Readiness,
        *,
        on_loaded: Callable[[LoadedModel], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._poll_s = poll_s
        self._readiness = readiness
        self._on_loaded = on_loaded
        self._on_refused = on_refused
        self._model: LoadedModel | None = None
        self._refused: str | None = None
        self._problem: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model", daemon=True)

    def current(self) -> LoadedModel:
        """Return the active model.

        Raises:
            StartupError: No model is active.
        """
        model = self._model
        if model is None:
            raise StartupError("Model is not loaded.")
        return model

    def version(self, version: str) -> LoadedModel:
        """Return the active model if it has this version; otherwise load the version.

        Raises:
            ModelStoreError: The version was refused or removed.
        """
        model = self._model
        return model if model is not None and model.version == version else self._store.load(version)

    def load(self) -> None:
        """Load and activate the champion.

        Raises:
            StartupError: There is no champion, or it was refused.
        """
        try:
            self._activate(self._store.load("champion"))
        except ModelStoreError as error:
            self._readiness.set(Condition.MODEL, str(error))
            raise StartupError(str(error)) from error

    def start(self) -> None:
        """Start the thread that polls the alias."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()

    def check(self) -> None:
        """Read the alias; if it names another version, load and activate it."""
        try:
            target = self._store.resolve("champion")
        except ModelStoreError as error:
            self._report(str(error))
            return
        active = self._model
        if active is not None and active.manifest_sha256 == target.manifest_sha256:
            self._refused = self._problem = None
            return
        if target.manifest_sha256 != self._refused:
            self._refused = target.manifest_sha256
            try:
                self._activate(self._store.load("champion"))
            except ModelStoreError as error:
                self._on_refused(str(error))
                self._report(str(error))

    def _report(self, problem: str) -> None:
        """Log a problem once, however often it occurs."""
        if self._model is None:
            self._readiness.set(Condition.MODEL, problem)  # logs it
        elif problem != self._problem:
            log.warning("champion unusable, the active model stays", reason=problem)
        self._problem = problem

    def _activate(self, model: LoadedModel) -> None:
        self._model = model
        self._refused = self._problem = None
        self._readiness.clear(Condition.MODEL)
        log.info("model activated", version=model.version, threshold=model.threshold)
        self._on_loaded(model)

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_s):
            self.check()
