"""The model that is on, and the switch to another one while running."""

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
    """Holds the champion and looks for another one in a thread of its own.

    A batch is scored with one model throughout: whoever scores asks for :meth:`current` once per
    batch. A version that fails its verification is refused, and the running one goes on.

    Args:
        store: where versions live.
        poll_s: seconds between looks at the alias.
        conditions: where a model that is missing altogether is noted.
        on_loaded: told of every model that is put on.
        on_refused: told of every version that was refused, once each.
    """

    def __init__(
        self,
        store: ModelStore,
        poll_s: float,
        conditions: Readiness,
        *,
        on_loaded: Callable[[LoadedModel], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._poll_s = poll_s
        self._conditions = conditions
        self._on_loaded = on_loaded
        self._on_refused = on_refused
        self._model: LoadedModel | None = None
        self._refused: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model", daemon=True)

    def current(self) -> LoadedModel:
        """Return the model that is on.

        Raises:
            StartupError: there is none.
        """
        model = self._model
        if model is None:
            raise StartupError("Model is not loaded.")
        return model

    def load(self) -> None:
        """Put the champion on now.

        Raises:
            StartupError: there is none, or it was refused.
        """
        try:
            self._put_on(self._store.load("champion"))
        except ModelStoreError as error:
            self._conditions.set(Condition.MODEL, str(error))
            raise StartupError(str(error)) from error

    def start(self) -> None:
        """Begin to watch the alias."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def look(self) -> None:
        """Look at the alias once, and switch if it names another version."""
        try:
            target = self._store.resolve("champion")
            running = self._model
            if running is not None and running.manifest_sha256 == target.manifest_sha256:
                self._refused = None
                return
            if target.manifest_sha256 != self._refused:
                self._refused = target.manifest_sha256
                self._put_on(self._store.load("champion"))
        except ModelStoreError as error:
            log.warning("model refused, the running one goes on", reason=str(error))
            self._on_refused(str(error))
            if self._model is None:
                self._conditions.set(Condition.MODEL, str(error))

    def _put_on(self, model: LoadedModel) -> None:
        self._model = model
        self._refused = None
        self._conditions.clear(Condition.MODEL)
        log.info("model on", version=model.version, threshold=model.threshold)
        self._on_loaded(model)

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_s):
            self.look()
