"""Read and switch the aliases of versions, and record the history.

An alias is a file with one JSON line: a version and the digest of its manifest. It is replaced
atomically, so readers need no lock. Writers hold the store's lock.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store import files
from model_store.errors import ModelStoreError
from model_store.manifest import Sha256

if TYPE_CHECKING:
    from pathlib import Path

Alias = Literal["champion", "challenger", "previous"]
ALIASES: Final[tuple[Alias, ...]] = ("champion", "challenger", "previous")

PLAIN_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
"""Matches a name that is a single path component and not a hidden file."""

_MAX_ALIAS_BYTES: Final = 4096
_MODE: Final = 0o644


class AliasTarget(BaseModel):
    """The target of an alias: a version and the digest of its manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[str, Field(pattern=f"^{PLAIN_NAME.pattern}$")]
    manifest_sha256: Sha256


class Aliases:
    """The aliases of one model.

    Args:
        model_folder: The folder ``<store>/<model>``.
    """

    def __init__(self, model_folder: Path) -> None:
        self._folder = model_folder / "aliases"
        self._history = model_folder / "history.jsonl"

    def read(self, alias: Alias) -> AliasTarget | None:
        """Return the target of an alias, or ``None`` if the alias is not set.

        Raises:
            ModelStoreError: The alias file is damaged.
        """
        path = self._folder / alias
        try:
            return AliasTarget.model_validate_json(files.read_regular(path, _MAX_ALIAS_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            reason = (error.strerror or error) if isinstance(error, OSError) else "it does not name a version"
            raise ModelStoreError(
                f"alias {path} cannot be read: {reason}; remove it and promote a version"
            ) from error

    def switch(
        self,
        alias: Alias,
        target: AliasTarget,
        *,
        reason: str,
        actor: str,
        evidence: dict[str, Any] | None = None,
    ) -> None:
        """Record a switch in the history, then switch the alias.

        This order leaves no switch unrecorded. After a crash in between, the history has one line
        that took no effect; the ``from`` of the next line shows it.

        Raises:
            OSError: The files cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        self._record(alias, self.read(alias), target, reason=reason, actor=actor, evidence=evidence)
        files.replace_file(self._folder / alias, f"{target.model_dump_json()}\n".encode(), _MODE)

    def remove(self, alias: Alias, *, reason: str, actor: str) -> str | None:
        """Record the removal of an alias in the history, then remove it; return its version, if any.

        Raises:
            OSError: The files cannot be changed.
        """
        old = self.read(alias)
        if old is None:
            return None
        self._record(alias, old, None, reason=reason, actor=actor)
        (self._folder / alias).unlink()
        files.sync_folder(self._folder)
        return old.version

    def _record(
        self,
        alias: Alias,
        old: AliasTarget | None,
        new: AliasTarget | None,
        *,
        reason: str,
        actor: str,
        evidence: dict[str, Any] | None = None,
    ) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "actor": actor,
            "alias": alias,
            "from": old.version if old else None,
            "to": new.version if new else None,
            "manifest_sha256": new.manifest_sha256 if new else None,
            "reason": reason,
        } | ({"evidence": evidence} if evidence else {})
        files.append_line(self._history, json.dumps(line, ensure_ascii=False).encode(), _MODE)

    def history(self) -> list[dict[str, Any]]:
        """Return all recorded switches, oldest first; skip a line that a crash cut short."""
        try:
            lines = self._history.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [switch for line in lines if (switch := _parsed(line)) is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        switch = json.loads(line)
    except ValueError:
        return None
    return switch if isinstance(switch, dict) else None
