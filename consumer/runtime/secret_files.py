"""Stop a role when one of its secrets has changed, so that its supervisor restarts it with the new one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from consumer.errors import FatalError

log = structlog.get_logger(__name__)

_CHECK_EVERY_S: Final = 5.0


class SecretFiles:
    """Compares the content of files with what it was at the start.

    The Kafka client reads passwords and certificates only once, so a change needs a restart. A change counts
    when the new content is the same at two checks in a row, so that a file is not read half written. A file
    that is missing for a moment, while it is replaced, has not changed.

    Args:
        paths: The files.
        stop: Called once when a file has changed. It lets the role commit what is in flight and end.
        check_every_s: Seconds between checks.
    """

    def __init__(
        self, paths: Sequence[Path], stop: Callable[[], None], *, check_every_s: float = _CHECK_EVERY_S
    ) -> None:
        self._stop_role = stop
        self._check_every_s = check_every_s
        self._digests = {path: digest for path in paths if (digest := _digest(path)) is not None}
        self._seen: dict[Path, bytes] = {}
        self._changed: Path | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="secret-files", daemon=True)

    def start(self) -> None:
        """Start watching the files."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()

    def raise_if_changed(self) -> None:
        """Raise the error that ends the process if a change has stopped the role.

        Raises:
            FatalError: A file has changed.
        """
        if self._changed is not None:
            raise FatalError(f"{self._changed} has changed; start again to use its new content")

    def check(self) -> Path | None:
        """Return a file whose content has changed, and was the same at the previous check."""
        for path, before in self._digests.items():
            now = _digest(path)
            if now is None or now == before:
                self._seen.pop(path, None)
            elif self._seen.get(path) == now:
                return path
            else:
                self._seen[path] = now
        return None

    def _watch(self) -> None:
        while not self._stopping.wait(self._check_every_s):
            self._changed = self.check()
            if self._changed is not None:
                log.warning("a secret has changed, ending to be restarted with it", path=str(self._changed))
                self._stop_role()
                return


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
